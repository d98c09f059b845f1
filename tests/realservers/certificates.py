"""Certificates for a test session: a CA, a server and a client.

They are made by trustme in a few milliseconds and written as PEM files which every account can
read, keys included: daemons read them after they have dropped privileges, and there is nothing to
protect.
"""

import shutil
import ssl
import tempfile
from pathlib import Path
from typing import Self

import trustme

SERVER_NAMES = ("localhost", "mx.example.test", "127.0.0.1")
CLIENT_NAME = "client.example.test"


class Certificates:
    """PEM files in a directory of their own; a context manager which removes them at its end."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.directory = Path(tempfile.mkdtemp(prefix="smtpconn-certificates-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.ca_file = self._write("ca.pem", authority.cert_pem)
        server = authority.issue_cert(*SERVER_NAMES, common_name="mx.example.test")
        self.server_file = self._write("server.pem", *server.cert_chain_pems)
        self.server_key_file = self._write("server.key", server.private_key_pem)
        client = authority.issue_cert(CLIENT_NAME, common_name=CLIENT_NAME)
        self.client_file = self._write("client.pem", *client.cert_chain_pems)
        self.client_key_file = self._write("client.key", client.private_key_pem)

    def client_context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """A context which trusts the CA; with the client certificate to show, if wanted."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if with_certificate:
            context.load_cert_chain(self.client_file, self.client_key_file)
        return context

    def server_context(self) -> ssl.SSLContext:
        """A context for servers inside the test process."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file, self.server_key_file)
        return context

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o644)
        return path
