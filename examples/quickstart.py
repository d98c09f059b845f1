"""Send from several threads through one pool, to an SMTP server started right here.

Nothing but smtpconn and certifi is needed. The server is the embedded one of `smtpconn.testing`;
for a real one only the URL changes, say to "smtp+starttls://user:password@smtp.example.com".
"""

from __future__ import annotations

import threading

from smtpconn import ConnectionPool
from smtpconn.testing import SmtpServer

THREADS, EACH = 6, 5


def main() -> None:
    """Start a server, send to it from some threads, and tell what happened."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        url = f"smtp://app:s3cret@{server.host}:{server.port}"
        with ConnectionPool(url, max_size=3) as pool:

            def handle_requests(thread: int) -> None:
                for number in range(EACH):
                    message = f"Subject: hello {thread}.{number}\r\n\r\nFrom thread {thread}.\r\n"
                    pool.send("app@example.com", ["you@example.net"], message.encode())

            threads = [threading.Thread(target=handle_requests, args=(n,)) for n in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stats = pool.stats()

        messages = server.wait_for_messages(THREADS * EACH)
        print(f"{len(messages)} messages arrived:")
        for message in messages:
            subject = message.content.splitlines()[0].decode()
            print(f"  connection {message.connection}, logged in as {message.user}: {subject}")
        print(f"over {len(server.connections)} connections, by {THREADS} threads")
        print(f"the pool: {stats}")


if __name__ == "__main__":
    main()
