"""Django for the tests of its adapter: configured once, and each way in which mail is configured.

Up to Django 6.0 that is by ``EMAIL_*`` settings; from 6.1 on also by ``MAILERS``. A test that uses
a `Mailing` runs once for each.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import django
from django.conf import settings
from django.core import mail
from django.test import override_settings

from smtpconn import ValidationError
from smtpconn.contrib.django import EmailBackend
from smtpconn.testing import SmtpServer

if not settings.configured:
    settings.configure(
        ROOT_URLCONF="tests.contrib.test_django",
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="of no use",
    )
    django.setup()

HAS_MAILERS = django.VERSION >= (6, 1)
WAYS = ["settings", "mailers"] if HAS_MAILERS else ["settings"]
BACKEND = "smtpconn.contrib.django.EmailBackend"

_SETTINGS = {
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
}


class Server(Protocol):
    """The address of a server, embedded or real."""

    host: str
    port: int


class Mailing:
    """Makes backends for servers, configured one way, and closes their pools at the end."""

    def __init__(self, way: str) -> None:
        self.way = way
        self._settings: override_settings | None = None
        self._backends: list[EmailBackend] = []

    def use(
        self, server: Server | None = None, *, fail_silently: bool = False, **options: Any
    ) -> EmailBackend:
        """Configure Django for this server from now on, and return a backend."""
        self._take_back()
        if server is not None:
            options |= {"host": server.host, "port": server.port}
        chosen = override_settings(**as_settings(self.way, options, fail_silently=fail_silently))
        chosen.enable()
        self._settings = chosen
        backend = self.again(fail_silently=fail_silently)
        self._backends.append(backend)
        return backend

    def again(self, *, fail_silently: bool = False) -> EmailBackend:
        """Another backend for the same server, as each request makes one."""
        backend = (
            mail.mailers.default
            if self.way == "mailers"
            else mail.get_connection(fail_silently=fail_silently)
        )
        assert isinstance(backend, EmailBackend)
        return backend

    def end(self) -> None:
        """Close every pool and restore the settings."""
        for backend in self._backends:
            # A backend with invalid settings has no pool.
            with contextlib.suppress(ValidationError):
                backend.pool.close()
        self._take_back()

    def _take_back(self) -> None:
        settings_in_force, self._settings = self._settings, None
        if settings_in_force is not None:
            settings_in_force.disable()


def as_settings(
    way: str, options: dict[str, Any], *, fail_silently: bool = False
) -> dict[str, Any]:
    """Django's settings for a mailer with these options."""
    if way == "mailers":
        silently = {"fail_silently": True} if fail_silently else {}
        return {"MAILERS": {"default": {"BACKEND": BACKEND, "OPTIONS": options | silently}}}
    named = {"host": "EMAIL_HOST", "port": "EMAIL_PORT"} | _SETTINGS
    own = {name: value for name, value in options.items() if name not in named}
    theirs = {named[name]: value for name, value in options.items() if name in named}
    return {"EMAIL_BACKEND": BACKEND, "SMTPCONN": own} | theirs


def message(*to: str, **more: Any) -> mail.EmailMessage:
    """A short message from me."""
    return mail.EmailMessage("hello", "Hello!", "me@example.com", to, **more)


def connections(server: SmtpServer) -> int:
    """The number of connections that the server has accepted."""
    return len(server.connections)
