"""Checks of the settings for ``manage.py check``, before anything is sent.

Example::

    INSTALLED_APPS += ["smtpconn.contrib.django_checks"]

They do not connect, and ignore mailers with other backends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import django
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from smtpconn.contrib.delivery import bare_address
from smtpconn.contrib.django import EmailBackend
from smtpconn.model.addresses import ReversePath
from smtpconn.model.errors import ValidationError

MAX_SENSIBLE_SIZE = 50
"""Connections that Postfix accepts from one client by default
(smtpd_client_connection_count_limit)."""

_HAS_MAILERS = django.VERSION >= (6, 1)


@checks.register("smtpconn")  # type: ignore[untyped-decorator]
def check_settings(app_configs: object = None, **_: object) -> list[checks.CheckMessage]:
    """The problems in the mail settings that smtpconn's backend uses.

    Args:
        app_configs: passed by Django; not used.
    """
    found: list[checks.CheckMessage] = []
    mailers = getattr(settings, "MAILERS", None) if _HAS_MAILERS else None
    if mailers is None:
        # Not through the proxy, which warns about this setting from 6.1 on.
        backend = _our_class(getattr(settings._wrapped, "EMAIL_BACKEND", ""))
        if backend is not None:
            found += _of_backend("EMAIL_* and SMTPCONN", backend)
            found += _of_senders()
        return found
    ours = [alias for alias, mailer in mailers.items() if _our_class(mailer.get("BACKEND", ""))]
    for alias in ours:
        found += _of_backend(f"MAILERS[{alias!r}]", functools.partial(_mailer, alias))
    if ours:
        found += _of_senders()
        if getattr(settings, "SMTPCONN", None):
            found.append(
                checks.Warning(
                    "SMTPCONN is ignored when MAILERS is set.",
                    hint="Move its contents into the OPTIONS of a mailer.",
                    id="smtpconn.W003",
                )
            )
    return found


def _our_class(path: str) -> type[EmailBackend] | None:
    try:
        found = import_string(path)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, EmailBackend) else None


def _mailer(alias: str) -> EmailBackend:
    # Not at the top: it is new in Django 6.1.
    from django.core.mail import mailers

    backend: EmailBackend = mailers[alias]
    return backend


def _of_backend(where: str, make: Callable[[], EmailBackend]) -> Iterator[checks.CheckMessage]:
    try:
        limits = make().check()
    except (ValueError, OSError, ImproperlyConfigured) as error:
        text = str(error) if where in str(error) else f"{where}: {error}"
        yield checks.Error(text, id="smtpconn.E001")
        return
    size = limits.get("max_size", 5)
    if size > MAX_SENSIBLE_SIZE:
        yield checks.Warning(
            f"{where}: a pool of {size} connections for each process.",
            hint=(
                f"Servers limit the connections of one client; Postfix accepts "
                f"{MAX_SENSIBLE_SIZE}. A few connections for each process are enough: one sends "
                f"hundreds of messages per second."
            ),
            id="smtpconn.W001",
        )
    if limits.get("max_connecting", 0) > size:
        yield checks.Warning(
            f"{where}: max_connecting is larger than max_size, and has no effect beyond it.",
            id="smtpconn.W002",
        )


def _of_senders() -> Iterator[checks.CheckMessage]:
    for name in ("DEFAULT_FROM_EMAIL", "SERVER_EMAIL"):
        try:
            ReversePath(bare_address(str(getattr(settings, name))))
        except ValidationError as error:
            yield checks.Warning(f"{name} is not a valid address: {error}", id="smtpconn.W004")
