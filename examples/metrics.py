"""Metrics for Prometheus: how a pool stands, and how long things take.

Needs ``pip install 'smtpconn[prometheus]'``. The server is the embedded one of `smtpconn.testing`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from smtpconn import AllRecipientsFailedError, ConnectionPool
from smtpconn.contrib.prometheus import PoolCollector, PoolHistograms
from smtpconn.testing import SmtpServer


def main() -> None:
    """Send some messages, and print what Prometheus would read."""
    # An application takes prometheus_client.REGISTRY, which is what everything uses by default,
    # and prometheus_client.start_http_server(8000) to be read.
    registry = CollectorRegistry()
    with SmtpServer() as server:
        server.refuse_recipient("nobody@example.com")
        with ConnectionPool(server.url, name="mail", on_event=PoolHistograms(registry)) as pool:
            registry.register(PoolCollector([pool]))
            for recipient in ["jane@example.com"] * 9 + ["nobody@example.com"]:
                message = f"Subject: hello\r\nTo: {recipient}\r\n\r\nHello!\r\n".encode()
                try:
                    pool.send("shop@example.com", [recipient], message)
                except AllRecipientsFailedError as error:
                    print(f"not sent: {error.responses[0].code}")
            exposition = generate_latest(registry).decode()

        for line in exposition.splitlines():
            if not line.startswith("#") and "_bucket" not in line and "_created" not in line:
                print(line)
        print(f"{len(server.messages)} messages over {len(server.connections)} connection")


if __name__ == "__main__":
    main()
