"""Extensions are used where the message needs them, and the server's limits are kept."""

from __future__ import annotations

import pytest

from smtpconn import ProtocolError
from smtpconn.protocol.transaction import transaction
from tests.support.exchanges import request, session
from tests.support.script import Script, fails, run_script


@pytest.mark.parametrize(
    ("offers", "recipient", "message", "parameters"),
    [
        ("SIZE 1000", "c@d.example", b"hi\r\n", " SIZE=4"),
        ("SIZE", "c@d.example", b"hi\n", " SIZE=4"),
        ("8BITMIME", "c@d.example", b"hi\r\n", ""),
        ("8BITMIME", "c@d.example", b"h\xc3\xa9\r\n", " BODY=8BITMIME"),
        ("SMTPUTF8;8BITMIME", "c@d.example", b"hi\r\n", ""),
        ("SMTPUTF8;8BITMIME", "\u00e9@d.example", b"hi\r\n", " SMTPUTF8"),
        ("", "c@d.example", b"hi\r\n", ""),
    ],
)
def test_what_is_offered_is_used_where_it_is_needed(
    offers: str, recipient: str, message: bytes, parameters: str
) -> None:
    """SIZE wherever it is offered; BODY and SMTPUTF8 for bytes and addresses that need them."""
    text = message.decode().replace("\r\n", "\n")
    script: Script = [
        (
            f"MAIL FROM:<a@b.example>{parameters}\nRCPT TO:<{recipient}>\nDATA\n",
            "250 ok\n250 ok\n354 go\n",
        ),
        (f"{text}.\n", "250 ok\n"),
    ]
    made = session(f"PIPELINING;{offers}")
    run_script(lambda: transaction(made, request(recipient, message=message)), script)


def test_no_more_transactions_than_a_server_takes() -> None:
    """After MAILMAX of them nothing is sent (RFC 9422 4.1)."""
    made = session("PIPELINING;LIMITS MAILMAX=2", transactions=2)
    error = fails(lambda: transaction(made, request()), [])
    assert type(error) is ProtocolError
    assert "connect anew" in str(error)
    assert not error.may_have_been_delivered


def test_too_many_recipients_are_refused_alone() -> None:
    """452 to a recipient is about that one (RFC 5321 4.5.3.1.10): the others get the message."""
    names = [f"{name}@d.example" for name in "cef"]
    envelope = "".join(f"RCPT TO:<{name}>\n" for name in names)
    script: Script = [
        (
            f"MAIL FROM:<a@b.example>\n{envelope}DATA\n",
            "250 ok\n250 ok\n452 4.5.3 too many\n452 4.5.3 too many\n354 go\n",
        ),
        ("hi\n.\n", "250 ok\n"),
    ]
    result = run_script(lambda: transaction(session("PIPELINING"), request(*names)), script)
    assert [str(path) for path in result.accepted_recipients] == names[:1]
    assert [str(each.recipient) for each in result.rejected_recipients] == names[1:]
    assert all(each.response.is_transient for each in result.rejected_recipients)
