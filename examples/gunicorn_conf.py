"""gunicorn for examples/gunicorn_app.py: loaded once, then forked.

``worker_exit`` is optional: it sends QUIT; without it the connections are closed without one.
``post_fork`` needs no hook.
"""

bind = "127.0.0.1:8000"
preload_app = True
workers = 3
threads = 4


def worker_exit(server: object, worker: object) -> None:
    """Say QUIT on the connections of a worker that ends."""
    from examples.gunicorn_app import pool

    pool.close(timeout=1)
