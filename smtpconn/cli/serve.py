"""``smtpconn serve``: a mailbox for development; the successor of ``python -m smtpd``.

The server is `smtpconn.testing.SmtpServer`: it accepts mail and delivers nothing. It acknowledges a
message only after it was printed or stored. By default it listens on the loopback interface,
because it accepts all mail from all hosts.
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
from email.message import MIMEPart
from pathlib import Path
from typing import Literal

from smtpconn.cli import options, secrets
from smtpconn.cli.exit_codes import CommandError, CommandResult, ExitCode, Json, UsageError
from smtpconn.cli.output import FAINT, HEADING, Output, size
from smtpconn.cli.target import load_certificate
from smtpconn.testing import ReceivedMessage, SmtpServer
from smtpconn.testing.faults import STEPS

PORT = 8025

TIMEOUT = 1.0
"""Seconds at the end for clients to receive the replies that they wait for."""

_ACTIONS = ("close", "reset", "hang")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("listening")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    group.add_argument(
        "-p", "--port", type=_port_or_any, default=PORT, metavar="PORT",
        help=f"0 for any free port (default: {PORT})",
    )  # fmt: skip
    group.add_argument("--socket", metavar="PATH", help="a UNIX socket instead")
    group.add_argument(
        "--protocol", type=str.upper, choices=["SMTP", "LMTP"], default="SMTP", metavar="smtp|lmtp"
    )
    _add_tls_options(parser)
    _add_login_options(parser)
    _add_message_options(parser)
    options.common(parser)


def _add_tls_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "TLS", "Without --tls-cert the certificate is made at start, for localhost."
    )
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("-tls", "--tls", action="store_true", help="offer STARTTLS")
    mode.add_argument(
        "-tlsc", "--tlsc", "--tls-on-connect", action="store_true", help="TLS from the first byte"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="offer STARTTLS with this certificate")
    group.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")


def _add_login_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("login")
    group.add_argument("--auth", choices=["any"], metavar="any", help="accept every login")
    group.add_argument(
        "--user", metavar="USER",
        help=f"require this login; the password comes from {secrets.PASSWORD_VARIABLE}",
    )  # fmt: skip
    group.add_argument("--auth-password-command", metavar="COMMAND", help="prints the password")


def _add_message_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--store", metavar="DIR", help="store an .eml file per message, with a .json beside it"
    )
    group.add_argument("--raw", action="store_true", help="print messages as they came")
    group.add_argument("--count", type=options.count, metavar="N", help="end after N messages")
    group.add_argument("--max-size", type=options.count, metavar="BYTES")
    group.add_argument(
        "--refuse", action="append", default=[], metavar="ADDRESS", help="refuse this recipient"
    )
    group.add_argument(
        "--fault", action="append", default=[], type=_fault, metavar="STEP=REPLY",
        help="fail on purpose, such as RCPT='450 4.2.0 later', DATA=close, NOOP=hang",
    )  # fmt: skip


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Listen until Ctrl-C, SIGTERM or the last message of ``--count``."""
    directory = None if args.store is None else _directory(args.store)
    sink = MessageSink(out, directory, args.count, is_raw=args.raw)
    error: CommandError | None = None
    server = _server(args, sink, out)
    for step, settings in args.fault:
        server.fault(step, times=None, **settings)
    try:
        with _ended_by_sigterm():
            if (error := _start(server, args)) is not None:
                return CommandResult(ExitCode.SERVE, error, {"messages": 0})
            if args.socket is None and args.protocol == "SMTP" and not out.as_json:
                for line in _settings(args, server):
                    out.info(line)
            out.info(f"smtpconn: listening on {_where(args, server)} (Ctrl-C ends)")
            sink.is_over.wait()
    except KeyboardInterrupt:
        pass
    finally:
        _stop(server, sink)
    out.info(f"smtpconn: {sink.count} messages")
    if sink.failure is not None:
        error = CommandError(f"a message cannot be stored: {sink.failure}", os.EX_IOERR)
    code = ExitCode.OK if error is None else ExitCode.SERVE
    return CommandResult(code, error, {"messages": sink.count})


def _start(server: SmtpServer, args: argparse.Namespace) -> CommandError | None:
    """Start to listen; returns the reason if that is not possible."""
    try:
        server.start()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        return CommandError(f"cannot listen on {_where(args, server)}: {reason}", os.EX_OSERR)
    return None


