"""The recipe for Huey in docs/workers.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huey.exceptions import TaskException

from smtpconn import RetryableError, get_pool
from smtpconn.testing import SmtpServer

PAGE = Path(__file__).parent.parent.parent / "docs" / "workers.md"


def recipe(url: str) -> dict[str, Any]:
    """What the block of the page defines, for this server."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "huey" in each]
    names: dict[str, Any] = {"RetryableError": RetryableError, "get_pool": get_pool, "URL": url}
    exec(block, names)
    return names


@pytest.mark.parametrize(
    ("step", "fault", "is_tried_again"),
    [
        ("RCPT", {"reply": "450 4.2.0 greylisted"}, True),
        ("RCPT", {"reply": "550 5.1.1 no"}, False),
        ("CONTENT", {"close": True}, False),
    ],
)
def test_what_is_tried_again(step: str, fault: dict[str, Any], is_tried_again: bool) -> None:
    """Only what is safe to send again is scheduled once more."""
    with SmtpServer() as smtp:
        smtp.fault(step, times=None, **fault)
        names = recipe(smtp.url)
        result = names["task"]("you@example.net", "Subject: hi\r\n\r\n")
        with pytest.raises(TaskException):
            result.get()
        assert len(names["huey"].scheduled()) == is_tried_again
        get_pool(smtp.url, max_size=1).close()
        assert smtp.messages == []


def test_what_is_delivered() -> None:
    """It is sent once, and nothing is scheduled."""
    with SmtpServer() as smtp:
        names = recipe(smtp.url)
        names["task"]("you@example.net", "Subject: hi\r\n\r\n")
        assert names["huey"].scheduled() == []
        get_pool(smtp.url, max_size=1).close()
        assert len(smtp.messages) == 1
