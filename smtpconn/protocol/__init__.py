"""The dialogue with a server, without a socket and without a clock.

`group` says what an exchange may ask for, `pairing` gives each reply to the command it belongs
to, and the conversations are generators that read like the RFC: `opening` (greeting, EHLO,
STARTTLS), `auth`, `transaction` (MAIL to the end of the content), `streaming` (many of these in a
row) and `simple` (all the rest). `request` is what a caller wants sent, as commands; `verdict` is
what the replies to them come to.

An exchange yields an action, usually a `CommandGroup` of commands, and is resumed when every reply
to it has arrived; so the same script serves a server with PIPELINING (one group of n) and one
without (n batches of one), and is tested by sending it replies. It may not do I/O, wait, or ask the
time.
"""