def _stop(server: SmtpServer, sink: MessageSink) -> None:
    """Let clients receive the replies they wait for, and stop."""
    server.close_idle(None)
    try:
        server.wait_for(lambda: all(each.closed for each in server.connections), TIMEOUT)
    except TimeoutError:
        pass  # a client is in the middle of a transaction
    try:
        server.stop()
    except OSError:
        if sink.failure is None:
            raise


def _settings(args: argparse.Namespace, server: SmtpServer) -> list[str]:
    """The settings of Django and Flask for this server, to be copied."""
    is_starttls = bool(args.tls or (args.tls_cert and not args.tlsc))
    values: dict[str, object] = {"HOST": _client_host(server), "PORT": server.port}
    if is_starttls:
        values["USE_TLS"] = True
    if args.tlsc:
        values["USE_SSL"] = True
    if args.user is not None:
        values["USER"] = args.user
    flask = {"HOST": "SERVER", "USER": "USERNAME"}
    django = {"USER": "HOST_USER"}
    password = (
        ["# and the password"] if args.user is not None
        else ["# any user and password"] if args.auth
        else []
    )  # fmt: skip
    lines = [
        "# Django, settings.py",
        *(f"EMAIL_{django.get(name, name)} = {value!r}" for name, value in values.items()),
        *password,
        "# Flask-Mail and smtpconn.contrib.flask",
        *(f"MAIL_{flask.get(name, name)} = {value!r}" for name, value in values.items()),
        *password,
    ]
    if (is_starttls or args.tlsc) and args.tls_cert is None:
        lines += ["# the environment of the program, to trust the certificate"]
        lines += [f"SSL_CERT_FILE={server.ca_file}"]
    return lines


def _client_host(server: SmtpServer) -> str:
    """The address to connect to; loopback for a server that listens on all addresses."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(server.host, server.host)


class MessageSink:
    """Prints or stores messages.

    Args:
        out: the output to print messages to.
        directory: the directory to store messages in; None to print them.
        wanted: the number of messages after which the sink is over; None for no limit.
        is_raw: whether to print messages as received instead of decoded.

    Attributes:
        count: the number of messages.
        is_over: set after the last message, and when a message cannot be stored or printed.
        failure: the error of storing or printing, if there was one.
    """

    def __init__(
        self, out: Output, directory: Path | None, wanted: int | None, *, is_raw: bool = False
    ) -> None:
        self.count = 0
        self.is_over = threading.Event()
        self.failure: OSError | None = None
        self._out = out
        self._directory = directory
        self._wanted = wanted
        self._is_raw = is_raw
        self._lock = threading.Lock()

    def take(self, message: ReceivedMessage) -> None:
        """Store or print a message; after that it may be acknowledged.

        Raises:
            OSError: it cannot be stored or printed, so it must not be acknowledged.
        """
        with self._lock:
            number = self.count + 1
            try:
                path = None if self._directory is None else store(self._directory, message)
                self._print(number, message, path)
            except OSError as error:
                self.failure = error
                self.is_over.set()
                raise
            self.count = number
            if number == self._wanted:
                self.is_over.set()

    def _print(self, number: int, message: ReceivedMessage, path: Path | None) -> None:
        self._out.object({"number": number, **as_json(message, path)})
        if path is not None:
            recipients = ", ".join(message.recipients)
            return self._out.line(f"{path}: {message.sender or '<>'} to {recipients}")
        self._out.line(f"---------- message {number} ----------", HEADING)
        for name, value in _envelope_lines(message):
            self._out.line(f"{name}: {value}", FAINT)
        for line in _raw_lines(message) if self._is_raw else decoded_lines(message):
            self._out.line(line)
        return self._out.line("------------ end ------------", HEADING)


def decoded_lines(message: ReceivedMessage) -> list[str]:
    """The header, the text and the names of the attachments, all decoded (RFC 2045, 2047)."""
    try:
        email = message.email
        lines = [f"{name}: {value}" for name, value in email.items()]
        text: MIMEPart | None = email.get_body(("plain", "html"))
        if text is None and not email.is_multipart() and "multipart" in email.get_content_type():
            text = email  # a multipart message without its boundary
        body = [] if text is None else _text_of(text).splitlines()
        return [*lines, "", *body, *(_part_line(part) for part in _parts(email, text))]
    except Exception:
        # The email package raises errors of many classes for malformed messages.
        return _raw_lines(message)


def _raw_lines(message: ReceivedMessage) -> list[str]:
    return message.content.decode("utf-8", "backslashreplace").splitlines()


def _text_of(part: MIMEPart) -> str:
    charset = part.get_content_charset() or "utf-8"
    content = _content(part)
    try:
        return content.decode(charset, "backslashreplace")
    except LookupError:
        return content.decode("utf-8", "backslashreplace")  # an unknown charset


def _content(part: MIMEPart) -> bytes:
    if part.is_multipart():
        return b"".join(bytes(each) for each in part.iter_parts())  # an attached message
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _parts(part: MIMEPart, shown: MIMEPart | None) -> Iterator[MIMEPart]:
    """The parts of a message that are not containers, without the one that is shown."""
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        for each in part.iter_parts():
            yield from _parts(each, shown)
    elif part is not shown:
        yield part


def _part_line(part: MIMEPart) -> str:
    name, kind = part.get_filename(), part.get_content_type()
    what = f"attachment: {name}" if name else "another part"
    return f"[{what} ({kind}, {size(len(_content(part)))})]"


def store(directory: Path, message: ReceivedMessage) -> Path:
    """Write a message as .eml, and its envelope as .json; return the path of the .eml.

    The .eml gets its name only when it is complete. The name consists of the time, the process and
    a number. Creating the .json, which fails if the file exists, reserves the name, so that names
    never collide, even between processes.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    number = 0
    while True:
        number += 1
        stem = f"{stamp}-{os.getpid()}-{number}"
        path = directory / f"{stem}.eml"
        try:
            with open(directory / f"{stem}.json", "x", encoding="utf-8") as file:
                json.dump(as_json(message, path), file, indent=2)
                file.write("\n")
        except FileExistsError:
            continue
        unfinished = directory / f".{stem}.tmp"
        unfinished.write_bytes(message.content)
        return unfinished.rename(path)


