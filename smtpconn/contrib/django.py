"""`EmailBackend`: Django's e-mail through the pool of the process.

Example::

    EMAIL_BACKEND = "smtpconn.contrib.django.EmailBackend"                     # up to Django 6.0

    MAILERS = {                                                                # Django 6.1
        "default": {
            "BACKEND": "smtpconn.contrib.django.EmailBackend",
            "OPTIONS": {"host": "smtp.example.com", "use_tls": True, "pool": {"max_size": 5}},
        },
    }

Settings, options and return values are those of Django's own SMTP backend. ``docs/django.md`` lists
the differences and the reasons. This module has Django's names; `smtpconn.contrib.backend` has the
behaviour.
"""

from __future__ import annotations

import email.policy
from collections.abc import Iterable, Mapping

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from smtpconn.client.config import ServerOptions
from smtpconn.contrib.backend import PooledBackend, serialised
from smtpconn.contrib.delivery import bare_address
from smtpconn.contrib.settings import check_unknown, flag, hiding, own_settings
from smtpconn.model.addresses import ReversePath
from smtpconn.model.errors import ValidationError
from smtpconn.pool.options import PoolKeywords

# Since 6.0 Django makes messages with Python's modern email API.
_MODERN = django.VERSION >= (6, 0)
_HAS_MAILERS = django.VERSION >= (6, 1)

_SETTINGS = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
}
_OWN_NAMES = ServerOptions.__annotations__.keys() | {"url", "pool"}
_NAMES = _SETTINGS | {"url": "SMTPCONN['url']"}


class EmailBackend(PooledBackend[EmailMessage], BaseEmailBackend):  # type: ignore[misc]
    """An e-mail backend whose connections are pooled.

    Args:
        host, port, username, password, use_tls, use_ssl, timeout, ssl_keyfile, ssl_certfile: as
            Django's SMTP backend takes them. A missing one is the ``EMAIL_*`` setting, except for a
            backend of ``MAILERS``.
        fail_silently: as Django's.
        kwargs: ``url``, ``pool`` and the names of `smtpconn.client.config.ServerOptions`; a missing
            one is looked up in the setting ``SMTPCONN``, a dict, except for a backend of
            ``MAILERS``. Other arguments go to `BaseEmailBackend`.

    Raises:
        ValueError: settings that contradict each other, or an invalid value.
        InvalidMailer: the same in ``MAILERS``; an ``ImproperlyConfigured``.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        use_tls: bool | None = None,
        fail_silently: bool = False,
        use_ssl: bool | None = None,
        timeout: float | None = None,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        **kwargs: object,
    ) -> None:
        given = hiding({
            "host": host or None,
            "port": port or None,
            "username": username,
            "password": password,
            "use_tls": use_tls,
            "use_ssl": use_ssl,
            "timeout": timeout,
            "ssl_keyfile": ssl_keyfile,
            "ssl_certfile": ssl_certfile,
        })  # fmt: skip
        del password
        given |= hiding({name: kwargs.pop(name) for name in _OWN_NAMES & kwargs.keys()})
        self.alias = kwargs.get("alias")
        if self.alias is not None and (misplaced := kwargs.keys() & PoolKeywords.__annotations__):
            _refuse_in_mailer(misplaced, self.alias)
        if _HAS_MAILERS and "alias" not in kwargs:
            _warn_of_direct_use()
        super().__init__(**kwargs)
        self.fail_silently = fail_silently
        if self.alias is None:
            own = own_settings(getattr(settings, "SMTPCONN", None))
            self.take_settings(given, own, _email_settings(given), names=_NAMES)
            return
        try:
            if host is None and "url" not in given:
                raise ValidationError("OPTIONS must define 'host'. Or 'url', which has the host.")
            if flag("use_tls", use_tls or False) and flag("use_ssl", use_ssl or False):
                raise ValidationError(
                    "The 'use_ssl' and 'use_tls' OPTIONS are incompatible. Set at most one of them "
                    "to True."
                )
            self.take_settings(given, {})
        except ValidationError as error:
            raise _invalid_mailer(str(error), self.alias) from error

    def recreate(self) -> EmailBackend:
        """A new backend by ``get_connection``, or by ``MAILERS`` under the same alias."""
        if self.alias is None:
            return EmailBackend()
        # Not at the top: it is new in Django 6.1, as the alias is.
        from django.core.mail import mailers

        backend: EmailBackend = mailers[self.alias]
        return backend

    def prep_address(self, address: str, force_ascii: bool = True) -> str:
        """The address without a display name; for subclasses, as in Django's SMTP backend.

        Args:
            address: an address, which may have a display name.
            force_ascii: convert a domain that is not ASCII to A-labels, and refuse a local part
                that is not ASCII.

        Raises:
            ValueError: it is not a single address that may be sent.
        """
        try:
            found = bare_address(str(address), a_labels=force_ascii)
            ReversePath(found)
        except ValidationError as error:
            raise ValueError(f"Invalid address {address!r}: {error}") from error
        if force_ascii and not found.isascii():
            raise ValueError(
                f"Invalid address {address!r}: local-part contains non-ASCII characters"
            )
        return found

    def message_bytes(self, message: EmailMessage, *, smtputf8: bool) -> bytes:
        """The message as Django serialises it, without Bcc.

        Raises:
            ValueError: an invalid header field; as ``EmailMessage.message``.
        """
        if _MODERN:
            policy = email.policy.SMTPUTF8 if smtputf8 else email.policy.SMTP
            return serialised(message.message(policy=policy), smtputf8=smtputf8)
        return serialised(message.message(), smtputf8=smtputf8, linesep="\r\n")


def _email_settings(given: Mapping[str, object]) -> dict[str, object]:
    settings.is_overridden("EMAIL_HOST")  # loads the settings
    # Read without the proxy, which warns when such settings are read (6.1). Django also warns where
    # a site defines them, and only that place can be changed.
    defined = settings._wrapped
    return hiding({
        name: getattr(defined, setting)
        for name, setting in _SETTINGS.items()
        if given[name] is None
    })  # fmt: skip


def _warn_of_direct_use() -> None:
    """Warn the caller as Django's SMTP backend does, unless the caller is Django itself."""
    # Not at the top: they are new in Django 6.1.
    from django.utils.deprecation import RemovedInDjango2028Warning, warn_about_external_use

    warn_about_external_use(
        "Directly creating EmailBackend instances is deprecated. Use mail.mailers instead.",
        RemovedInDjango2028Warning,
        skip_name_prefixes=("smtpconn.",),
    )


def _refuse_in_mailer(misplaced: Iterable[str], alias: object) -> None:
    try:
        check_unknown("OPTIONS", misplaced, ())
    except ValidationError as error:
        raise _invalid_mailer(str(error), alias) from error


def _invalid_mailer(text: str, alias: object) -> ImproperlyConfigured:
    # Not at the top: it is new in Django 6.1, as the alias is.
    from django.core.mail import InvalidMailer

    error: ImproperlyConfigured = InvalidMailer(text, alias=alias)
    return error
