"""Run Django's own tests of its mail with smtpconn's backend in the place of its SMTP backend.

Arguments: the folder with Django's source distribution in ``source``, and where the results go.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import django
from django.conf import settings

folder, results = Path(sys.argv[1]), Path(sys.argv[2])
tests = folder / "source" / "tests"
sys.path.insert(0, str(tests))
os.chdir(tests)


def put_in_place() -> None:
    """Have the name of Django's backend mean smtpconn's."""
    from django.core.mail.backends import smtp

    from smtpconn.contrib.django import EmailBackend

    smtp.EmailBackend = EmailBackend


def main() -> None:
    """Run Django's own program for its tests, with a result that is written down."""
    from django.test import runner

    from tests.frameworks.recording import RecordingResult

    class Recording(RecordingResult):
        def stopTestRun(self) -> None:
            super().stopTestRun()
            self.write(results)

    runner.DiscoverRunner.get_resultclass = lambda self: Recording
    setup = django.setup

    def setup_and_replace(*args: object, **kwargs: object) -> None:
        setup(*args, **kwargs)
        put_in_place()

    django.setup = setup_and_replace
    sys.argv = ["runtests.py", "mail", "--parallel=1", "--verbosity=2"]
    runpy.run_path(str(tests / "runtests.py"), run_name="__main__")


assert not settings.configured
main()
