"""Measurements beside the tests: figures of smtpconn and of its peers, from one run.

Machines are noisy, so what counts is the ratio of figures taken side by side, never a figure alone;
and nothing here is ever a test that fails because a machine was slow.

    python -m benchmarks.pool           the pool beside psycopg_pool and SQLAlchemy's QueuePool
    python -m benchmarks.chaos          threads against a server that kills, delays and restarts

Peers are measured if they are installed (the extra ``bench``).
"""
