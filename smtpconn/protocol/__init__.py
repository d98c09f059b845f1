"""The dialog with a server, without a socket and without a clock.

`exchange` defines the actions of an exchange, and `reply_matcher` assigns each reply to the command
it answers. The exchanges are generators that read like the RFC: `handshake` (greeting, EHLO,
STARTTLS), `auth`, `transaction` (MAIL to the end of the content), `pipelined` (many of these in a
row), `envelope_probe`, `single_command` and `raw_command`. `mail_request` checks what a caller
wants to send and makes the envelope commands; `session` keeps the state of a session, and `quirks`
lists the known peculiarities of servers.

An exchange yields an action, usually a `CommandGroup`, and is resumed when every reply to it has
arrived. So the same generator works with PIPELINING (one group of n commands) and without
(n groups of one command), and tests run it by supplying replies. It does no I/O, does not block,
and does not read the clock.
"""
