"""Mail an application's errors to its administrator, without the application waiting for it.

The server is the embedded one of `smtpconn.testing`; for a real one only "mailhost" changes, say to
"smtp+starttls://user:password@smtp.example.com".
"""

from __future__ import annotations

import logging
import logging.config
import time

from smtpconn.testing import SmtpServer

log = logging.getLogger("shop")


def configure(url: str) -> None:
    """Set up logging: errors go by mail, at most ten mails an hour."""
    mail = {
        "class": "smtpconn.contrib.logging.PooledSmtpHandler",
        "level": "ERROR",
        "formatter": "full",
        "mailhost": url,
        "fromaddr": "The shop <shop@example.com>",
        "toaddrs": ["admin@example.com"],
        "subject": "The shop has a problem",
        "max_records": 50,
        "max_mails": 10,
        "per": 3600,
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"full": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
            "handlers": {"mail": mail},
            "root": {"level": "INFO", "handlers": ["mail"]},
        }
    )


def main() -> None:
    """Have an error come a hundred times, and see what is mailed."""
    with SmtpServer() as server:
        configure(server.url)
        begun = time.perf_counter()
        for order in range(100):
            log.error("order %d failed", order)
        seconds = time.perf_counter() - begun
        logging.shutdown()  # at the end of a process Python does this by itself

        print(f"logging 100 errors took the application {seconds * 1000:.0f} ms")
        for message in server.messages:
            print(f"  {message.email['Subject']}: {len(message.content)} bytes")
        print(f"over {len(server.connections)} connection")


if __name__ == "__main__":
    main()
