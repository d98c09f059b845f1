"""From a name to a connected socket: resolving in time, and racing addresses (RFC 8305)."""

from __future__ import annotations

import errno
import signal
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from smtpconn import (
    ConnectionClosedError,
    PermanentError,
    Phase,
    ProtocolError,
    SmtpConnection,
    SmtpError,
    SmtpResponse,
    SmtpTimeoutError,
    TlsMode,
    TransportError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import ATTEMPT_DELAY, open_socket
from smtpconn.testing import SmtpServer
from tests.support.addresses import NAME, dead, live, refusing, resolve_to
from tests.support.error_classes import kind_of

TIMEOUT = 5.0


def open_named(timeout: float = TIMEOUT) -> tuple[Any, float]:
    """Connect to the name; where to that led, and how long it took."""
    start = time.monotonic()
    with open_socket(NAME, 25, Deadline(timeout)) as sock:
        return sock.getpeername()[:2], time.monotonic() - start


def never_wait_for_the_next_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the delay so long that what waits for it is over its deadline, on any machine."""
    monkeypatch.setattr("smtpconn.net.happy_eyeballs.ATTEMPT_DELAY", 1000 * TIMEOUT)


def never_wait_after(monkeypatch: pytest.MonkeyPatch, watched: object, error: int = 0) -> None:
    """Begin `never_wait_for_the_next_address` with an attempt, which may fail at once."""

    class Watching(socket.socket):
        def connect_ex(self, address: Any, /) -> int:
            if address != watched:
                return super().connect_ex(address)
            never_wait_for_the_next_address(monkeypatch)
            return error or super().connect_ex(address)

    monkeypatch.setattr(socket, "socket", Watching)


# --- Racing ---------------------------------------------------------------------------------------


def test_a_dead_address_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first address does not answer, the second one is tried after 250 ms."""
    with dead() as first, live() as second:
        resolve_to(monkeypatch, [first, second])
        peer, seconds = open_named()
        assert peer == second
        assert ATTEMPT_DELAY - 0.05 < seconds < 1.5


def test_two_dead_addresses_cost_two_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further address is tried 250 ms after the one before."""
    with dead() as first, dead() as second, live() as third:
        resolve_to(monkeypatch, [first, second, third])
        peer, seconds = open_named()
        assert peer == third
        assert 2 * ATTEMPT_DELAY - 0.05 < seconds < 2


def test_the_first_address_wins_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the resolver is kept among addresses that answer."""
    never_wait_for_the_next_address(monkeypatch)
    with live() as first, live() as second:
        resolve_to(monkeypatch, [first, second])
        peer, _ = open_named()
        assert peer == first


def test_a_refused_address_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first address refuses, the second one is tried at once."""
    never_wait_for_the_next_address(monkeypatch)
    with live() as second:
        resolve_to(monkeypatch, [refusing(), refusing(), second])
        peer, _ = open_named()
        assert peer == second


def test_a_refusal_behind_a_dead_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal while another attempt hangs brings the next address forward."""
    second = refusing()

    with dead() as first, live() as third:
        resolve_to(monkeypatch, [first, second, third])
        never_wait_after(monkeypatch, second)
        peer, seconds = open_named()
        assert peer == third
        assert seconds > ATTEMPT_DELAY - 0.05


def test_an_unreachable_address_behind_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it fails at once, as that of a family that has no route here does."""
    unreachable = ("192.0.2.1", 25)

    with dead() as first, live() as third:
        resolve_to(monkeypatch, [first, unreachable, third])
        never_wait_after(monkeypatch, unreachable, errno.ENETUNREACH)
        peer, _ = open_named()
        assert peer == third


def test_all_addresses_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names every address and why it could not be reached."""
    addresses = [refusing("127.0.0.1"), refusing("127.0.0.2"), refusing("127.0.0.3")]
    resolve_to(monkeypatch, addresses)
    with pytest.raises(TransportError) as caught:
        open_named()
    assert kind_of(caught.value) is TransportError
    assert caught.value.phase is Phase.CONNECT
    for host, _ in addresses:
        assert f"{host}: Connection refused" in str(caught.value)


def test_all_addresses_are_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline ends the race; nothing is left open."""
    with dead() as first, dead() as second:
        resolve_to(monkeypatch, [first, second])
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            open_named(0.4)
        assert 0.4 <= time.monotonic() - start < 0.9
        assert caught.value.phase is Phase.CONNECT


@pytest.mark.parametrize(
    ("families", "expected"),
    [("6644", "6464"), ("4466", "4646"), ("6664", "6466"), ("44", "44"), ("466", "466")],
)
def test_families_alternate(monkeypatch: pytest.MonkeyPatch, families: str, expected: str) -> None:
    """Addresses of both families are tried in turn, the first one's first (RFC 8305 4)."""
    hosts = {"4": "127.0.0.1", "6": "::1"}
    addresses = [(hosts[family], 1 + place) for place, family in enumerate(families)]
    resolve_to(monkeypatch, addresses)
    tried: list[str] = []

    class Recording(socket.socket):
        def connect_ex(self, address: Any, /) -> int:
            tried.append("6" if self.family is socket.AF_INET6 else "4")
            return 111

    monkeypatch.setattr(socket, "socket", Recording)
    with pytest.raises(TransportError):
        open_named()
    assert "".join(tried) == expected


def test_a_family_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that cannot even be made counts as an address that failed."""
    make = socket.socket

    def without_ipv6(family: int = -1, *args: Any, **kwargs: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return make(family, *args, **kwargs)

    with live() as address:
        resolve_to(monkeypatch, [("::1", 25), address])
        monkeypatch.setattr(socket, "socket", without_ipv6)
        peer, _ = open_named()
        assert peer == address


# --- Resolving ------------------------------------------------------------------------------------


def test_a_name_is_resolved_where_no_thread_is_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the interpreter ends no thread can be started (3.12), and mail may still be sent."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with live() as address:
        resolve_to(monkeypatch, [address])
        assert open_named()[0] == address


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds for the resolver too, which is left behind in its thread."""
    go_on = threading.Event()

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        if not options.get("flags"):
            assert go_on.wait(TIMEOUT)
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    before = set(threading.enumerate())
    try:
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            SmtpConnection.connect(NAME, 25, TlsMode.NONE, 0.2)
        assert 0.2 <= time.monotonic() - start < 0.7
        assert caught.value.phase is Phase.CONNECT
        left = set(threading.enumerate()) - before
        assert all(thread.daemon for thread in left)
    finally:
        go_on.set()
    for thread in left:
        thread.join(TIMEOUT)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UnicodeError("label too long"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_name_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What the resolver says is in the error, and the resolver's own error is its cause."""

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(TransportError, match=f"{NAME} cannot be resolved") as caught:
        open_named()
    assert caught.value.phase is Phase.CONNECT
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_needs_no_resolver(host: str) -> None:
    """For a numeric address no thread is started."""
    with live(host) as address:
        before = threading.active_count()
        with open_socket(*address, Deadline(TIMEOUT)) as sock:
            assert sock.getpeername()[:2] == address
            assert threading.active_count() == before


# --- Other ways to a socket -----------------------------------------------------------------------


def test_our_own_address() -> None:
    """``source_address`` is where the connection comes from."""
    with live() as address:
        source = ("127.0.0.2", 0)
        with open_socket(*address, Deadline(TIMEOUT), source) as sock:
            assert sock.getsockname()[0] == "127.0.0.2"


def test_an_address_that_is_not_ours() -> None:
    """A source address that this machine does not have is a TransportError."""
    with live() as address, pytest.raises(TransportError) as caught:
        open_socket(*address, Deadline(TIMEOUT), ("192.0.2.1", 0))
    assert caught.value.phase is Phase.CONNECT


def test_a_source_address_reaches_the_server() -> None:
    """A connection has the option and names itself by that address."""
    with (
        SmtpServer() as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(socket, "gethostname", lambda: "short")
        with SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, TIMEOUT, source_address=("127.0.0.2", 0)
        ):
            assert server.connections[0].commands == ["EHLO [127.0.0.2]"]


def test_a_unix_socket(tmp_path: Path) -> None:
    """A host that begins with a slash is connected to as a path."""
    path = str(tmp_path / "smtp")
    with SmtpServer(unix_path=path), open_socket(path, 0, Deadline(TIMEOUT)) as sock:
        assert sock.family is socket.AF_UNIX
        assert sock.getpeername() == path


@pytest.mark.parametrize("kind", ["missing", "not a socket", "refused"])
def test_a_unix_socket_that_fails(tmp_path: Path, kind: str) -> None:
    """A path without a listening socket is a TransportError that names it."""
    path = tmp_path / "smtp"
    if kind == "not a socket":
        path.touch()
    elif kind == "refused":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    with pytest.raises(TransportError, match=str(path)) as caught:
        open_socket(str(path), 0, Deadline(TIMEOUT))
    assert caught.value.phase is Phase.CONNECT


def full_backlog(path: str, stack: ExitStack) -> socket.socket:
    """A UNIX socket whose backlog is full, so that connecting to it would block."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    for _ in range(64):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        if sock.connect_ex(path):
            return listener
    pytest.skip("this kernel has no limit to the queue of a listening socket")


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """A UNIX socket is connected to as soon as its server takes another connection."""
    with ExitStack() as stack:
        path = str(tmp_path / "smtp")
        listener = full_backlog(path, stack)
        asked = threading.Event()

        class Recording(socket.socket):
            def connect_ex(self, address: Any, /) -> int:
                code = super().connect_ex(address)
                if code:
                    asked.set()
                return code

        def make_room() -> None:
            assert asked.wait(TIMEOUT)
            stack.enter_context(listener.accept()[0])

        server = threading.Thread(target=make_room)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "socket", Recording)
            server.start()
            with open_socket(path, 0, Deadline(TIMEOUT)) as sock:
                assert sock.getpeername() == path
        server.join()


def test_a_backlog_that_stays_full(tmp_path: Path) -> None:
    """The deadline ends the waiting, which takes no time of the processor worth mentioning."""
    with ExitStack() as stack:
        path = str(tmp_path / "smtp")
        full_backlog(path, stack)
        begun, used = time.monotonic(), time.process_time()
        with pytest.raises(SmtpTimeoutError) as caught:
            open_socket(path, 0, Deadline(0.5))
        assert 0.5 <= time.monotonic() - begun < 1.5
        assert time.process_time() - used < 0.25
        assert caught.value.phase is Phase.CONNECT


def test_a_server_that_goes_while_its_backlog_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends the waiting is told as it is."""
    with ExitStack() as stack:
        path = str(tmp_path / "smtp")
        listener = full_backlog(path, stack)
        monkeypatch.setattr(time, "sleep", lambda seconds: listener.close())
        with pytest.raises(TransportError, match="refused"):
            open_socket(path, 0, Deadline(TIMEOUT))


# --- A caller's own socket ------------------------------------------------------------------------


def test_a_socket_factory_is_used() -> None:
    """The factory gets host, port and the seconds left; its socket is the connection's."""
    calls: list[tuple[str, int, float]] = []
    with SmtpServer() as server:

        def factory(host: str, port: int, seconds: float) -> socket.socket:
            calls.append((host, port, seconds))
            return socket.create_connection((server.host, server.port), seconds)

        with SmtpConnection.connect(
            "behind.example.test", 2525, TlsMode.NONE, TIMEOUT, socket_factory=factory
        ) as connection:
            connection.noop()
            assert "behind.example.test:2525" in repr(connection)
        assert server.connections[0].commands[1:] == ["NOOP", "QUIT"]
    ((host, port, seconds),) = calls
    assert (host, port) == ("behind.example.test", 2525)
    assert TIMEOUT - 1 < seconds <= TIMEOUT


@pytest.mark.parametrize("value", [None, 5, "127.0.0.1", ("127.0.0.1", 25)])
def test_a_socket_factory_that_returns_no_socket(value: Any) -> None:
    """That is a transient error of connecting, so another server is tried."""
    with SmtpServer() as server, pytest.raises(TransportError) as failed:
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, TIMEOUT, socket_factory=lambda *_: value
        )
    assert f"socket_factory returned {type(value).__name__}" in str(failed.value)
    assert failed.value.phase == "connect"
    assert failed.value.is_safe_to_retry


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(113, "No route to host"), TransportError),
        (ConnectionRefusedError(111, "Connection refused"), TransportError),
        (ConnectionResetError(104, "reset"), ConnectionClosedError),
        (TimeoutError("timed out"), SmtpTimeoutError),
        (TimeoutError(110, "timed out"), SmtpTimeoutError),
        (socket.gaierror(socket.EAI_NONAME, "no"), TransportError),
    ],
    ids=repr,
)
def test_a_factory_that_fails(error: OSError, kind: type[SmtpError]) -> None:
    """What a factory raises as an OSError gets its name, and is the cause."""

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        raise error

    with pytest.raises(kind) as caught:
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=factory)
    assert kind_of(caught.value) is kind
    assert caught.value.phase is Phase.CONNECT
    assert caught.value.is_transient
    assert caught.value.__cause__ is error


