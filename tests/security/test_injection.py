"""Injection: no text in any argument becomes a command, a parameter or a control character.

On record: CR and LF in addresses (CVE-2015-8476 and many more), characters that
an encoding turns into them (CVE-2025-7962), parameters behind a path that ends too early
(CVE-2025-59937), and every other field that ever reached a command line.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.message import Message
from pathlib import Path

import pytest

import smtpconn
from smtpconn import (
    ForwardPath,
    Mailbox,
    MailFromParams,
    RcptToParams,
    ReversePath,
    SmtpError,
    ValidationError,
)
from tests.support.injection_targets import CLIENT, HARMLESS, TEXTS, Argument, Target, arguments
from tests.support.recording_servers import ME, MESSAGE, YOU, recorded

SMUGGLED = "SMUGGLED"

TRICKS = [
    *map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u2028", "\u2029",
    f"\r\n{SMUGGLED}", f"\n{SMUGGLED}", f"\r{SMUGGLED}", f"\r\n.\r\n{SMUGGLED}\r\n",
    f"@example.com>\r\n{SMUGGLED}", f"%0d%0a{SMUGGLED}", f"\\r\\n{SMUGGLED}", f"+0D+0A{SMUGGLED}",
    f"\u760d\u760a{SMUGGLED}", f"\u010d\u010a{SMUGGLED}", f"\ud80d\udc0a{SMUGGLED}", "\udc0d\udc0a",
    f"\uff0d\uff0a{SMUGGLED}", f"=?utf-8?q?=0D=0A?={SMUGGLED}", "\ufeff", "\u200b", "\u202e",
    f"> {SMUGGLED}=1", f"@x> {SMUGGLED}=1", f'"> {SMUGGLED}=1 <"', f" {SMUGGLED}=1",
    f"\t{SMUGGLED}=1",
    f"\u00a0{SMUGGLED}=1", f"\u3000{SMUGGLED}=1", f"\uff1e {SMUGGLED}=1", f"\\> {SMUGGLED}=1",
    f'"@x> {SMUGGLED}=1"', "<", ">", '"', "\\", "@", ";", ",", "\uff20", "\u2024", "\u3002",
]  # fmt: skip

ARGUMENTS = list(arguments())
ATTACKED = [argument for argument in ARGUMENTS if argument.name in TEXTS]

KNOWN = {b"NOOP", b"RSET", b"QUIT", *(f"{v} {CLIENT}".encode() for v in ("EHLO", "LHLO"))}

_QUOTED = rb'"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"'
_DOMAIN = rb'(?:\[[^\]<> \x00-\x1f\x7f]+\]|[^<>@\[\]" \\\x00-\x1f\x7f]+)'
_PATH = rb'<(?:(?:%s|[^<>@" \\\x00-\x1f\x7f]+)@%s)?>' % (_QUOTED, _DOMAIN)
_MAIL = re.compile(rb"(MAIL FROM:|RCPT TO:)%s((?: [A-Z0-9-]+(?:=[^ =\x00-\x1f\x7f]+)?)*)" % _PATH)
_SASL = re.compile(rb"(?:AUTH [A-Z0-9-]+ ?)?(?:[A-Za-z0-9+/]*={0,2}|=|\*)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")
_ONE_WORD = re.compile(rb"(?:EHLO|LHLO|DATA|VRFY|EXPN|HELP|BDAT)\b.*", re.DOTALL)


def test_every_argument_is_attacked_or_harmless_for_a_reason() -> None:
    """A new public argument is put into TEXTS, or into HARMLESS with a reason, by who adds it."""
    unknown = sorted({str(argument) for argument in ARGUMENTS if not argument.is_known})
    assert not unknown, (
        f"{', '.join(unknown)}: add each to TEXTS in tests/support/injection_targets.py (how a "
        f"text is put into it), or to HARMLESS (why it cannot reach the wire)"
    )
    assert not TEXTS.keys() & HARMLESS.keys()
    assert len(ATTACKED) > 80
    # Not found by looking, because it may not be there yet; known all the same.
    assert Argument("SmtpConnection", "send_many", "envelopes").is_known


@pytest.fixture
def target() -> Iterator[Target]:
    """Where everything goes."""
    made = Target()
    try:
        yield made
    finally:
        made.close()


def attempt(target: Target, argument: Argument, text: str) -> list[bytes]:
    """Try a text; what was heard that is not always said."""
    before = target.heard()
    error: SmtpError | None = None
    try:
        argument.attack(target, text)
    except SmtpError as caught:
        error = caught
    assert error is None or str(error).isprintable()
    target.settle()
    new: Iterable[tuple[list[bytes], list[bytes]]]
    new = itertools.zip_longest(target.heard(), before, fillvalue=[])
    return [line for now, then in new for line in now[len(then) :] if line not in KNOWN]


def shape(line: bytes) -> tuple[bytes, frozenset[bytes]]:
    """What a line asks for: its verb, and the parameters it has; refuses what is no command."""
    assert not _CONTROL.search(line), line
    assert not line.startswith(SMUGGLED.encode()), line
    if match := _MAIL.fullmatch(line):
        words = match[2].split()
        assert not any(word.startswith(SMUGGLED.encode()) for word in words), line
        # What the trick itself may make necessary.
        added = {b"SMTPUTF8", b"BODY", b"SIZE"}
        return match[1], frozenset(word.partition(b"=")[0] for word in words) - added
    if _ONE_WORD.fullmatch(line):
        return line[:4], frozenset()
    assert _SASL.fullmatch(line), line
    return b"sasl", frozenset()


def verbs(shapes: list[tuple[bytes, frozenset[bytes]]]) -> list[bytes]:
    """What was asked for in turn; a login is one thing, whatever mechanism its lines are of."""
    found = [verb for verb, _ in shapes]
    pairs = zip(found, [b"", *found], strict=False)
    return [verb for verb, before in pairs if not verb == before == b"sasl"]


@pytest.mark.parametrize("argument", ATTACKED, ids=str)
def test_no_text_becomes_anything_else(target: Target, argument: Argument) -> None:
    """With any text in any argument, the server receives only the intended commands."""
    meant = [shape(line) for line in attempt(target, argument, argument.form.replace("{}", ""))]
    for trick in TRICKS:
        texts = [argument.form.replace("{}", trick).replace("{0}", trick)]
        if len(trick) > 1:
            whole = argument.form.replace("{}", "").replace("{0}", "")
            texts += [
                trick + whole,
                whole + trick,
                f"<{whole}>{trick}",
                f'"{whole}{trick}"@a.example',
            ]
        for text in texts:
            heard = [shape(line) for line in attempt(target, argument, text)]
            assert verbs(heard) == verbs(meant)[: len(verbs(heard))]
            for (_, found), (_, expected) in zip(heard, meant, strict=False):
                assert found <= expected
    contents = {content for recorder in target.recorders for content in recorder.contents}
    assert not any(SMUGGLED.encode() in c for c in contents if argument.name != "message")


@pytest.mark.parametrize(
    "address",
    [
        '"x@a> ORCPT=rfc822;b"@c.example',
        '"x> NOTIFY=NEVER"@c.example',
        '"<x>"@c.example',
        '"a\\"> SIZE=1 <\\""@c.example',
        '" "@c.example',
    ],
)
def test_a_quoted_local_part_leaves_quoted(address: str) -> None:
    """A local part that needs quotes has them on the wire, escapes too (CVE-2025-59937)."""
    with recorded() as (recorder, connection):
        connection.send(address, [address], MESSAGE)
        assert f"RCPT TO:<{address}>".encode() in recorder.commands
        mail = next(line for line in recorder.commands if line.startswith(b"MAIL"))
        assert mail.startswith(f"MAIL FROM:<{address}>".encode())
        assert shape(mail)[1] == frozenset()


@pytest.mark.parametrize("kind", [Mailbox, ReversePath, ForwardPath])
@pytest.mark.parametrize(
    "address",
    [
        "a\u760d\u760aRCPT TO:<x@y>@example.com",
        "a@example\uff0ecom\uff1e",
        "a@ex\u2488mple.com",
        "a@example\u3002com",
        "a\uff20example.com",
        "a@\u2100example.com",
        "a@xn--\u00e4.example",
        "a@example.com\u200b",
    ],
)
def test_no_character_becomes_another(kind: type[Mailbox], address: str) -> None:
    """What reads as ASCII punctuation once it is normalised, cut or encoded is refused or stays."""
    try:
        printed = str(kind(address))
    except ValidationError:
        return
    assert printed == address
    assert not re.search(rb"[\x00-\x1f\x7f]", printed.encode())


def test_parameters_of_free_text_leave_as_one_word() -> None:
    """ENVID, AUTH and ORCPT are xtext: no space, no "=", nothing that ends them (RFC 3461 4)."""
    mail = MailFromParams(envid="a SIZE=9 +0D", auth='"a b> X=1"@example.com')
    rcpt = RcptToParams(orcpt="rfc822;a NOTIFY=NEVER@example.com")
    with recorded() as (recorder, connection):
        connection.send_with_all_params(ME, YOU, MESSAGE, mail, [rcpt])
        lines = {line[:4]: line for line in recorder.commands}
    assert b" ENVID=a+20SIZE+3D9+20+2B0D " in lines[b"MAIL"] + b" "
    assert b' AUTH="a+20b>+20X+3D1"@example.com' in lines[b"MAIL"]
    assert lines[b"RCPT"].endswith(b" ORCPT=rfc822;a+20NOTIFY+3DNEVER@example.com")
    assert lines[b"MAIL"].count(b" SIZE=") == 1


@pytest.mark.parametrize("name", ["From", "To", "Sender", "Cc", "Resent-Date", "Resent-From"])
@pytest.mark.parametrize(
    "text",
    ["=?utf-8?q?=0D=0ABcc:x?= <a@example.com>", "=?utf-8?q?a=0Ab?=@example.com", "=?x?q?=0A?="],
)
def test_a_header_that_cannot_be_read(name: str, text: str) -> None:
    """A line end in an encoded word of a parsed message is refused, in an `SmtpError`, or gone."""
    data = f"{name}: {text}\r\nFrom: {ME}\r\nTo: {YOU}\r\n\r\nHello!\r\n".encode()
    message = message_from_bytes(data, policy=policy.default)
    with recorded() as (recorder, connection):
        try:
            connection.send_message(message)
        except SmtpError:
            pass  # refused; what was said is looked at all the same
        connection.noop()
        assert all(shape(line) for line in recorder.commands)
        assert recorder.verbs in (
            [b"EHLO", b"NOOP"],
            [b"EHLO", b"MAIL", *[b"RCPT"] * recorder.verbs.count(b"RCPT"), b"DATA", b"NOOP"],
        )


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: x@example.com", "a\nX: y", "a\rX: y", "\r\n\r\nbody: x"]
)
def test_a_header_within_a_header(text: str) -> None:
    """A header that would make another one is refused before anything is sent."""
    message = Message()
    message["From"], message["To"], message["Subject"] = ME, YOU, text
    message.set_payload("Hello!")
    with recorded() as (recorder, connection):
        with pytest.raises(ValidationError):
            connection.send_message(message)
        connection.noop()
        assert recorder.verbs == [b"EHLO", b"NOOP"]


RUNS_PROGRAMS = re.compile(
    r"subprocess|pty|multiprocessing|os\.(?:system|popen|exec\w*|spawn\w*|posix_spawn\w*)"
)
AT_A_PROMPT = "cli"
"""Who works there may name a program, which says a password."""


def test_no_program_is_run() -> None:
    """No address can become a program's argument (CVE-2020-28247): the library runs none."""
    root = Path(smtpconn.__file__).parent
    files = [p for p in root.rglob("*.py") if p.relative_to(root).parts[0] != AT_A_PROMPT]
    assert len(files) > 40
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
            else:
                names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            assert not any(RUNS_PROGRAMS.fullmatch(name) for name in names), file
