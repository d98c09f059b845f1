"""Logging of pools and of code that sends over them.

A logging handler that sends its records over a pool also gets the records about that pool. If
sending fails, the pool logs the failure, the handler tries to send that record, and so on. To end
this loop, a record is dropped if its thread is already inside `log`.
"""

from __future__ import annotations

import logging
import threading

_log = logging.getLogger("smtpconn.pool")


class _Guard(threading.local):
    is_logging = False


_guard = _Guard()


def log(level: int, text: str, *args: object, exc_info: bool = False, name: str = "") -> None:
    """Log a record, unless this thread is already inside this function.

    Must not be called under a lock, because handlers are other code.

    Args:
        level: as `logging.Logger.log` takes it, as ``text``, ``args`` and ``exc_info``.
        name: the logger; "" for ``smtpconn.pool``.
    """
    logger = logging.getLogger(name) if name else _log
    if _guard.is_logging or not logger.isEnabledFor(level):
        return
    _guard.is_logging = True
    try:
        logger.log(level, text, *args, exc_info=exc_info, stacklevel=2)
    finally:
        _guard.is_logging = False
