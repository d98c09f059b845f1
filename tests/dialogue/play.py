"""Plays a conversation against a script, through the real pairing and without a socket.

A script is what happens in turn: what the client is to send in one go, and the octets the server
answers to that. It is played three times: each answer whole, octet by octet, and with something
behind the last answer that nobody asked for, which must change nothing but that the connection
cannot be used again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from smtpconn.commands import Command
from smtpconn.dialogue.batch import Batch, Conversation, StartTls
from smtpconn.dialogue.pairing import Pairing

T = TypeVar("T")
Said = str | bytes
"""Text, whose line ends become CRLF, or octets as they are."""

Script = list[tuple[Said, str]]

TLS = "<TLS>"
"""What the script has for the handshake."""


def play(make: Callable[[], Conversation[T]], script: Script) -> T:
    """Play a script in all three ways and return the result; an error comes out as it is."""
    result, pairing = _play(make(), script, 1_000_000, "")
    assert pairing.is_reusable
    assert _play(make(), script, 1, "")[0] == result
    for trailing in ("250 nobody asked\r\n", "421 4.3.2 bye\r\n", "2"):
        same, pairing = _play(make(), script, 1_000_000, trailing)
        assert same == result
        assert not pairing.is_reusable
    return result


def fails(make: Callable[[], Conversation[T]], script: Script) -> BaseException:
    """Play a script that ends in an error, whole and octet by octet, and return the error."""
    errors: list[BaseException] = []
    for size in (1_000_000, 1):
        try:
            _play(make(), script, size, "")
        except Exception as error:
            errors.append(error)
    assert [type(e) for e in errors] == [type(errors[0])] * 2
    assert str(errors[0]) == str(errors[1])
    return errors[0]


def _play(
    conversation: Conversation[T], script: Script, size: int, trailing: str
) -> tuple[T, Pairing]:
    pairing = Pairing()
    turns = list(script)
    try:
        step = next(conversation)
        while True:
            assert turns, "the script is over and the conversation is not"
            expected, answer = turns.pop(0)
            if isinstance(step, StartTls):
                assert expected == TLS
                assert pairing.is_reusable
            else:
                assert isinstance(step, Batch)
                _exchange(pairing, step, expected, answer + ("" if turns else trailing), size)
            step = next(conversation)
    except StopIteration as stop:
        assert not turns, f"not said: {turns}"
        result: T = stop.value
        return result, pairing


def _exchange(pairing: Pairing, batch: Batch, expected: Said, answer: str, size: int) -> None:
    said = bytearray()
    pairing.expect(batch)
    for piece in batch.pieces:
        pairing.ends_at(piece, math.inf)
        for buffer in (piece.wire,) if isinstance(piece, Command) else piece.buffers:
            said += buffer
            pairing.queued(len(buffer))
        pairing.ends_here(piece)
    assert bytes(said) == _crlf(expected)
    pairing.sent(len(said))
    octets = _crlf(answer)
    for start in range(0, len(octets), size):
        pairing.received(octets[start : start + size])
    if batch.missing:
        assert pairing.failure is not None, "the script's answer is too short"
        raise pairing.failure


def _crlf(text: Said) -> bytes:
    if isinstance(text, bytes):
        return text
    return text.replace("\r\n", "\n").replace("\n", "\r\n").encode()
