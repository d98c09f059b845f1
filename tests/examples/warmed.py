"""examples/gunicorn_app.py whose master has a connection already when it forks."""

from __future__ import annotations

import logging

from examples.gunicorn_app import application, pool

logging.basicConfig()
pool.warm(1)

__all__ = ["application"]
