"""What the options say of envelopes."""

from __future__ import annotations

import argparse

import pytest

from smtpconn import DsnNotify, DsnRet, ForwardPath, ReversePath
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.wishes import EnvelopeOptions, addresses, envelope_of, envelope_options
from smtpconn.model.errors import ValidationError

NOTHING: dict[str, object] = {
    "sender": None, "to": [], "dsn_notify": None, "dsn_ret": None, "envid": None
}  # fmt: skip


def wishes(**given: object) -> EnvelopeOptions:
    """Of these options."""
    return envelope_options(argparse.Namespace(**(NOTHING | given)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b.c", ["a@b.c"]),
        ("a@b.c,d@e.f, g@h.i", ["a@b.c", "d@e.f", "g@h.i"]),
        ("Jane Doe <jane@b.c>, <d@e.f>", ["jane@b.c", "d@e.f"]),
        ('"a,b"@c.d', ['"a,b"@c.d']),
        ("j\u00f6rg@b.c", ["j\u00f6rg@b.c"]),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
    ],
)
def test_lists_of_addresses(text: str, found: list[str]) -> None:
    """With commas, display names and quoted local parts."""
    assert addresses(text) == found


@pytest.mark.parametrize("text", ["", ",", "a@b.c,,d@e.f", "<>"])
def test_what_is_no_list_of_addresses(text: str) -> None:
    """Is refused whole."""
    with pytest.raises(ValidationError):
        addresses(text)


@pytest.mark.parametrize("text", ["someone", "a@b.c\r\nRCPT TO:<x@y.z>", "a b@c.d"])
def test_what_may_not_be_sent(text: str) -> None:
    """Neither as a recipient nor as the sender."""
    with pytest.raises(ValidationError):
        wishes(to=[text])
    with pytest.raises(ValidationError):
        wishes(sender=text)


def test_who() -> None:
    """-t may be repeated; '' and <> are the null reverse-path; nothing is for the headers."""
    found = wishes(sender="Me <me@b.c>", to=["a@b.c,d@e.f", "g@h.i"])
    assert found.sender == ReversePath("me@b.c")
    assert found.recipients == tuple(map(ForwardPath, ("a@b.c", "d@e.f", "g@h.i")))
    assert wishes(sender="").sender == wishes(sender="<>").sender == ReversePath("")
    assert wishes() == EnvelopeOptions()


def test_reports() -> None:
    """DSN's options become the parameters of MAIL and of every RCPT."""
    found = wishes(sender="", to=["a@b.c,d@e.f"], dsn_notify="success,FAILURE", dsn_ret="HDRS",
                   envid="x1")  # fmt: skip
    assert found.notify == DsnNotify.SUCCESS | DsnNotify.FAILURE
    envelope = envelope_of(ReversePath(""), found.recipients, b"", found)
    assert envelope.mail_params == found.mail_params
    assert found.mail_params.ret is DsnRet.HDRS
    assert found.mail_params.envid == "x1"
    assert envelope.rcpt_params is not None
    assert [each.notify for each in envelope.rcpt_params] == [found.notify] * 2


@pytest.mark.parametrize("names", ["", "sometimes", "success,"])
def test_no_such_report(names: str) -> None:
    """Words that NOTIFY does not have."""
    with pytest.raises(UsageError, match="--dsn-notify"):
        wishes(dsn_notify=names)


def test_reports_that_contradict_each_other() -> None:
    """NEVER stands alone (RFC 3461 4.1)."""
    found = wishes(dsn_notify="never,success", to=["a@b.c"])
    with pytest.raises(ValidationError):
        envelope_of(ReversePath(""), found.recipients, b"", found)


def test_a_size_that_only_we_know() -> None:
    """Goes beside what was wished for."""
    found = wishes(envid="x1")
    params = envelope_of(ReversePath(""), (), b"", found, 123).mail_params
    assert params is not None
    assert (params.size, params.envid) == (123, "x1")
