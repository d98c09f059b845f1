"""``smtpconn serve``: catch mail on this machine while developing; the old ``python -m smtpd``.

It is `smtpconn.testing.SmtpServer` with a command line: nothing it takes goes anywhere. A message
is acknowledged after it was printed or stored, so what a client was told is true. It listens on the
loopback interface unless told otherwise, because it takes everything from everybody.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from smtpconn.cli import options, secrets
from smtpconn.cli.asjson import Json
from smtpconn.cli.exit_codes import CommandError, CommandResult, ExitCode, UsageError
from smtpconn.cli.output import FAINT, HEAD, Output
from smtpconn.cli.pem import load_certificate
from smtpconn.testing import ReceivedMessage, SmtpServer
from smtpconn.testing.faults import STEPS

PORT = 8025

TIMEOUT = 1.0
"""Seconds that clients have at the end to get the answers they wait for."""

_ACTIONS = ("close", "reset", "hang")


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    group = parser.add_argument_group("listening")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    group.add_argument(
        "-p", "--port", type=_port_or_any, default=PORT, metavar="PORT",
        help=f"0 for any that is free (default: {PORT})",
    )  # fmt: skip
    group.add_argument("--socket", metavar="PATH", help="a UNIX socket instead")
    group.add_argument(
        "--protocol", type=str.upper, choices=["SMTP", "LMTP"], default="SMTP", metavar="smtp|lmtp"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="offer STARTTLS with this certificate")
    group.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    group.add_argument(
        "-tlsc", "--tlsc", "--tls-on-connect", action="store_true", help="TLS from the first octet"
    )
    group.add_argument(
        "--user", metavar="USER", help=f"want this login; password: {secrets.PASSWORD_VARIABLE}"
    )
    group.add_argument("--auth-password-command", metavar="COMMAND", help="prints the password")
    group = parser.add_argument_group("messages")
    group.add_argument("--store", metavar="DIR", help="as .eml files, each with a .json beside it")
    group.add_argument("--count", type=options.count, metavar="N", help="end after N messages")
    group.add_argument("--max-size", type=options.count, metavar="OCTETS")
    group.add_argument(
        "--refuse", action="append", default=[], metavar="ADDRESS", help="a recipient to refuse"
    )
    group.add_argument(
        "--fault", action="append", default=[], type=_fault, metavar="STEP=REPLY",
        help="go wrong, such as RCPT='450 4.2.0 later', DATA=close, NOOP=hang",
    )  # fmt: skip
    options.common(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Listen until Ctrl-C, SIGTERM or the last message wanted."""
    catcher = MessageSink(out, None if args.store is None else _directory(args.store), args.count)
    error: CommandError | None = None
    server = _server(args, catcher, out)
    for step, settings in args.fault:
        server.fault(step, times=None, **settings)
    try:
        with _until_told():
            if (error := _start(server, args)) is not None:
                return CommandResult(ExitCode.SERVE, error, {"messages": 0})
            out.info(f"smtpconn: listening on {_where(args, server)} (Ctrl-C ends)")
            catcher.is_over.wait()
    except KeyboardInterrupt:
        pass
    finally:
        _stop(server, catcher)
    out.info(f"smtpconn: {catcher.caught} messages")
    if catcher.failure is not None:
        error = CommandError(f"a message cannot be stored: {catcher.failure}", os.EX_IOERR)
    return CommandResult(
        ExitCode.OK if error is None else ExitCode.SERVE, error, {"messages": catcher.caught}
    )


def _start(server: SmtpServer, args: argparse.Namespace) -> CommandError | None:
    """Begin to listen; why not, if it cannot be."""
    try:
        server.start()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        return CommandError(f"cannot listen on {_where(args, server)}: {reason}", os.EX_OSERR)
    return None


def _stop(server: SmtpServer, catcher: MessageSink) -> None:
    """Let those who are being answered have their answer, and end."""
    server.close_idle(None)
    try:
        server.wait_for(lambda: all(each.closed for each in server.connections), TIMEOUT)
    except TimeoutError:
        pass  # a client that goes on and on
    try:
        server.stop()
    except OSError:
        if catcher.failure is None:
            raise