def as_json(message: ReceivedMessage, path: Path | None) -> dict[str, Json]:
    """A message as JSON, with its content unless that is in a file."""
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


def _server(args: argparse.Namespace, sink: MessageSink, out: Output) -> SmtpServer:
    users = {}
    if args.user is not None:
        if args.auth:
            raise UsageError("--auth any and --user exclude each other")
        password = secrets.password(args.user, args.auth_password_command)
        out.secrets.add(args.user, password)
        users[args.user] = password
    context, tls = _context(args), _generated_tls(args)
    if args.socket is None and not _is_loopback(args.host):
        out.warning(f"listening on {args.host}: every host that reaches it can send to it")
    try:
        return SmtpServer(
            host=args.host,
            port=args.port,
            protocol=args.protocol,
            hostname="localhost",
            users=users,
            require_auth=bool(users),
            accept_any_login=args.auth == "any",
            tls=tls,
            tls_context=context,
            implicit_tls=args.tlsc,
            unix_path=args.socket,
            size_limit=args.max_size,
            recipient_known=lambda path: path not in args.refuse,
            on_message=sink.take,
        )
    except ImportError:
        raise UsageError(
            "a certificate can only be made with the package trustme: pip install "
            "'smtpconn[cli]', or give --tls-cert"
        ) from None


def _generated_tls(args: argparse.Namespace) -> Literal["starttls", "implicit"] | None:
    """The kind of TLS for which the server makes a certificate; None without one."""
    if args.tls_cert is not None:
        return None
    return "implicit" if args.tlsc else "starttls" if args.tls else None


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.tls_cert is None:
        if args.tls_key:
            raise UsageError("--tls-key needs --tls-cert")
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
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does."""
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
        raise argparse.ArgumentTypeError(f"expected STEP=REPLY, not {text!r:.40}")
    if step.upper() not in STEPS:
        raise argparse.ArgumentTypeError(f"a step is one of {' '.join(sorted(STEPS))}")
    if what in _ACTIONS:
        return step.upper(), {what: True}
    if not (len(what) >= 3 and what[:3].isdigit() and what[3:4] in ("", " ")):
        raise argparse.ArgumentTypeError(
            f"{what!r:.40} is neither a reply such as '450 4.2.0 later' nor one of "
            f"{', '.join(_ACTIONS)}"
        )
    return step.upper(), {"reply": what}
