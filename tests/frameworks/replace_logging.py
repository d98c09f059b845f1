"""Run CPython's own test of `logging.handlers.SMTPHandler` with `PooledSmtpHandler` in its place.

Arguments: a folder, which is not looked into, and where the results go.
"""

from __future__ import annotations

import logging.handlers
import sys
import unittest
from pathlib import Path

from test import test_logging  # type: ignore[import-not-found]

from smtpconn.contrib.logging import PooledSmtpHandler
from tests.frameworks.recording import run_module_tests

logging.handlers.SMTPHandler = PooledSmtpHandler  # type: ignore[assignment,misc]
test_logging.SMTPHandlerTest.TIMEOUT = 20  # seconds; an hour would be no better
loader = unittest.defaultTestLoader
run_module_tests(loader.loadTestsFromTestCase(test_logging.SMTPHandlerTest), Path(sys.argv[2]))
