"""The reply parser: every case whole, byte by byte, and with the next reply behind it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.errors import ParseError
from smtpconn.model.replies import EnhancedStatusCode, SmtpResponse, response
from smtpconn.protocol.reply_parser import (
    MAX_CHALLENGE,
    MAX_EMPTY_LINES,
    MAX_LINE,
    MAX_LINES,
    MAX_REPLY,
    ReplyParser,
)

QUICK = settings(deadline=None, max_examples=150)
NEXT = b"221 2.0.0 next\r\n"
NEXT_REPLY = SmtpResponse(221, ("2.0.0 next",), EnhancedStatusCode(2, 0, 0))


def drain(parser: ReplyParser) -> list[SmtpResponse]:
    """Every whole reply the parser has."""
    replies = []
    while (reply := parser.next_reply()) is not None:
        replies.append(reply)
    return replies


def parse(*pieces: bytes) -> list[SmtpResponse]:
    """What comes out when these pieces are received one after the other."""
    parser, replies = ReplyParser(), []
    for piece in pieces:
        parser.feed(piece)
        replies += drain(parser)
    return replies


def is_empty(parser: ReplyParser) -> bool:
    """Whether the parser has nothing; asked anew each time, which a type checker forgets."""
    return parser.is_empty


def single_bytes(data: bytes) -> list[bytes]:
    """The pieces of data received byte by byte."""
    return [data[i : i + 1] for i in range(len(data))]


def line(code: bytes, length: int, separator: bytes = b" ") -> bytes:
    """A reply line of exactly ``length`` bytes with its CRLF."""
    return code + separator + b"x" * (length - len(code) - 3) + b"\r\n"


def lines_of(total: int) -> bytes:
    """A reply of exactly ``total`` bytes, in lines of at most 8000."""
    whole, rest = divmod(total - 100, 8000)
    return line(b"250", 8000, b"-") * whole + line(b"250", rest + 100)


GOOD: dict[str, tuple[bytes, int, tuple[str, ...], str | None]] = {
    "text": (b"250 OK\r\n", 250, ("OK",), None),
    "no text": (b"250 \r\n", 250, ("",), None),
    "code only": (b"250\r\n", 250, ("",), None),
    "lowest code": (b"200 OK\r\n", 200, ("OK",), None),
    "highest code": (b"599 no\r\n", 599, ("no",), None),
    "two lines": (b"250-a\r\n250 b\r\n", 250, ("a", "b"), None),
    "last line is a code only": (b"250-a\r\n250\r\n", 250, ("a", ""), None),
    "empty lines": (b"250-\r\n250-\r\n250 \r\n", 250, ("", "", ""), None),
    "text that looks like a code": (b"250-354 go\r\n250 421\r\n", 250, ("354 go", "421"), None),
    "text that begins with a hyphen": (b"250 -x\r\n", 250, ("-x",), None),
    "spaces are kept": (b"250   a  \r\n", 250, ("  a  ",), None),
    "tab": (b"250 a\tb\r\n", 250, ("a\tb",), None),
    "CR CR LF": (b"250-a\r\r\n250 b\r\r\r\n", 250, ("a", "b"), None),
    "CR CR LF behind the code": (b"250\r\r\n", 250, ("",), None),
    **{
        f"control character {byte:#04x}": (
            b"250 a" + bytes([byte]) + b"b\r\n",
            250,
            (f"a\\x{byte:02x}b",),
            None,
        )
        for byte in (*range(1, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)
    },
    "utf-8": ("250 grün\r\n".encode(), 250, ("grün",), None),
    "no utf-8": (b"250 gr\xfcn\r\n", 250, ("gr\udcfcn",), None),
    "a challenge": (b"334 VXNlcm5hbWU6\r\n", 334, ("VXNlcm5hbWU6",), None),
    "status": (b"250 2.1.0 OK\r\n", 250, ("2.1.0 OK",), "2.1.0"),
    "status and no more": (b"550 5.7.26\r\n", 550, ("5.7.26",), "5.7.26"),
    "status with large numbers": (b"450 4.999.999 x\r\n", 450, ("4.999.999 x",), "4.999.999"),
    "status of the first line": (
        b"550-5.1.1 no\r\n550 5.7.1 x\r\n",
        550,
        ("5.1.1 no", "5.7.1 x"),
        "5.1.1",
    ),
    "status of another class": (b"550 4.1.1 no\r\n", 550, ("4.1.1 no",), None),
    "status in a 354": (b"354 2.0.0 go\r\n", 354, ("2.0.0 go",), None),
    "status of class 3": (b"354 3.0.0 go\r\n", 354, ("3.0.0 go",), None),
    "status with too many digits": (b"550 5.1.1000 no\r\n", 550, ("5.1.1000 no",), None),
    "status with two numbers": (b"550 5.1 no\r\n", 550, ("5.1 no",), None),
    "status with four numbers": (b"550 5.1.1.1 no\r\n", 550, ("5.1.1.1 no",), None),
    "status with an empty number": (b"550 5..1 no\r\n", 550, ("5..1 no",), None),
    "status with a foreign digit": ("550 5.1.٣ no\r\n".encode(), 550, ("5.1.٣ no",), None),
    "status with text on it": (b"550 5.1.1: no\r\n", 550, ("5.1.1: no",), None),
    "status later in the text": (b"550 no 5.1.1\r\n", 550, ("no 5.1.1",), None),
    "longest line": (line(b"250", MAX_LINE), 250, ("x" * (MAX_LINE - 6),), None),
    "longest challenge": (line(b"334", MAX_CHALLENGE), 334, ("x" * (MAX_CHALLENGE - 6),), None),
    "most lines": (
        b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n",
        250,
        ("x",) * MAX_LINES,
        None,
    ),
}

BAD: dict[str, bytes] = {
    "nothing": b"\r\n",
    "one digit": b"2\r\n",
    "two digits": b"25\r\n",
    "four digits": b"2500\r\n",
    "letters": b"abc def\r\n",
    "a letter in the code": b"2x0 OK\r\n",
    "foreign digits": "٢٥٠ OK\r\n".encode(),
    "a sign": b"+25 OK\r\n",
    "leading space": b" 250 OK\r\n",
    "1xx": b"100 go on\r\n",
    "199": b"199 go on\r\n",
    "6xx": b"600 protected\r\n",
    "000": b"000 OK\r\n",
    "999": b"999 OK\r\n",
    "no space": b"250OK\r\n",
    "a colon": b"250:OK\r\n",
    "a tab instead of the space": b"250\tOK\r\n",
    "an underscore instead of the hyphen": b"250_OK\r\n",
    "LF alone": b"\n",
    "bare CR": b"250 O\rK\r\n",
    "bare CR behind the code": b"250\rOK\r\n",
    "bare LF behind a line with CRLF": b"250-a\r\n250-b\n250 c\r\n",
    "another code behind": b"250-a\r\n251 b\r\n",
    "another code between": b"250-a\r\n550-b\r\n250 c\r\n",
    "a refusal inside a success": b"250-a\r\n550 b\r\n",
    "a continuation without code": b"250-a\r\nb\r\n250 c\r\n",
    "an empty continuation": b"250-a\r\n\r\n250 c\r\n",
    "an HTTP reply": b"HTTP/1.1 400 Bad Request\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\n\r\n",
    "line too long": line(b"250", MAX_LINE + 1),
    "line too long, of a success that begins like a challenge": line(b"335", MAX_LINE + 1),
    "challenge too long": line(b"334", MAX_CHALLENGE + 1),
    "line that never ends": b"250 " + b"x" * MAX_LINE,
    "challenge that never ends": b"334 " + b"x" * MAX_CHALLENGE,
    "too many lines": b"250-x\r\n" * MAX_LINES,
    "reply too long": lines_of(MAX_REPLY + 1),
    "NUL": b"250 a\0b\r\n",
    "LF inside": b"250-a\r\n250 a\nb\r\n",
}


def expected(name: str) -> SmtpResponse:
    """What a good case of the table has to come out as."""
    _, code, lines, status = GOOD[name]
    numbers = EnhancedStatusCode(*map(int, status.split("."))) if status else None
    return SmtpResponse(code, lines, numbers)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_reply_comes_out(name: str) -> None:
    """A reply comes out the same whole, byte by byte, and with the next reply behind it."""
    data = GOOD[name][0]
    assert parse(data) == [expected(name)]
    assert parse(*single_bytes(data)) == [expected(name)]
    assert parse(data + NEXT) == [expected(name), NEXT_REPLY]
    assert parse(*single_bytes(data + NEXT)) == [expected(name), NEXT_REPLY]


@pytest.mark.parametrize("name", GOOD)
def test_a_reply_is_complete_with_its_last_byte(name: str) -> None:
    """A reply comes out with its LF, not before, and only then nothing of it is left over."""
    data, parser = GOOD[name][0], ReplyParser()
    assert is_empty(parser)
    parser.feed(data[:-1])
    assert parser.next_reply() is None
    assert not is_empty(parser)
    parser.feed(data[-1:])
    assert parser.next_reply() == expected(name)
    assert is_empty(parser)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_reply_is_refused(name: str) -> None:
    """What breaks the grammar or a limit is a ParseError, however it arrives."""
    for pieces in (
        [BAD[name]],
        single_bytes(BAD[name]),
        [BAD[name] + NEXT],
        [NEXT * 2 + BAD[name]],
        [NEXT * 2, *single_bytes(BAD[name])],
    ):
        with pytest.raises(ParseError):
            parse(*pieces)


@pytest.mark.parametrize("name", BAD)
def test_a_broken_parser_stays_broken(name: str) -> None:
    """After a ParseError the parser returns nothing, not even valid replies."""
    parser = ReplyParser()
    parser.feed(BAD[name] + NEXT)
    for _ in range(3):
        with pytest.raises(ParseError):
            parser.next_reply()
        parser.feed(NEXT)


# Line ends


LF_GREETING = b"220 old.example\n"


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_server_whose_greeting_ends_with_lf_ends_all_lines_so(cut: int) -> None:
    """Its replies are read however they arrive, also where CRLF ends one of them."""
    data = LF_GREETING + b"250-old.example\n250-SIZE 10\n250 HELP\n250 a\r\n354 go\n"
    replies = parse(*(data[at : at + cut] for at in range(0, len(data), cut)))
    assert [reply.code for reply in replies] == [220, 250, 250, 354]
    assert replies[1].lines == ("old.example", "SIZE 10", "HELP")


def test_a_reflected_lf_is_an_error_where_lines_end_with_crlf() -> None:
    """Text that the server repeats would become a reply of its own and shift all others."""
    parser = ReplyParser()
    parser.feed(NEXT + b"554 rejected: x\n250 ok\r\n")
    assert parser.next_reply(is_last=True) == NEXT_REPLY
    with pytest.raises(ParseError, match="without CRLF"):
        parser.next_reply(is_last=True)


def test_a_lone_lf_ends_the_one_reply_that_is_awaited() -> None:
    """Only as the last byte received, and only where no other reply is awaited."""
    for is_last in (True, False):
        parser = ReplyParser()
        parser.feed(NEXT + b"250 ok\n")
        assert parser.next_reply(is_last=is_last) == NEXT_REPLY
        if is_last:
            assert parser.next_reply(is_last=True) == SmtpResponse(250, ("ok",))
            assert parser.has_lone_lf
            assert is_empty(parser)
        else:
            with pytest.raises(ParseError):
                parser.next_reply()


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_empty_lines_behind_the_greeting_are_skipped(end: bytes, cut: int) -> None:
    """They are there before the reply to EHLO; up to a bound, and nowhere else."""
    data = b"220 mx" + end + end * MAX_EMPTY_LINES + b"250 mx" + end
    assert [r.code for r in parse(*(data[i : i + cut] for i in range(0, len(data), cut)))] == [
        220,
        250,
    ]
    for bad in (
        b"220 mx" + end + end * (MAX_EMPTY_LINES + 1) + b"250 mx" + end,
        end + b"220 mx" + end,
        b"220 mx" + end + b"250-mx" + end + end + b"250 x" + end,
        b"220 mx" + end + b"250 mx" + end + end + b"250 x" + end,
    ):
        with pytest.raises(ParseError):
            parse(*(bad[i : i + cut] for i in range(0, len(bad), cut)))


def test_nothing_is_left_over_behind_skipped_lines() -> None:
    """So the connection may be put under TLS."""
    parser = ReplyParser()
    for piece in (b"220 mx\r\n", b"\r\n\r", b"\n"):
        parser.feed(piece)
        drain(parser)
    assert is_empty(parser)


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_line_that_is_not_skipped_is_left_over(cut: int) -> None:
    """A parser that has failed is not empty, however the bytes arrive."""
    data = b"220 mx\r\n" + b"\r\n" * (MAX_EMPTY_LINES + 1)
    parser = ReplyParser()

    def receive() -> None:
        for at in range(0, len(data), cut):
            list(parser.replies_in(data[at : at + cut]))

    with pytest.raises(ParseError, match="no reply"):
        receive()
    assert not parser.is_empty


def test_no_empty_lines_under_a_new_tls_layer() -> None:
    """There is no greeting there, and how lines end is learnt anew."""
    parser = ReplyParser(begins_with_greeting=False)
    parser.feed(b"250 mx\r\n\r\n250 ok\r\n")
    assert parser.next_reply() == SmtpResponse(250, ("mx",))
    with pytest.raises(ParseError):
        parser.next_reply()


# A refusal behind lines with another code


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize("code", [421, 450, 521, 554])
def test_a_refusal_behind_a_teaser_is_read_where_it_may_stand(code: int, cut: int) -> None:
    """Without the teaser, which is no text of it, and nothing behind it."""
    data = b"220-teaser\r\n220-more\r\n%d-%d.7.1 no\r\n%d no\r\n" % (code, code // 100, code)
    parser, replies = ReplyParser(), []
    for at in range(0, len(data), cut):
        parser.feed(data[at : at + cut])
        replies += [reply] if (reply := parser.next_reply(may_mix=True)) else []
    status = f"{code // 100}.7.1"
    assert [(reply.code, reply.lines) for reply in replies] == [(code, (f"{status} no", "no"))]
    assert str(replies[0].enhanced_status) == status
    assert parser.is_over
    parser.feed(NEXT)
    assert parser.next_reply(may_mix=True) is None
    assert parser.simple_replies(NEXT) is None
    with pytest.raises(ParseError, match="changed the code"):
        parse(data)


@pytest.mark.parametrize("last", [b"220", b"250", b"354"])
def test_a_success_behind_another_code_is_never_believed(last: bytes) -> None:
    """Also where a refusal would be."""
    parser = ReplyParser()
    parser.feed(b"220-teaser\r\n250-x\r\n" + last + b" ok\r\n")
    with pytest.raises(ParseError, match="changed the code"):
        parser.next_reply(may_mix=True)


def test_replies_before_the_break_come_out() -> None:
    """What came before the garbage was a reply and is delivered as one."""
    parser = ReplyParser()
    parser.feed(NEXT + b"garbage\r\n")
    assert parser.next_reply() == NEXT_REPLY
    with pytest.raises(ParseError):
        parser.next_reply()


def test_the_longest_reply_is_accepted() -> None:
    """A reply of exactly 64 KiB is one; the limit counts each reply by itself."""
    (first, second) = parse(lines_of(MAX_REPLY) * 2)
    assert first == second
    assert sum(len(text) + 6 for text in first.lines) == MAX_REPLY


def test_a_line_without_end_is_refused_early() -> None:
    """A peer that never ends its line is refused once the limit is passed, not at its LF."""
    parser = ReplyParser()
    parser.feed(b"250 " + b"x" * (MAX_LINE - 4))
    assert parser.next_reply() is None
    parser.feed(b"x")
    with pytest.raises(ParseError, match="8192"):
        parser.next_reply()


def test_a_reply_without_end_is_refused_early() -> None:
    """The 128th continuation line is refused as such: a last line could only be the 129th."""
    parser = ReplyParser()
    parser.feed(b"250-x\r\n" * (MAX_LINES - 1))
    assert parser.next_reply() is None
    parser.feed(b"250-x\r\n")
    with pytest.raises(ParseError, match="128 lines"):
        parser.next_reply()


def test_the_total_limit_holds_inside_a_line() -> None:
    """Bytes without LF count towards the limit of the whole reply."""
    parser = ReplyParser()
    parser.feed(line(b"250", 8000, b"-") * (MAX_REPLY // 8000))
    assert parser.next_reply() is None
    parser.feed(b"250 " + b"x" * (MAX_REPLY % 8000 - 4))
    assert parser.next_reply() is None
    parser.feed(b"x")
    with pytest.raises(ParseError, match="65536"):
        parser.next_reply()


def test_a_reply_waits_for_its_last_line() -> None:
    """A parser between two lines of a reply is not empty, though its buffer is."""
    parser = ReplyParser()
    parser.feed(b"250-a\r\n")
    assert parser.next_reply() is None
    assert not is_empty(parser)


def test_a_second_reply_leaves_the_parser_not_empty() -> None:
    """Unsolicited data is detected: after one reply, a second one is in the buffer."""
    parser = ReplyParser()
    parser.feed(NEXT + b"2")
    assert parser.next_reply() == NEXT_REPLY
    assert not is_empty(parser)


def test_byte_by_byte_takes_linear_time() -> None:
    """A challenge of 12 KiB and a reply of 64 KiB that drip in byte by byte take no time."""
    data = single_bytes(line(b"334", MAX_CHALLENGE) + lines_of(MAX_REPLY))
    start = time.perf_counter()
    assert len(parse(*data)) == 2
    assert time.perf_counter() - start < 1


def test_many_replies_at_once() -> None:
    """Twenty thousand replies in one buffer come out one by one."""
    assert parse(NEXT * 20_000) == [NEXT_REPLY] * 20_000


@pytest.mark.parametrize("hostile", [b"\xff" * 200, b"\x00" * 200, b"x\x1b[2J" * 100, b"\xc2\x9b"])
def test_errors_quote_safely_and_briefly(hostile: bytes) -> None:
    """What a server sent is quoted in printable ASCII and cut."""
    with pytest.raises(ParseError) as caught:
        parse(hostile + b"\r\n")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (SmtpResponse(250), "250"),
        (SmtpResponse(250, ("OK",)), "250 OK"),
        (SmtpResponse(250, ("a", "", "b")), "250 a / b"),
        (SmtpResponse(550, ("5.1.1 no",), EnhancedStatusCode(5, 1, 1)), "550 5.1.1 no"),
        (SmtpResponse(250, ("grün",)), "250 grün"),
        (SmtpResponse(250, ("gr\udcfcn",)), r"250 gr\udcfcn"),
    ],
)
def test_text_of_a_reply(reply: SmtpResponse, text: str) -> None:
    """A reply reads in one line, and that line can always be encoded."""
    assert str(reply) == text
    assert str(reply).encode()


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (200, "success"),
        (299, "success"),
        (300, "intermediate"),
        (399, "intermediate"),
        (400, "transient"),
        (499, "transient"),
        (500, "permanent"),
        (599, "permanent"),
    ],
)
def test_kind_of_a_reply(code: int, kinds: str) -> None:
    """A reply is of exactly one kind, by its first digit."""
    reply = SmtpResponse(code)
    found = [
        kind
        for kind in ("success", "intermediate", "transient", "permanent")
        if getattr(reply, f"is_{kind}")
    ]
    assert found == [kinds]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("2.0.0", EnhancedStatusCode(2, 0, 0)),
        ("4.7.1 try later", EnhancedStatusCode(4, 7, 1)),
        ("5.123.456 x", EnhancedStatusCode(5, 123, 456)),
        ("", None),
        (" ", None),
        (" 2.0.0 x", None),
        ("1.0.0", None),
        ("3.0.0", None),
        ("6.0.0", None),
        ("2.0", None),
        ("2.0.", None),
        ("2..0", None),
        ("2.-1.0", None),
        ("2.+1.0", None),
        ("2.0.0.0", None),
        ("2.0.1234", None),
        ("22.0.0", None),
        ("2.²0.0", None),
        ("2.1_0.0", None),
        ("OK", None),
    ],
)
def test_status_code_from_text(text: str, status: EnhancedStatusCode | None) -> None:
    """A status code is three numbers of at most three digits at the very beginning."""
    assert EnhancedStatusCode.from_text(text) == status


@pytest.mark.parametrize("value", [EnhancedStatusCode(5, 1, 1), SmtpResponse(250, ("a", "b"))])
def test_replies_are_values(value: EnhancedStatusCode | SmtpResponse) -> None:
    """Replies compare by value, hash, pickle, and cannot be changed."""
    same = pickle.loads(pickle.dumps(value))
    assert same == value == copy.deepcopy(value)
    assert hash(same) == hash(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 1)


def test_response_reads_the_status_code() -> None:
    """The function that makes a response takes the code only if its class matches."""
    assert response(550, ("5.1.1 no",)).enhanced_status == EnhancedStatusCode(5, 1, 1)
    assert response(450, ("5.1.1 no",)).enhanced_status is None


def _encode(code: int, texts: list[bytes]) -> bytes:
    return b"".join(
        b"%d%b%b\r\n" % (code, b" " if i == len(texts) - 1 else b"-", text)
        for i, text in enumerate(texts)
    )


_TEXTS = st.lists(
    st.binary(max_size=40).map(
        lambda b: bytes(c for c in b if c == 9 or (c >= 0x20 and c != 0x7F))
    ),
    min_size=1,
    max_size=6,
)
_REPLIES = st.lists(st.tuples(st.integers(200, 599), _TEXTS), max_size=8)


@st.composite
def _splits(draw: st.DrawFn) -> tuple[list[tuple[int, list[bytes]]], list[bytes]]:
    replies = draw(_REPLIES)
    data = b"".join(_encode(code, texts) for code, texts in replies)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=12))
    edges = [0, *sorted(cuts), len(data)]
    return replies, [data[a:b] for a, b in itertools.pairwise(edges)]


@QUICK
@given(_splits())
def test_any_replies_split_anywhere_come_out_unchanged(
    case: tuple[list[tuple[int, list[bytes]]], list[bytes]],
) -> None:
    """Where the network cuts does not matter."""
    replies, pieces = case
    found = [
        (reply.code, [text.encode("utf-8", "surrogateescape") for text in reply.lines])
        for reply in parse(*pieces)
    ]
    assert found == replies


@QUICK
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"250 ", b"250-", b"\r", b"\n", b"\r\n", b"2", b"354 go\r\n"]),
        ),
        max_size=20,
    )
)
def test_arbitrary_bytes_give_replies_or_a_parse_error(pieces: list[bytes]) -> None:
    """Whatever is received: replies, then perhaps a ParseError, and after it only that."""
    parser, broken = ReplyParser(), False
    for piece in pieces:
        parser.feed(piece)
        try:
            replies = drain(parser)
        except ParseError:
            broken = True
        else:
            assert not broken
            assert all(200 <= reply.code <= 599 and reply.lines for reply in replies)


USUAL = st.sampled_from([b"250 2.1.0 Ok\r\n", b"250 Ok\r\n354 go\r\n", b"421 bye\r\n", b"2"])


def _received(parser: ReplyParser, data: bytes) -> Iterable[SmtpResponse]:
    """What comes out the way a connection asks for it."""
    usual = parser.simple_replies(data)
    return list(parser.replies_in(data)) if usual is None else usual


def _check_remembered(pieces: Iterable[bytes]) -> None:
    parser, remembering = ReplyParser(), ReplyParser()
    for piece in pieces:
        parser.feed(piece)
        try:
            expected = drain(parser)
        except ParseError:
            with pytest.raises(ParseError):
                _received(remembering, piece)
            return
        found = _received(remembering, piece)
        assert not isinstance(found, tuple) or all(reply.code != 421 for reply in found)
        assert list(found) == expected
        assert remembering.is_empty == parser.is_empty


@QUICK
@given(st.lists(USUAL | st.binary(max_size=20), max_size=20))
def test_what_is_remembered_is_what_would_be_parsed(pieces: list[bytes]) -> None:
    """Replies that come again are the same ones; 421 is left for who looks at each."""
    _check_remembered(pieces)


LINES = st.sampled_from(
    [
        b"250 2.1.0 Ok\r\n",
        b"354 go\r\n",
        b"250 Ok\r\n",
        b"421 bye\r\n",
        b"250-a\r\n",
        b"250 b\r\r\n",
    ]
)


@QUICK
@given(st.lists(LINES | st.binary(max_size=6), max_size=20), st.lists(st.integers(1, 40)))
def test_replies_cut_anywhere_are_what_would_be_parsed(lines: list[bytes], cuts: list[int]) -> None:
    """Pieces that begin and end within a line give the same replies, and leave the same over."""
    whole, pieces = b"".join(lines), list[bytes]()
    for size in itertools.chain(cuts, itertools.repeat(64)):
        if not whole:
            break
        pieces.append(whole[:size])
        whole = whole[size:]
    _check_remembered(pieces)


def test_long_answers_cut_within_lines_stay_usual() -> None:
    """Each segment of a long answer takes the fast way, wherever it is cut."""
    parser, found = ReplyParser(), 0
    answer = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: queued as 4bWx2k\r\n" * 300
    for start in range(0, len(answer), 1448):
        replies = parser.simple_replies(answer[start : start + 1448])
        assert replies is not None
        found += len(replies)
    assert found == 900
    assert parser.is_empty


@QUICK
@given(
    st.binary(max_size=60) | st.from_regex(rb"(2[0-9]{2}[ -]?[a\t\r\n]{0,3}\r\n)*", fullmatch=True)
)
def test_the_outcome_does_not_depend_on_the_pieces(data: bytes) -> None:
    """Fed whole and fed byte by byte, the same replies and the same end come out."""

    def outcome(pieces: list[bytes]) -> tuple[list[SmtpResponse], bool]:
        parser, replies = ReplyParser(), list[SmtpResponse]()
        try:
            for piece in pieces:
                parser.feed(piece)
                while (reply := parser.next_reply()) is not None:
                    replies.append(reply)
        except ParseError:
            return replies, True
        return replies, False

    assert outcome([data]) == outcome(single_bytes(data))
