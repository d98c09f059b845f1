"""gunicorn for examples/gunicorn_app.py: loaded once, then forked.

``worker_exit`` is a courtesy: without it the server finds a worker's connections closed, which does
no harm. Nothing is needed in ``post_fork``.
"""

bind = "127.0.0.1:8000"
preload_app = True
workers = 3
threads = 4


def worker_exit(server: object, worker: object) -> None:
    """Say QUIT on the connections of a worker that ends."""
    from examples.gunicorn_app import pool

    pool.close(timeout=1)
