"""Server URLs: read as they were meant or refused, and no message shows the password."""

from __future__ import annotations

import traceback
from urllib.parse import quote

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import ValidationError
from tests.fuzz.source import Source

SEEDS = (
    b"smtp://mx.example.com",
    b"smtps://user:p%40ss@mx.example.com:2465/",
    b"smtp+starttls://u:p@[2001:db8::1]:25?timeout=5&ehlo_domain=me.example",
    b"lmtp+unix:///run/lmtp", b"lmtps://mx", b"user\xffpass/w:o?r@d#\xffmx.example\x01",
)  # fmt: skip

WORDS = (
    b"smtp://", b"smtps://", b"smtp+starttls://", b"lmtp+unix:///", b"lmtp://", b"@", b":",
    b"%0d%0a",
    b"%", b"?timeout=", b"&ehlo_domain=", b"[", b"]", b"#", b"/", b"\xff", b"nan", b"inf",
    b"\xef\xbc\x83",
)  # fmt: skip

_SECRET = "s3cret"


def check(source: Source) -> None:
    """Any text is a `ServerConfig` or a `ValidationError`; what is quoted comes back."""
    if source.chance():
        _check_round_trip(source)
        return
    before, after = source.text(), source.text()
    if source.chance():
        before = f"smtps://user:{_SECRET}" + before
    _check_text(before + after)


def _check_text(url: str) -> None:
    try:
        config = ServerConfig.from_url(url)
    except ValidationError as error:
        assert _SECRET not in "".join(traceback.format_exception(error))
        return
    assert config.host
    assert not any(c <= " " or c == "\x7f" for c in config.host)
    assert config.host.startswith("/") or 1 <= config.port <= 65535
    assert config.timeout > 0
    assert hash(config) == hash(ServerConfig.from_url(url))
    if config.credentials is not None:
        password = getattr(config.credentials, "password", "")
        assert len(password) < 5 or password in (config.host, config.credentials.user) or (
            f"'{password}'" not in repr(config)
        )  # fmt: skip


def _check_round_trip(source: Source) -> None:
    user, password = source.text(), source.text()
    try:
        credentials = PasswordCredentials(user, password)
    except ValidationError:
        return
    url = f"smtps://{quote(user, safe='')}:{quote(password, safe='')}@mx.example.com"
    assert ServerConfig.from_url(url).credentials == credentials
