"""examples/gunicorn_app.py whose master has a connection already when it forks."""

from __future__ import annotations

from examples.gunicorn_app import application, pool

pool.warm(1)

__all__ = ["application"]
