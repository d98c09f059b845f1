"""What a caller gave, checked; and a message of the email package for one server or another."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterable
from email.message import EmailMessage, Message
from typing import Any

import pytest

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.errors import SmtpUtf8RequiredError, ValidationError
from smtpconn.model.parameters import BodyType, MailFromParams, RcptToParams
from smtpconn.model.results import Envelope
from smtpconn.protocol.mail_request import (
    MailRequest,
    check_item,
    make_message_request,
    make_request,
    request_of,
)

ME, YOU = "me@example.com", "you@example.com"


def offering(*keywords: str) -> ServerCapabilities:
    """What a server with these extensions says of itself."""
    return ServerCapabilities("", tuple(map(SmtpExtension, keywords)))


def bytes_of(request: MailRequest) -> bytes:
    """Its content as it leaves."""
    (chunk,) = request.content.text_chunks()
    return b"".join(chunk.buffers)


@pytest.mark.parametrize(
    "recipients",
    [
        YOU,
        ForwardPath(YOU),
        [YOU],
        (ForwardPath(YOU),),
        {YOU},
        frozenset([YOU]),
        {YOU: 1}.keys(),
        {1: YOU}.values(),
        iter([YOU]),
        (each for each in [YOU]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_recipients_are_one_or_any_iterable(recipients: Iterable[str]) -> None:
    """A list, a set, a view, a generator; it is read once."""
    (path,) = make_request(ME, recipients, b"").recipients
    assert path == YOU


@pytest.mark.parametrize(
    "recipients", [None, {YOU: 1}, {}, YOU.encode(), bytearray(b"x"), 5, [None], [b"a@b"], [[YOU]]]
)
def test_recipients_that_are_none(recipients: object) -> None:
    """A mapping is more than its keys; nothing else is guessed at either."""
    with pytest.raises(ValidationError):
        make_request(ME, recipients, b"")  # type: ignore[arg-type]


def test_a_sender_that_is_none() -> None:
    """The null reverse-path has to be meant."""
    with pytest.raises(ValidationError, match='"" for the null'):
        make_request(None, YOU, b"")  # type: ignore[arg-type]
    assert make_request("", YOU, b"").sender.is_null


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("Jane <a@b.example>", "'a@b.example'"),
        ("a@b.example, c@d.example", "['a@b.example', 'c@d.example']"),
    ],
)
def test_the_error_says_what_to_pass(given: str, advice: str) -> None:
    """Of a name with an address, and of several addresses in one text."""
    for sender, recipients in ((given, YOU), (ME, given), (ME, [YOU, given])):
        with pytest.raises(ValidationError) as caught:
            make_request(sender, recipients, b"")
        assert advice in str(caught.value)


def test_nul_and_7bit() -> None:
    """A NUL is for BINARYMIME; what is declared as 7BIT is held to it."""
    with pytest.raises(ValidationError, match="NUL"):
        make_request(ME, YOU, b"\0")
    binary = MailFromParams(body=BodyType.BINARYMIME)
    assert make_request(ME, YOU, b"\0", binary).content.whole_size == 1
    declared = make_request(ME, YOU, [b"\xe9"], MailFromParams(body=BodyType.SEVENBIT))
    with pytest.raises(ValidationError, match="7BIT"):
        list(declared.content.as_data(seven_bit_only=False))


def message(text: str = "Grüße\n") -> EmailMessage:
    """A message with eight bits in its body."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = ME, YOU, "Grüße"
    made.set_content(text, cte="8bit")
    return made


def test_the_bytes_depend_on_the_server() -> None:
    """Eight bits where they may stay; but the fields that were added are the same."""
    made = make_message_request(message())
    seven, eight = (bytes_of(made.for_server(offering(*o))) for o in ([], ["8BITMIME"]))
    assert seven.isascii()
    assert not eight.isascii()
    parsed = [email.message_from_bytes(each) for each in (seven, eight)]
    assert parsed[0]["Message-ID"] == parsed[1]["Message-ID"]
    assert parsed[0]["Date"] == parsed[1]["Date"]
    assert parsed[0].get_payload(decode=True) == parsed[1].get_payload(decode=True)


