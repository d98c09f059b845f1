"""Run Flask-Mail's own tests with smtpconn's extension in the place of ``Mail``.

Arguments: the folder with Flask-Mail's source distribution in ``source``, and where the results go.

The tests are those of 0.9.1, the last one that has them in its source distribution, run with the
installed version. They were written for Python 2 as well; what they import for that is made here.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import flask_mail

import smtpconn.contrib.flask
from tests.frameworks.recording import run_module_tests

folder, results = Path(sys.argv[1]), Path(sys.argv[2])


class LazyString:
    """What speaklater makes: a text that is made when it is needed."""

    def __init__(self, make: Callable[..., str], *args: object) -> None:
        self._make, self._args = make, args

    def __str__(self) -> str:
        return self._make(*self._args)

    def __getattr__(self, name: str) -> object:
        return getattr(str(self), name)

    def __contains__(self, text: str) -> bool:
        return text in str(self)

    def __hash__(self) -> int:
        return hash(str(self))


speaklater = types.ModuleType("speaklater")
speaklater.make_lazy_string = LazyString  # type: ignore[attr-defined]
sys.modules |= {"mock": mock, "speaklater": speaklater}
flask_mail.PY3 = True
if "--theirs" not in sys.argv:
    flask_mail.Mail = smtpconn.contrib.flask.Mail  # type: ignore[assignment,misc]
    flask_mail.Connection = smtpconn.contrib.flask.Connection  # type: ignore[assignment,misc]

# What has another name since Python 3.12.
for name, new in (
    ("assertEquals", "assertEqual"),
    ("assertItemsEqual", "assertCountEqual"),
    ("assertRegexpMatches", "assertRegex"),
    ("assert_", "assertTrue"),
):
    if not hasattr(unittest.TestCase, name):
        setattr(unittest.TestCase, name, getattr(unittest.TestCase, new))

# By its path: its name is that of the tests of smtpconn.
specification = importlib.util.spec_from_file_location("theirs", folder / "source" / "tests.py")
assert specification is not None
assert specification.loader is not None
theirs = importlib.util.module_from_spec(specification)
sys.modules["theirs"] = theirs
specification.loader.exec_module(theirs)
run_module_tests(unittest.defaultTestLoader.loadTestsFromModule(theirs), results)
