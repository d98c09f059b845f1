"""The dialog with a server, without a socket and without a clock.

`exchange` says what an exchange may ask for, and `reply_matcher` gives each reply to the command it
belongs to. The exchanges are generators that read like the RFC: `handshake` (greeting, EHLO,
STARTTLS), `auth`, `transaction` (MAIL to the end of the content), `pipelined` (many of these in a
row), `envelope_probe` and `single_command`. `mail_request` is what a caller wants sent, as
commands; `session` is what is known of the session, and `quirks` what is known of servers.

An exchange yields an action, usually a `CommandGroup`, and is resumed when every reply to it has
arrived. So the same script serves a server with PIPELINING (one group of n commands) and one
without (n groups of one command), and is tested by sending it replies. It does no I/O, does not
wait, and does not ask the time.
"""
