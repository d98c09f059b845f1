"""`manage.py check`: what it says of settings, by each way to configure mail."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import checks
from django.test import override_settings

from smtpconn.contrib.django_checks import check_settings
from tests.support.django_mail import HAS_MAILERS, WAYS, as_settings

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How mail is configured."""
    chosen: str = request.param
    return chosen


def found(way: str, options: dict[str, Any], **more: Any) -> list[checks.CheckMessage]:
    """What the checks say."""
    more = {"DEFAULT_FROM_EMAIL": "me@example.com", "SERVER_EMAIL": "r@example.com"} | more
    with override_settings(**as_settings(way, {"host": "mx.example.com"} | options), **more):
        messages: list[checks.CheckMessage] = check_settings()
    return messages


def test_right_settings(way: str) -> None:
    """Nothing is said."""
    right = {"use_tls": True, "username": "app", "password": "s3cret", "pool": {"max_size": 5}}
    assert found(way, right) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"use_tls": True, "use_ssl": True}, "mutually exclusive|incompatible"),
        ({"max_size": 3}, "max_size belongs in 'pool'"),
        ({"pool": {"max_sise": 3}}, "unknown max_sise; there are .*max_size"),
        ({"pool": {"max_size": 0}}, "max_size"),
        ({"use_tls": True, "ssl_certfile": "/nowhere/client.pem"}, "/nowhere/client.pem|No such"),
        ({"host": ""}, "host|EMAIL_HOST"),
        ({"url": "http://mx.example.com", "host": None}, "smtp"),
    ],
)
def test_wrong_settings(way: str, options: dict[str, Any], text: str) -> None:
    """Each is one error, which names where it stands and never a password."""
    options = {"password": "s3cret", "username": "app"} | options
    (error,) = found(way, options)
    assert error.id == "smtpconn.E001"
    assert error.is_serious()
    assert re.search(text, error.msg)
    assert ("MAILERS['default']" if way == "mailers" else "EMAIL_* and SMTPCONN") in error.msg
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ({"max_size": 51}, "W001"),
        ({"max_size": "200"}, "W001"),
        ({"max_size": 2, "max_connecting": 3}, "W002"),
    ],
)
def test_limits_that_make_no_sense(way: str, limits: dict[str, Any], number: str) -> None:
    """More connections than servers take from one client; a part larger than the whole."""
    (warning,) = found(way, {"pool": limits})
    assert warning.id == f"smtpconn.{number}"
    assert not warning.is_serious()


@pytest.mark.parametrize("name", ["DEFAULT_FROM_EMAIL", "SERVER_EMAIL"])
def test_a_sender_without_a_domain(way: str, name: str) -> None:
    """The setting is named."""
    (warning,) = found(way, {}, **{name: "webmaster"})
    assert (warning.id, name in warning.msg) == ("smtpconn.W004", True)


def test_other_backends_are_not_looked_at() -> None:
    """Nor a backend that cannot be imported, which Django reports."""
    for backend in ("django.core.mail.backends.locmem.EmailBackend", "no.such.Backend"):
        with override_settings(EMAIL_BACKEND=backend, EMAIL_USE_TLS=True, EMAIL_USE_SSL=True):
            assert check_settings() == []


@pytest.mark.skipif(not HAS_MAILERS, reason="MAILERS came with Django 6.1")
def test_smtpconn_beside_mailers() -> None:
    """``SMTPCONN`` beside ``MAILERS`` is not used, and a check says so."""
    (warning,) = found("mailers", {}, SMTPCONN={"pool": {"max_size": 3}})
    assert warning.id == "smtpconn.W003"
