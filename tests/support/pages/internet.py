"""Embedded servers in place of the hosts that pages name.

A page that connects to ``smtp.example.com`` gets a server on this machine that has a certificate
for that name, and the kind of TLS that is usual on the port. Names that are not reserved for
examples do not resolve, so that no page connects to the internet. UNIX sockets are served at every
path that a page uses.

Every user's password is "password", and every token is valid except "expired".
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from unittest import mock

import certifi
import trustme

from smtpconn.testing import ReceivedMessage, SmtpServer

_PROVIDERS = ("smtp.gmail.com", "smtp-relay.gmail.com", "smtp.office365.com")
_EXAMPLES = ("example.com", "example.net", "example.org")
_LOCAL = ("localhost", "127.0.0.1")
_SERVED_HERE = (24, 25, 465, 587)

_getaddrinfo, _connect, _connect_ex = (
    socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex,
)  # fmt: skip


class Everybody(Mapping[str, str]):
    """A mapping in which every user exists."""

    def __getitem__(self, user: str) -> str:
        return "password"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1


def bearer() -> Generator[bytes, bytes, str | None]:
    """XOAUTH2 and OAUTHBEARER: the exchange returns the user if the token is valid."""
    response = (yield b"").decode()
    words = response.replace(",", "\1").split("\1")
    token = next(word for word in words if word.startswith("auth=Bearer "))
    user = next((w.partition("=")[2] for w in words if w.startswith(("user=", "a="))), "somebody")
    return None if token == "auth=Bearer expired" else user


class Internet:
    """A context manager in whose block names resolve to servers of this process.

    Attributes:
        ca_file: the authority that signed every server's certificate; trusted by default.
    """

    def __init__(self) -> None:
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._directory = tempfile.TemporaryDirectory(prefix="smtpconn-pages-")
        self.ca_file = str(Path(self._directory.name) / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca_file)
        self._servers: dict[tuple[str, int], SmtpServer] = {}
        self._lock = threading.Lock()
        self._patches = contextlib.ExitStack()

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that any server received since the last `clear`."""
        with self._lock:
            return [message for server in self._servers.values() for message in server.messages]

    @property
    def subjects(self) -> list[str]:
        """The subjects of these messages, sorted."""
        lines = [line for m in self.messages for line in m.content.splitlines()]
        return sorted(li[9:].decode() for li in lines if li.lower().startswith(b"subject: "))

    def server(self, host: str, port: int = 0) -> SmtpServer:
        """The server at a host's port, or at the path of a UNIX socket."""
        with self._lock:
            if (host, port) not in self._servers:
                self._servers[host, port] = self._made(host, port).start()
            return self._servers[host, port]

    def clear(self) -> None:
        """Remove messages, ended connections and faults of all servers."""
        with self._lock:
            for server in self._servers.values():
                server.clear()

    def __enter__(self) -> Self:
        net = self

        def connect(self: socket.socket, address: Any) -> None:
            return _connect(self, net._real_path(self, address))

        def connect_ex(self: socket.socket, address: Any) -> int:
            return _connect_ex(self, net._real_path(self, address))

        for patch in (
            mock.patch.dict(os.environ, {"SSL_CERT_FILE": self.ca_file}),
            mock.patch.object(certifi, "where", return_value=self.ca_file),
            mock.patch.object(socket, "getaddrinfo", self._resolve),
            mock.patch.object(socket.socket, "connect", connect),
            mock.patch.object(socket.socket, "connect_ex", connect_ex),
        ):
            self._patches.enter_context(patch)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._patches.close()
        for server in self._servers.values():
            server.stop()
        self._directory.cleanup()

    def _resolve(self, host: Any, port: Any, *args: Any, **more: Any) -> Any:
        name, number = str(host).rstrip(".").lower(), int(port or 0)
        is_example = name in _PROVIDERS or name.endswith(_EXAMPLES)
        if is_example or (name in _LOCAL and number in _SERVED_HERE):
            server = self.server(name, number)
            return _getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        if name not in _LOCAL:
            raise socket.gaierror(socket.EAI_NONAME, f"{name} is not for examples")
        return _getaddrinfo(host, port, *args, **more)

    def _real_path(self, sock: socket.socket, address: Any) -> Any:
        if sock.family == socket.AF_UNIX and not os.path.exists(address):
            self.server(address)
            return self._path(address)
        return address

    def _path(self, path: str) -> str:
        return str(Path(self._directory.name) / path.strip("/").replace("/", "-"))

    def _made(self, host: str, port: int) -> SmtpServer:
        if host.startswith("/"):
            return SmtpServer(protocol="LMTP", unix_path=self._path(host), hostname="lmtp")
        mechanisms = ("XOAUTH2",) if "office365" in host else ("XOAUTH2", "OAUTHBEARER")
        return SmtpServer(
            hostname=host,
            protocol="LMTP" if port == 24 else "SMTP",
            users=Everybody(),
            sasl=dict.fromkeys(mechanisms, bearer) if host in _PROVIDERS else None,
            tls_context=self._tls(host) if port in (465, 587) else None,
            implicit_tls=port == 465,
            require_auth=port in (465, 587),
        )

    def _tls(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host, key_type=trustme.KeyType.ECDSA).configure_cert(context)
        return context
