"""From a framework's settings to a `ServerConfig` and to the process's pool for it.

Frameworks have different names for the same setting (``EMAIL_HOST_USER``, ``MAIL_USERNAME``,
``OPTIONS["username"]``). An adapter only translates its names into those of `MailSettings`; this
module interprets the values. Errors use the framework's name of a setting, if the adapter gives it.

Rule: nothing here connects or waits, so settings may be read for every message. Equal settings make
equal configurations, and so get the same pool (see `smtpconn.get_pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.client.config import ServerConfig, ServerOptions
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.modes import TlsMode
from smtpconn.model.secret import Secret
from smtpconn.net.tls import shared_context
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.options import PoolKeywords
from smtpconn.pool.registry import get_pool

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSettings:
    """The settings of a framework under common names; its repr hides the password and the URL.

    Settings from the environment are text: numbers and booleans are parsed.

    Attributes:
        url: as `ServerConfig.from_url` takes it, instead of the host, the port and use_*.
        host, port: the server; without a port, `usual_port`.
        username, password: the login; used only if both are given.
        use_tls: STARTTLS.
        use_ssl: implicit TLS (RFC 8314 3).
        timeout: seconds for an operation as a whole; None for the default of `ServerConfig`.
        ssl_certfile, ssl_keyfile: the client's certificate and its key, files in PEM.
        pool: limits of the pool, as `smtpconn.ConnectionPool` takes them.
        server: further attributes of `ServerConfig`.
        names: the framework's names of settings, where they differ; for errors.

    Raises:
        ValidationError: settings that contradict each other, or an unknown name.
    """

    url: str | Secret | None = None
    host: str | None = None
    port: int | str | None = None
    username: str | None = None
    password: str | Secret | None = None
    use_tls: bool | str | None = None
    use_ssl: bool | str | None = None
    timeout: float | str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    pool: PoolKeywords = field(default_factory=PoolKeywords)
    server: ServerOptions = field(default_factory=ServerOptions)
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SECRET_NAMES:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Secret.of(value))
                del value
        # An empty text, as from an unset environment variable, is no setting; blanks around a value
        # are removed, but not those of a password.
        if self.url is not None and isinstance(Secret.of(self.url).reveal(), str):
            url = Secret(Secret.of(self.url).reveal().strip())
            object.__setattr__(self, "url", url if url.reveal() else None)
        for name in ("host", "port", "timeout"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, value.strip() or None)
        _check_names("pool", self.pool, PoolKeywords.__annotations__)
        _check_names("server", self.server, ServerOptions.__annotations__)
        for name in ("use_tls", "use_ssl"):
            if (chosen := getattr(self, name)) is not None:
                object.__setattr__(self, name, flag(self._name_of(name), chosen))
        object.__setattr__(self, "pool", _read_pool(self.pool))
        object.__setattr__(self, "server", _read_server(self.server))
        if self.use_tls and self.use_ssl:
            raise ValidationError(
                f"{self._name_of('use_tls')}/{self._name_of('use_ssl')} are mutually exclusive, so "
                f"only set one of those settings to True."
            )
        in_url = ("host", "port", "use_tls", "use_ssl")
        if self.url is not None and (doubled := [n for n in in_url if getattr(self, n)]):
            raise ValidationError(
                f"{self._name_of('url')} contains the host, the port and the kind of TLS: leave "
                f"out {', '.join(map(self._name_of, doubled))}, or the URL"
            )
        if self.ssl_certfile and self.server.get("tls_context") is not None:
            raise ValidationError(
                f"{self._name_of('ssl_certfile')} and tls_context are mutually exclusive"
            )

    def _name_of(self, name: str) -> str:
        return self.names.get(name, name)

    @property
    def usual_port(self) -> int:
        """The default port for this kind of TLS."""
        return _USUAL_PORT[_tls_mode(use_tls=bool(self.use_tls), use_ssl=bool(self.use_ssl))]

    @property
    def names_server(self) -> bool:
        """Whether there is a host or a URL; an empty text counts as none."""
        return bool(self.host or self.url is not None)

    def config(self) -> ServerConfig:
        """The server, without reading any file.

        Raises:
            ValidationError: an invalid value, or no server is named.
        """
        if not self.names_server:
            raise ValidationError(
                f"{self._name_of('host')} is empty: set it to the name of the mail server"
            )
        host: object = self.host
        if host is not None and not isinstance(host, str):
            kind = type(host).__name__
            raise ValidationError(f"{self._name_of('host')} is a name or an IP address, not {kind}")
        if "://" in (self.host or ""):
            # Not quoted: a URL may contain a password.
            raise ValidationError(
                f"{self._name_of('host')} is a name or an IP address; a URL goes into "
                f"{self._name_of('url')}"
            )
        options: dict[str, Any] = dict(self.server)
        if self.timeout is not None:
            options["timeout"] = _number(self._name_of("timeout"), self.timeout, float)
        if self.username and self.password:
            options.setdefault("credentials", self._credentials())
        if self.url is not None:
            return self._config_of_url(options)
        mode = _tls_mode(use_tls=bool(self.use_tls), use_ssl=bool(self.use_ssl))
        port = _number(self._name_of("port"), self.port or self.usual_port, int)
        try:
            return ServerConfig(self.host or "", port, mode, **options)
        except ValidationError as error:
            refused = self._refused_setting(port, options)
            if refused is None:
                raise
            raise ValidationError(f"{self._name_of(refused)}: {error}") from None

    def _credentials(self) -> PasswordCredentials:
        try:
            return PasswordCredentials(
                cast(str, self.username), Secret.of(cast(str, self.password)).reveal()
            )
        except ValidationError as error:
            names = f"{self._name_of('username')}, {self._name_of('password')}"
            raise ValidationError(f"{names}: {error}") from None

    def _config_of_url(self, options: Mapping[str, Any]) -> ServerConfig:
        url = Secret.of(cast(Secret, self.url))
        try:
            return ServerConfig.from_url(url.reveal(), **options)
        except ValidationError as error:
            if options and _is_url(url):
                raise
            raise ValidationError(f"{self._name_of('url')}: {error}") from None

    def _refused_setting(self, port: int, options: Mapping[str, Any]) -> str | None:
        """The setting whose value `ServerConfig` refuses; None if no single one is at fault."""
        valid = ServerConfig("localhost", 25, TlsMode.NONE)
        values = {"host": self.host, "port": port, "timeout": options.get("timeout", 1)}
        for name, value in values.items():
            try:
                valid.replace(**{name: value})
            except ValidationError:
                return name
        return None

    def config_with_tls(self) -> ServerConfig:
        """The server, with the client's certificate if there is one.

        Raises:
            ValidationError: an invalid value, or no server is named.
            OSError: the client's certificate or key, or ``cafile``, cannot be read.
        """
        config = self.config()
        if config.tls_mode is TlsMode.NONE:
            return config
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValidationError(
                f"{self._name_of('ssl_keyfile')} needs {self._name_of('ssl_certfile')} as well"
            )
        if not self.ssl_certfile:
            return config
        context = shared_context(config.cafile, self.ssl_certfile, self.ssl_keyfile)
        return config.replace(tls_context=context, cafile=None)

    def get_pool(self) -> ConnectionPool:
        """The process's pool for this server and these limits; raises as `config_with_tls`."""
        return get_pool(self.config_with_tls(), **self.pool)

    def reword(self, error: SmtpError) -> None:
        """Use the framework's names of settings in the text of an error."""
        use_tls, use_ssl = self._name_of("use_tls"), self._name_of("use_ssl")
        text, *facts = error.args
        text = str(text).replace("TlsMode.STARTTLS or IMPLICIT", f"{use_tls} or {use_ssl}")
        text = text.replace("TlsMode.STARTTLS", use_tls).replace("TlsMode.IMPLICIT", use_ssl)
        error.args = (text, *facts)