def test_an_envelope_of_either() -> None:
    """Bytes or a message, with parameters."""
    params = MailFromParams(envid="1")
    of_message = request_of(Envelope.from_message(message(), mail_params=params))
    assert of_message.for_server(offering()).mail_params is params
    of_bytes = request_of(Envelope(ME, [YOU], b"x", params))
    assert of_bytes.for_server(offering()) is of_bytes
    for item in (message(), Envelope(ME, [YOU], b"x"), Message()):
        check_item(item)
    for wrong in (b"x", None, "x", [message()]):
        with pytest.raises(TypeError):
            check_item(wrong)


RAW = "From: Jörg <me@example.com>\r\nTo: you@example.com\r\nSubject: Grüße\r\n\r\nhi\r\n".encode()


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32])
def test_a_message_with_utf8_in_its_fields(policy: email.policy.Policy[Message]) -> None:
    """Sent with SMTPUTF8 where that is offered, else its fields are encoded (RFC 6532)."""
    made = make_message_request(email.message_from_bytes(RAW, policy=policy))
    internationalised = made.for_server(offering("SMTPUTF8", "8BITMIME"))
    assert internationalised.needs_smtputf8
    assert bytes_of(internationalised).startswith(RAW[:60])
    for offers in (["8BITMIME"], [], ["SMTPUTF8"]):
        encoded = made.for_server(offering(*offers))
        assert not encoded.needs_smtputf8
        assert bytes_of(encoded).isascii()
        parsed = email.message_from_bytes(bytes_of(encoded), policy=email.policy.default)
        assert parsed["Subject"] == "Grüße"
        assert parsed["From"].addresses[0].display_name == "Jörg"


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32])
def test_an_address_that_was_read_as_utf8(policy: email.policy.Policy[Message]) -> None:
    """It is the address that was written, or nothing is sent; never another."""
    raw = "From: me@example.com\r\nTo: jörg@example.net\r\n\r\nhi\r\n".encode()
    made = make_message_request(email.message_from_bytes(raw, policy=policy))
    assert made.paths.recipients[0] == "jörg@example.net"
    request = made.for_server(offering("SMTPUTF8", "8BITMIME"))
    assert request.needs_smtputf8
    assert "To: jörg@example.net\r\n".encode() in bytes_of(request)
    with pytest.raises(SmtpUtf8RequiredError):
        made.for_server(offering("8BITMIME"))


def test_a_message_that_is_set_needs_no_smtputf8() -> None:
    """Only an address requires SMTPUTF8; other text is encoded."""
    made = make_message_request(message())
    assert not made.for_server(offering("SMTPUTF8", "8BITMIME")).needs_smtputf8
    made = make_message_request(message(), ReversePath("jörg@example.com"))
    assert made.for_server(offering("SMTPUTF8", "8BITMIME")).needs_smtputf8


def test_a_domain_that_is_no_ascii_leaves_as_a_labels() -> None:
    """In the envelope and in the header, the same."""
    given = message()
    given.replace_header("To", "you@bücher.example")
    request = make_message_request(given).for_server(offering("8BITMIME"))
    assert b"To: you@xn--bcher-kva.example\r\n" in bytes_of(request)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"mail_params": {"body": "8BITMIME"}},
            r"mail_params are MailFromParams\(...\), not a dict",
        ),
        ({"mail_params": "8BITMIME"}, r"mail_params are MailFromParams\(...\), not a str"),
        ({"rcpt_params": RcptToParams()}, "rcpt_params are a list, .* not a RcptToParams"),
        ({"rcpt_params": iter([RcptToParams()])}, "rcpt_params are a list, .* not a list_iterator"),
        ({"rcpt_params": [{}]}, "a dict is in it"),
        ({"rcpt_params": [None]}, "a NoneType is in it"),
    ],
)
def test_parameters_of_another_type(parameters: dict[str, Any], said: str) -> None:
    """They are refused by name, and the error has what to write."""
    with pytest.raises(ValidationError, match=said):
        make_request(ME, [YOU], b"", **parameters)
