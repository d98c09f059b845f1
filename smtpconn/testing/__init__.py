"""An SMTP server for tests: `SmtpServer`, in a thread, scriptable, recording everything.

It drives smtpconn's own tests and the quick start, and is there for tests of your mail code: with
pytest, by the fixture ``smtp_server`` (see ``docs/testing.md``), which ``pytest_smtpconn.py`` has.
Nothing of it is used by the client and it uses nothing of the client, so that it is an independent
witness:

Modules::

    server    SmtpServer: listening, threads, records, waiting for things to happen
    session   one connection's dialogue, by the RFCs
    link      the server's end of one connection: lines in, replies out, TLS
    faults    what goes wrong on demand
    records   what was received
    authority certificates for servers with TLS
"""

from smtpconn.testing.records import ReceivedMessage, ServerConnection
from smtpconn.testing.server import SmtpServer

__all__ = ["ReceivedMessage", "ServerConnection", "SmtpServer"]