class MessageSink:
    """Takes messages: prints them, or stores them.

    Args:
        out: where they are printed.
        directory: where they are stored; None to print them.
        wanted: after how many it is over; None for never.

    Attributes:
        caught: how many there were.
        is_over: set when there are enough, or one cannot be stored.
        failure: why not.
    """

    def __init__(self, out: Output, directory: Path | None, wanted: int | None) -> None:
        self.caught = 0
        self.is_over = threading.Event()
        self.failure: OSError | None = None
        self._out = out
        self._directory = directory
        self._wanted = wanted
        self._lock = threading.Lock()

    def take(self, message: ReceivedMessage) -> None:
        """Take a message; when this returns it is safe.

        Raises:
            OSError: it cannot be stored or printed, so it must not be acknowledged.
        """
        with self._lock:
            number = self.caught + 1
            try:
                path = None if self._directory is None else store(self._directory, message)
                self._print(number, message, path)
            except OSError as error:
                self.failure = error
                self.is_over.set()
                raise
            self.caught = number
            if number == self._wanted:
                self.is_over.set()

    def _print(self, number: int, message: ReceivedMessage, path: Path | None) -> None:
        self._out.object({"number": number, **described(message, path)})
        if path is not None:
            whom = ", ".join(message.recipients)
            return self._out.line(f"{path}: {message.sender or '<>'} to {whom}")
        self._out.line(f"---------- message {number} ----------", HEAD)
        for name, value in _envelope_lines(message):
            self._out.line(f"{name}: {value}", FAINT)
        for line in message.content.decode("utf-8", "backslashreplace").splitlines():
            self._out.line(line)
        return self._out.line("------------ end ------------", HEAD)


def store(directory: Path, message: ReceivedMessage) -> Path:
    """Write a message and what is known of it; the .eml appears when it is whole.

    The name is the time, the process and a number, and is claimed by creating the .json, which
    fails if it exists; so names never collide, not even between processes.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    number = 0
    while True:
        number += 1
        stem = f"{stamp}-{os.getpid()}-{number}"
        path = directory / f"{stem}.eml"
        try:
            with open(directory / f"{stem}.json", "x", encoding="utf-8") as file:
                json.dump(described(message, path), file, indent=2)
                file.write("\n")
        except FileExistsError:
            continue
        unfinished = directory / f".{stem}.tmp"
        unfinished.write_bytes(message.content)
        return unfinished.rename(path)


def described(message: ReceivedMessage, path: Path | None) -> dict[str, Json]:
    """A message as JSON; with its content where that is in no file."""
    content = None
    if path is None:
        content = message.content.decode("utf-8", "backslashreplace")
    return {
        "sender": message.sender,
        "recipients": message.recipients,
        "mail_parameters": message.mail_parameters,
        "recipient_parameters": message.recipient_parameters,
        "user": message.user,
        "tls": message.tls,
        "connection": message.connection,
        "via": message.via,
        "size": len(message.content),
        "file": None if path is None else str(path),
        "content": content,
    }


def _envelope_lines(message: ReceivedMessage) -> Iterator[tuple[str, str]]:
    yield "X-Mail-From", " ".join((f"<{message.sender}>", *message.mail_parameters))
    for path, parameters in zip(message.recipients, message.recipient_parameters, strict=True):
        yield "X-Rcpt-To", " ".join((f"<{path}>", *parameters))
    if message.user is not None:
        yield "X-User", message.user
    tls = " under TLS" if message.tls else ""
    yield "X-Received", f"by {message.via}{tls}, connection {message.connection}"


def _server(args: argparse.Namespace, catcher: MessageSink, out: Output) -> SmtpServer:
    users = {}
    if args.user is not None:
        password = secrets.password(args.user, args.auth_password_command)
        out.secrets.add(args.user, password)
        users[args.user] = password
    context = _context(args)
    if args.socket is None and not _is_loopback(args.host):
        out.warning(f"listening on {args.host}: everybody who reaches it can send to it")
    return SmtpServer(
        host=args.host,
        port=args.port,
        protocol=args.protocol,
        hostname="localhost",
        users=users,
        require_auth=bool(users),
        tls_context=context,
        implicit_tls=args.tlsc,
        unix_path=args.socket,
        size_limit=args.max_size,
        recipient_known=lambda path: path not in args.refuse,
        on_message=catcher.take,
    )


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.tls_cert is None:
        if args.tlsc or args.tls_key:
            raise UsageError("--tlsc and --tls-key need --tls-cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, args.tls_cert, args.tls_key)
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _where(args: argparse.Namespace, server: SmtpServer) -> str:
    if args.socket is not None:
        return str(args.socket)
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{host}:{server.port}"


def _directory(name: str) -> Path:
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--store {name}: {error.strerror}", os.EX_CANTCREAT) from None
    return path


@contextmanager
def _until_told() -> Iterator[None]:
    """Have SIGTERM end it as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _port_or_any(text: str) -> int:
    return 0 if text == "0" else options.port(text)


def _fault(text: str) -> tuple[str, dict[str, object]]:
    step, equals, what = text.partition("=")
    if not equals or not what:
        raise argparse.ArgumentTypeError(f"STEP=REPLY, not {text!r:.40}")
    if step.upper() not in STEPS:
        raise argparse.ArgumentTypeError(f"a step is one of {' '.join(sorted(STEPS))}")
    if what in _ACTIONS:
        return step.upper(), {what: True}
    if not (len(what) >= 3 and what[:3].isdigit() and what[3:4] in ("", " ")):
        raise argparse.ArgumentTypeError(
            f"{what!r:.40} is no reply such as '450 4.2.0 later', and not {', '.join(_ACTIONS)}"
        )
    return step.upper(), {"reply": what}
