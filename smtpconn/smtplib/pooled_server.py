"""`PooledServer`: the server configuration with which a pool makes connections for a `Key`."""

from __future__ import annotations

import ssl
from dataclasses import KW_ONLY, dataclass, field

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import Phase, SmtpError
from smtpconn.net.deadline import Deadline
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.smtplib.connection import CommandConnection
from smtpconn.smtplib.pool_key import Key
from smtpconn.smtplib.server import Server


@dataclass(frozen=True, slots=True)
class PooledServer(ServerConfig):
    """Makes the connections of the pool for a `Key`.

    Attributes:
        server: the remembered replies and the parked connection.
        key: the settings of the connections.
    """

    _: KW_ONLY
    server: Server = field(repr=False, compare=False)
    key: Key = field(repr=False)

    def connect(
        self,
        timeout: float | Deadline | None = None,
        *,
        tls_session: ssl.SSLSession | None = None,
        quirks: ServerQuirks | None = None,
    ) -> CommandConnection:
        """Connect, or take the parked connection, and log in; as `ServerConfig.connect`."""
        deadline = Deadline.of(timeout, self.timeout)
        try:
            connection = self._connect_ready(deadline, tls_session)
        except SmtpError as error:
            # Try again without the TLS session: resuming it may have failed the handshake.
            if tls_session is None or error.phase is not Phase.TLS or not deadline.remaining():
                self.server.forget_hellos()
                raise
            connection = self._connect_ready(deadline, None)
        try:
            if quirks is not None:
                connection._share(quirks)
            if self.credentials is not None:
                connection.log_in(self.credentials, deadline)
        except Exception:
            connection.quit_nowait()
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_ready(
        self, deadline: Deadline, tls_session: ssl.SSLSession | None
    ) -> CommandConnection:
        server, key = self.server, self.key
        return server.connect(key.context, server.verb, key.ehlo_name, deadline, tls_session)
