"""`SmtpServer`: an SMTP server for tests, in threads, that records everything and fails on demand.

Use it for tests of code that sends mail; with pytest by the fixture ``smtp_server`` (see
``docs/testing.md``). smtpconn's own tests use it, too. It shares no code with the client, so that a
mistake in one does not hide the same mistake in the other.

Modules::

    server        SmtpServer: listening, threads, records, waiting
    session       the protocol on one connection
    connection    bytes and TLS of one connection
    faults        errors that the server makes on demand
    records       received messages and connections
    certificates  certificates for servers with TLS
"""

from smtpconn.testing.records import ReceivedMessage, ServerConnection
from smtpconn.testing.server import SmtpServer

__all__ = ["ReceivedMessage", "ServerConnection", "SmtpServer"]