SECRET_NAMES = ("url", "password")
"""Settings that may contain a password."""

_USUAL_PORT = {TlsMode.NONE: 25, TlsMode.STARTTLS: 587, TlsMode.IMPLICIT: 465}

COMMON_NAMES = tuple(
    f.name for f in fields(MailSettings) if f.name not in ("url", "pool", "server", "names")
)
"""The settings that every framework has."""


def read_settings(
    *sources: Mapping[str, object], names: Mapping[str, str] | None = None
) -> MailSettings:
    """Settings from several sources; the first value that is not None is used.

    Args:
        sources: mappings with the names of `MailSettings` and of `ServerOptions`. The last one has
            the framework's own settings; if there is a ``url``, the values that a URL contains are
            not looked up there.
        names: as `MailSettings.names`.

    Raises:
        ValidationError: as `MailSettings`.
    """
    sources = tuple(map(hiding, sources))
    found: dict[str, Any] = {}
    for source in sources:
        if source is sources[-1] and "url" in found:
            source = {name: source[name] for name in source.keys() - _URL_PARTS}
        for name, value in source.items():
            if value is not None and not (name == "url" and value == ""):
                found.setdefault(name, value)
    server = {name: found.pop(name) for name in found.keys() & ServerOptions.__annotations__.keys()}
    _check_names("settings", found, [*COMMON_NAMES, "url", "pool"], ServerOptions.__annotations__)
    return MailSettings(**found, server=cast(ServerOptions, server), names=names or {})