def test_a_timeout_of_a_factorys_own() -> None:
    """The text does not say that the operation's timeout has passed."""

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        raise TimeoutError("the proxy took 2 seconds")

    with pytest.raises(SmtpTimeoutError, match="socket_factory raised TimeoutError: the proxy"):
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=factory)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("bug"),
        PermanentError(SmtpResponse(550, ("no",)), phase=Phase.MAIL),
        ProtocolError("its own", may_have_been_delivered=True),
        ssl.SSLError(1, "the proxy's certificate"),
    ],
    ids=repr,
)
def test_a_factory_that_has_its_own_error(error: Exception) -> None:
    """Any other Exception of a factory is the cause of a transient error of connecting."""

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        raise error

    with pytest.raises(TransportError) as caught:
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=factory)
    assert caught.value.phase is Phase.CONNECT
    assert caught.value.is_transient
    assert not caught.value.may_have_been_delivered
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_factory_that_is_interrupted(error: type[BaseException]) -> None:
    """What is no Exception passes as it is."""

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        raise error

    with pytest.raises(error):
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=factory)


class SoftTimeLimit(Exception):
    """What a signal handler raises, as Celery's does."""


def test_a_signal_handler_strikes_while_a_factory_runs() -> None:
    """Its exception is not the factory's: it passes as it is."""

    def handler(number: int, frame: object) -> None:
        raise SoftTimeLimit

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        signal.raise_signal(signal.SIGUSR1)
        raise AssertionError("the handler has raised")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(SoftTimeLimit):
            SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=factory)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_factory_whose_socket_is_dead() -> None:
    """A socket that is not connected is closed, and an error of connecting."""
    made = socket.socket()
    with pytest.raises(SmtpError):
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, TIMEOUT, socket_factory=lambda *args: made)
    assert made.fileno() == -1


def test_no_password_in_clear_behind_a_factory() -> None:
    """Behind a proxy a peer on this machine says nothing: passwords need TLS or permission."""
    with SmtpServer(users={"user": "secret"}) as server:

        def factory(host: str, port: int, seconds: float) -> socket.socket:
            return socket.create_connection((server.host, server.port), seconds)

        for allowed in (False, True):
            with SmtpConnection.connect(
                NAME,
                25,
                TlsMode.NONE,
                TIMEOUT,
                socket_factory=factory,
                allow_cleartext_auth=allowed,
            ) as connection:
                if allowed:
                    connection.auth_plain("user", "secret")
                else:
                    with pytest.raises(ProtocolError, match="TLS"):
                        connection.auth_plain("user", "secret")
                assert connection.is_authenticated is allowed
        sent = server.connections[0].commands
        assert [line.partition(" ")[0] for line in sent] == ["EHLO", "QUIT"]
