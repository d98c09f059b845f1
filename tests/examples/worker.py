"""The application of examples/celery_tasks.py for the tests: quick to notice, and with results.

Celery waits ten seconds before it believes that a process of its is dead, and an hour before what a
dead worker had is given to others.
"""

import os

from examples.celery_tasks import REDIS_URL, app

RESULTS = os.environ.get("RESULTS", "json")

app.conf.update(
    worker_lost_wait=0.2,
    broker_transport_options={
        "visibility_timeout": 2,
        "unacked_restore_interval": 0.2,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 1,
    },
    result_backend=REDIS_URL,
    result_serializer=RESULTS,
    result_accept_content=[RESULTS],
)