def own_settings(value: object) -> dict[str, object]:
    """The value of the setting ``SMTPCONN``, with secrets wrapped; empty if there is none.

    Raises:
        ValidationError: it is not a dict.
    """
    if value and not isinstance(value, Mapping):
        # Not quoted: a URL may contain a password.
        raise ValidationError(
            f"SMTPCONN is a dict, such as {{'url': ..., 'pool': {{'max_size': 5}}}}, not a "
            f"{type(value).__name__}"
        )
    return hiding(value) if isinstance(value, Mapping) else {}


def _is_url(url: Secret) -> bool:
    try:
        ServerConfig.from_url(url.reveal())
    except ValidationError:
        return False
    return True


_URL_PARTS = {"host", "port", "username", "password", "use_tls", "use_ssl"}


def hiding(source: Mapping[str, object]) -> dict[str, object]:
    """The settings of ``source``, with secrets wrapped so that error reports hide them."""
    return {
        name: Secret.of(value)
        if value and name in SECRET_NAMES and isinstance(value, str)
        else value
        for name, value in source.items()
    }


def flag(name: str, value: object) -> bool:
    """Parse a boolean setting; "False" from the environment is False.

    Args:
        name: the name of the setting, for the error.
        value: a bool, 0 or 1, or a text such as "yes" and "off".

    Raises:
        ValidationError: ``value`` is none of these.
    """
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False, "": False, "none": False}
    text = str(value).strip().lower()
    if not isinstance(value, (bool, int, str)) or text not in words:
        raise ValidationError(f"{name} is True or False, not {value!r:.40}")
    return words[text]


_COUNTS = {"max_size", "max_waiting", "max_messages", "max_connecting", "burst"}
_SECONDS = {"acquire_timeout", "max_idle", "max_lifetime", "keepalive", "max_rate", "leak_after"}
_CAN_BE_NONE = {"acquire_timeout", "max_waiting", "keepalive", "max_rate", "leak_after"}


def _read_pool(given: PoolKeywords) -> PoolKeywords:
    """The limits of the pool, with numbers parsed from text."""
    read: dict[str, Any] = {**given}
    for name, value in read.items():
        if not isinstance(value, str):
            continue
        if name in _CAN_BE_NONE and value.strip().lower() in ("", "none"):
            read[name] = None
        elif name in _COUNTS | _SECONDS:
            read[name] = _number(name, value, int if name in _COUNTS else float)
    return cast(PoolKeywords, read)


def _read_server(given: ServerOptions) -> ServerOptions:
    read: dict[str, Any] = {**given}
    if "allow_cleartext_auth" in read:
        read["allow_cleartext_auth"] = flag("allow_cleartext_auth", read["allow_cleartext_auth"])
    return cast(ServerOptions, read)


def check_unknown(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown names of settings, with a hint where they belong.

    Args:
        what: where the names were given, for the error.
        names: the unknown names.
        known: the names that exist there.

    Raises:
        ValidationError: ``names`` is not empty.
    """
    unknown = sorted(map(str, names))
    if not unknown:
        return
    misplaced = [name for name in unknown if name in PoolKeywords.__annotations__]
    if what != "pool" and misplaced:
        example = ", ".join(f"{name!r}: ..." for name in misplaced)
        hint = f"{', '.join(misplaced)} belongs in 'pool': {{'pool': {{{example}}}}}"
    else:
        hint = f"there are {', '.join(known)}"
    raise ValidationError(f"{what}: unknown {', '.join(unknown)}; {hint}")


def _check_names(what: str, given: object, *known: Iterable[str]) -> None:
    if not isinstance(given, Mapping):
        raise ValidationError(f"{what} is a dict, not {type(given).__name__}")
    names = [name for each in known for name in sorted(each)]
    check_unknown(what, given.keys() - {*names}, names)


def _tls_mode(*, use_tls: bool, use_ssl: bool) -> TlsMode:
    if use_ssl:
        return TlsMode.IMPLICIT
    return TlsMode.STARTTLS if use_tls else TlsMode.NONE


def _number(name: str, value: object, kind: Callable[[Any], Number]) -> Number:
    # Settings often come from the environment, where everything is text.
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValidationError(f"{name} is a number, not {value!r:.40}") from None
