"""Sessions and requests for tests of exchanges without a socket."""

from __future__ import annotations

from smtpconn import (
    MailFromParams,
    ServerCapabilities,
)
from smtpconn.model.capabilities import SmtpExtension
from smtpconn.protocol.mail_request import MailRequest, make_request
from smtpconn.protocol.session import SessionState

ALL = "PIPELINING;SIZE 1000;8BITMIME;SMTPUTF8;DSN;CHUNKING;BINARYMIME"


def session(extensions: str = ALL, **facts: object) -> SessionState:
    """A session after EHLO, with these attributes."""
    lines = [line.split() for line in extensions.split(";") if line]
    offers = ServerCapabilities(
        "mx.example.test", tuple(SmtpExtension(k, tuple(p)) for k, *p in lines)
    )
    given = {"ehlo_domain": "client.example", "is_private": True, "capabilities": offers}
    given |= {name: facts.pop(name) for name in ("protocol", "pipelining") if name in facts}
    made = SessionState(**given)  # type: ignore[arg-type]
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def request(*recipients: str, message: bytes = b"hi\r\n", **params: object) -> MailRequest:
    """A request to some recipients, with parameters for MAIL."""
    mail_params = MailFromParams(**params)  # type: ignore[arg-type]
    return make_request("a@b.example", recipients or ["c@d.example"], message, mail_params)
