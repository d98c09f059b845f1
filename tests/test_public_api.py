"""The public API: its names, its documentation, and what importing it brings along."""

from __future__ import annotations

import ast
import configparser
import copy
import dataclasses
import enum
import importlib
import inspect
import io
import json
import pickle
import smtplib
import ssl
import subprocess
import sys
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpconn
from smtpconn import (
    Action,
    AddressLiteral,
    AllRecipientsFailedError,
    AuthError,
    AuthMechanism,
    BodyType,
    DeliverBy,
    DeliverByMode,
    Domain,
    DsnNotify,
    DsnRet,
    EnhancedStatusCode,
    Envelope,
    ForwardPath,
    LmtpSendResult,
    Mailbox,
    MailFromParams,
    OAuthCredentials,
    PasswordCredentials,
    Phase,
    Pipelining,
    PoolEvent,
    PoolStats,
    Protocol,
    RcptToParams,
    RecipientResult,
    RejectedRecipient,
    ResponseError,
    ReversePath,
    SendOutcome,
    SendResult,
    ServerCapabilities,
    ServerConfig,
    ServerStats,
    SmtpError,
    SmtpExtension,
    SmtpResponse,
    Stage,
    TlsInfo,
    TlsMode,
)

ROOT = Path(smtpconn.__file__).parent.parent

NAMES = [
    "Action",
    "AddressLiteral",
    "AllRecipientsFailedError",
    "AuthError",
    "AuthMechanism",
    "BodyType",
    "ConnectionClosedError",
    "ConnectionPool",
    "DeliverBy",
    "DeliverByMode",
    "Domain",
    "DsnNotify",
    "DsnRet",
    "EnhancedStatusCode",
    "Envelope",
    "ForwardPath",
    "LmtpSendResult",
    "MailFromParams",
    "Mailbox",
    "OAuthCredentials",
    "Outcomes",
    "ParseError",
    "PasswordCredentials",
    "PermanentError",
    "Phase",
    "Pipelining",
    "PoolClosedError",
    "PoolError",
    "PoolEvent",
    "PoolOverloadedError",
    "PoolStats",
    "PoolTimeoutError",
    "Protocol",
    "ProtocolError",
    "RcptToParams",
    "RecipientResult",
    "RejectedRecipient",
    "ResponseError",
    "RetryableError",
    "ReversePath",
    "SendOutcome",
    "SendResult",
    "ServerCapabilities",
    "ServerConfig",
    "ServerStats",
    "SmtpConnection",
    "SmtpError",
    "SmtpExtension",
    "SmtpResponse",
    "SmtpTimeoutError",
    "SmtpUtf8RequiredError",
    "Stage",
    "StartTlsUnavailableError",
    "TlsError",
    "TlsInfo",
    "TlsMode",
    "TransientError",
    "TransportError",
    "UnsupportedExtensionError",
    "ValidationError",
    "get_pool",
]

CAUGHT_AS: dict[str, tuple[type[BaseException], ...]] = {
    "SmtpError": (smtplib.SMTPException,),
    "TransportError": (ConnectionError, OSError),
    "RetryableError": (SmtpError,),
    "TlsError": (smtpconn.TransportError, ConnectionError, ssl.SSLError),
    "ConnectionClosedError": (smtplib.SMTPServerDisconnected, ConnectionError),
    "SmtpTimeoutError": (TimeoutError,),
    "ProtocolError": (smtplib.SMTPException,),
    "ParseError": (smtpconn.ProtocolError,),
    "ResponseError": (smtplib.SMTPResponseException,),
    "TransientError": (smtpconn.ResponseError, smtplib.SMTPResponseException),
    "PermanentError": (smtpconn.ResponseError, smtplib.SMTPResponseException),
    "AuthError": (smtpconn.ResponseError, smtplib.SMTPAuthenticationError),
    "AllRecipientsFailedError": (smtplib.SMTPRecipientsRefused,),
    "StartTlsUnavailableError": (smtplib.SMTPNotSupportedError,),
    "SmtpUtf8RequiredError": (smtplib.SMTPNotSupportedError,),
    "UnsupportedExtensionError": (smtplib.SMTPNotSupportedError,),
    "PoolError": (smtplib.SMTPException,),
    "PoolTimeoutError": (smtpconn.PoolError, TimeoutError),
    "PoolOverloadedError": (smtpconn.PoolError,),
    "PoolClosedError": (smtpconn.PoolError,),
    "ValidationError": (ValueError,),
}

IMPORT_SCRIPT = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
before = set(sys.modules)
import smtpconn
after = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(after - set(sys.stdlib_module_names))))
"""


def an_error(kind: type[SmtpError]) -> SmtpError:
    """One error of a class, with everything it can tell."""
    response = SmtpResponse(454, ("4.7.0 no", "more"))
    if issubclass(kind, AuthError):
        return kind(response, server_error="{}")
    if issubclass(kind, ResponseError):
        return kind(response, phase=Phase.RCPT)
    if issubclass(kind, AllRecipientsFailedError):
        return kind([RejectedRecipient(ForwardPath("u@example.com"), response)])
    return kind("what happened", phase=Phase.CONTENT, may_have_been_delivered=True)


def public_members() -> Iterator[tuple[str, object]]:
    """Every public class and function, and each public method and property of a class."""
    for name in smtpconn.__all__:
        value = getattr(smtpconn, name)
        yield name, value
        if not inspect.isclass(value):
            continue
        for member, found in vars(value).items():
            found = getattr(found, "__func__", found)  # of a classmethod
            if not member.startswith("_") and (
                inspect.isroutine(found) or isinstance(found, property)
            ):
                yield f"{name}.{member}", found


MEMBERS = dict(public_members())


def test_the_names() -> None:
    """The public names are these; a change here is a change for every user."""
    assert smtpconn.__all__ == NAMES
    assert sorted(set(NAMES)) == NAMES
    for name in NAMES:
        assert getattr(smtpconn, name).__name__ == name


def test_nothing_else_looks_public() -> None:
    """What can be imported from the package is a listed name or one of its modules."""
    others = {
        name
        for name, value in vars(smtpconn).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert others == set(NAMES)


def test_star_import() -> None:
    """A star import brings the listed names and nothing else."""
    namespace: dict[str, object] = {}
    exec("from smtpconn import *", namespace)
    assert sorted(set(namespace) - {"__builtins__"}) == NAMES


@pytest.mark.parametrize("name", MEMBERS)
def test_everything_public_is_documented(name: str) -> None:
    """Every public class, function, method and property has a docstring that someone wrote."""
    doc = getattr(MEMBERS[name], "__doc__", None)
    assert doc
    assert doc.strip()
    # A dataclass without a docstring gets its signature for one; an enum gets a stock sentence.
    assert not doc.startswith(f"{name}(")
    assert doc not in (enum.Enum.__doc__, enum.StrEnum.__doc__, enum.Flag.__doc__)


@pytest.mark.parametrize("name", [n for n, v in MEMBERS.items() if inspect.isroutine(v)])
def test_every_argument_is_typed(name: str) -> None:
    """Every argument and every result has a type."""
    function = MEMBERS[name]
    assert callable(function)
    signature = inspect.signature(function)
    for parameter in list(signature.parameters.values()):
        if parameter.name not in ("self", "cls"):
            assert parameter.annotation is not parameter.empty
    assert signature.return_annotation is not signature.empty


CLASSES = [n for n in NAMES if inspect.isclass(getattr(smtpconn, n))]
ERRORS = [n for n in CLASSES if issubclass(getattr(smtpconn, n), SmtpError)]


@pytest.mark.parametrize("name", CLASSES)
def test_type_hints_can_be_read(name: str) -> None:
    """The annotations of public classes can be resolved, as documentation tools do."""
    kind = getattr(smtpconn, name)
    typing.get_type_hints(kind)
    for member in vars(kind).values():
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function):
            typing.get_type_hints(function)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(ERRORS)))
def test_the_source_can_be_read(name: str) -> None:
    """Debuggers and documentation find where a class is written."""
    assert f"class {name}" in inspect.getsource(getattr(smtpconn, name))


@pytest.mark.parametrize("name", ERRORS)
def test_errors_come_from_where_users_import_them(name: str) -> None:
    """Tracebacks, pickles and serialisers name ``smtpconn``."""
    kind = getattr(smtpconn, name)
    assert (kind.__module__, kind.__qualname__) == ("smtpconn", name)
    error = an_error(kind)
    assert traceback.format_exception_only(error)[-1].startswith("smtpconn.")
    assert "def __init__" in inspect.getsource(kind.__init__)


def test_the_list_of_errors() -> None:
    """Every public error is in the table above."""
    found = {
        name
        for name in NAMES
        if inspect.isclass(getattr(smtpconn, name))
        and issubclass(getattr(smtpconn, name), BaseException)
    }
    assert found == set(CAUGHT_AS)


@pytest.mark.parametrize("name", CAUGHT_AS)
def test_each_error_is_caught_as_before(name: str) -> None:
    """Code that catches smtplib's and the built-in classes catches these errors as well."""
    kind: type[SmtpError] = getattr(smtpconn, name)
    for base in (SmtpError, smtplib.SMTPException, *CAUGHT_AS[name]):
        with pytest.raises(base):
            raise an_error(kind)


@pytest.mark.parametrize("name", CAUGHT_AS)
def test_each_error_pickles(name: str) -> None:
    """An error arrives in another process as the same class with all its attributes."""
    error = an_error(getattr(smtpconn, name))
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert same.args == error.args
    assert vars(same) == vars(error)
    for attribute in ("phase", "is_transient", "may_have_been_delivered"):
        assert getattr(same, attribute) == getattr(error, attribute)


class RecordingUnpickler(pickle.Unpickler):
    """Notes the modules of ours that a pickle names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> object:
        if module.partition(".")[0] == "smtpconn":
            self.modules.add(module)
        found: object = super().find_class(module, name)
        return found


RESPONSE = SmtpResponse(250, ("2.0.0 ok",), EnhancedStatusCode(2, 0, 0))
RECIPIENT = ForwardPath("Us..er@b\u00fccher.example")
REJECTED = RejectedRecipient(ForwardPath("no@example.com"), SmtpResponse(550, ("no",)))
RESULT = SendResult(RESPONSE, (RECIPIENT,), (REJECTED,))
ENVELOPE = Envelope(ReversePath(""), [RECIPIENT], b"hello", MailFromParams(size=5))
SERVER = ServerStats("mx.example.com:25", False, 2, smtpconn.SmtpTimeoutError("late"))

VALUES: dict[str, object] = {
    "Action": Action.SEND,
    "AddressLiteral": AddressLiteral("[IPv6:2001:db8::1]"),
    "AuthMechanism": AuthMechanism.SCRAM_SHA_256_PLUS,
    "BodyType": BodyType.BINARYMIME,
    "DeliverBy": DeliverBy(60, DeliverByMode.RETURN),
    "DeliverByMode": DeliverByMode.NOTIFY,
    "Domain": Domain("b\u00fccher.example"),
    "DsnNotify": DsnNotify.SUCCESS | DsnNotify.DELAY,
    "DsnRet": DsnRet.HDRS,
    "EnhancedStatusCode": EnhancedStatusCode(5, 1, 1),
    "Envelope": ENVELOPE,
    "ForwardPath": RECIPIENT,
    "LmtpSendResult": LmtpSendResult((RecipientResult(RECIPIENT, None, False),), (REJECTED,)),
    "MailFromParams": MailFromParams(body=BodyType.SEVENBIT, deliver_by=DeliverBy(9)),
    "Mailbox": Mailbox("a@under_score.example"),
    "OAuthCredentials": OAuthCredentials("user", "token", mechanisms=["XOAUTH2"]),
    "PasswordCredentials": PasswordCredentials("user", "password", mechanisms="PLAIN,LOGIN"),
    "Phase": Phase.RCPT,
    "Pipelining": Pipelining.EAGER,
    "PoolEvent": PoolEvent("pool", Action.CONNECT, Stage.FAILED, error=smtpconn.TlsError("no")),
    "PoolStats": PoolStats(
        "pool",
        4,
        1,
        2,
        0,
        0,
        9,
        1,
        0,
        0,
        3,
        0,
        0,
        5,
        8,
        1,
        0,
        9,
        1,
        0.5,
        1.5,
        2.5,
        {"idle": 1},
        4,
        (SERVER,),
    ),
    "Protocol": Protocol.LMTP,
    "RcptToParams": RcptToParams(DsnNotify.NEVER, "rfc822;o@example.com"),
    "RecipientResult": RecipientResult(RECIPIENT, RESPONSE, True),
    "RejectedRecipient": REJECTED,
    "ReversePath": ReversePath("me@example.com"),
    "SendOutcome": SendOutcome(ENVELOPE, RESULT, None),
    "SendResult": RESULT,
    "ServerCapabilities": ServerCapabilities("mx", (SmtpExtension("SIZE", ("9",)),)),
    "ServerConfig": ServerConfig(
        "mx.example.com", 25, TlsMode.NONE, credentials=PasswordCredentials("user", "password")
    ),
    "ServerStats": SERVER,
    "SmtpExtension": SmtpExtension("AUTH", ("PLAIN",)),
    "SmtpResponse": RESPONSE,
    "Stage": Stage.DONE,
    "TlsInfo": TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, True, False, b"certificate"),
    "TlsMode": TlsMode.STARTTLS,
}
NEVER_PICKLED = {"ConnectionPool", "Outcomes", "SmtpConnection"}


def test_the_list_of_values() -> None:
    """Every public class is an error, refuses to be pickled, or is in the table above."""
    assert set(VALUES) == set(CLASSES) - set(ERRORS) - NEVER_PICKLED
    for name, value in VALUES.items():
        assert type(value) is getattr(smtpconn, name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", VALUES)
def test_a_pickle_names_what_users_import(name: str, protocol: int) -> None:
    """So a value in a queue can still be read after its class has moved to another file."""
    value = VALUES[name]
    unpickler = RecordingUnpickler(pickle.dumps(value, protocol))
    same = unpickler.load()
    assert unpickler.modules == {"smtpconn"}
    assert type(same) is type(value)
    assert repr(same) == repr(value)
    if name not in (
        "PoolEvent",
        "PoolStats",
        "ServerStats",
    ):  # errors are equal to themselves alone
        assert same == value
        assert hash_of(same) == hash_of(value)
    assert repr(copy.deepcopy(value)) == repr(copy.copy(value)) == repr(value)


def hash_of(value: object) -> int | None:
    """The hash of a value; None if a field of it has none."""
    try:
        return hash(value)
    except TypeError:
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class TaggedEnvelope(Envelope):
    """A user's own subclass."""

    tag: str = ""


def test_a_users_subclass_is_pickled_by_its_own_name() -> None:
    """It comes back with its own fields."""
    value = TaggedEnvelope("me@example.com", ["you@example.com"], b"hello", tag="first")
    same = pickle.loads(pickle.dumps(value))
    assert type(same) is TaggedEnvelope
    assert same == value


@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if dataclasses.is_dataclass(getattr(smtpconn, n))],
)
def test_values_are_frozen_and_slotted(name: str) -> None:
    """Values cannot be changed and have no room for anything but their fields."""
    kind = getattr(smtpconn, name)
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)


def test_importing_needs_nothing() -> None:
    """In a bare interpreter the package imports nothing but the standard library.

    certifi is there, and not imported before TLS needs it.
    """
    importlib.import_module("certifi")
    certifi = sys.modules.get("certifi")
    assert certifi is not None
    assert certifi.__file__ is not None
    path = [str(ROOT), str(Path(certifi.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", IMPORT_SCRIPT, json.dumps(path)],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == ["smtpconn"]


def test_importing_is_quiet() -> None:
    """Importing starts no thread, opens nothing, writes nothing and adds no log handler."""
    script = (
        "import sys, json, threading, logging; sys.path[:0] = json.loads(sys.argv[1]);"
        "import smtpconn; assert threading.active_count() == 1;"
        "assert not logging.getLogger().handlers;"
        "assert all(isinstance(h, logging.NullHandler)"
        " for h in logging.getLogger('smtpconn').handlers)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, json.dumps([str(ROOT)])],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_version() -> None:
    """The version in the package is the one it is distributed as."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["metadata"]["version"] == smtpconn.__version__


def test_the_package_is_typed() -> None:
    """Type checkers are told to read the package's own types."""
    assert (ROOT / "smtpconn" / "py.typed").exists()


def test_a_name_is_loaded_when_it_is_asked_for() -> None:
    """Importing the package loads none of its modules; each public name brings its own."""
    program = (
        "import sys, smtpconn\n"
        "assert not [name for name in sys.modules if name.startswith('smtpconn.')]\n"
        "assert smtpconn.TlsMode.STARTTLS\n"
        "assert smtpconn.SmtpError is smtpconn.model.errors.SmtpError\n"
        "assert 'smtpconn.pool' not in sys.modules\n"
        "assert set(smtpconn.__all__) <= set(dir(smtpconn))\n"
        "from smtpconn import *\n"
        "assert ConnectionPool is smtpconn.pool.connection_pool.ConnectionPool\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_the_names_that_are_loaded_are_the_public_ones() -> None:
    """What type checkers see, what is loaded and what is listed are the same."""
    tree = ast.parse((ROOT / "smtpconn/__init__.py").read_text())
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smtpconn.")
        for alias in node.names
    }
    homes = {name: f"smtpconn.{module}" for name, module in smtpconn._HOME.items()}
    assert homes == imported
    assert sorted(homes) == smtpconn.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        smtpconn.nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(("setup", "is_seen"), [("", False), ("logging.basicConfig()", True)])
def test_logging_is_shown_to_who_sets_it_up(setup: str, is_seen: bool) -> None:
    """Otherwise no warning of the library appears on standard error."""
    program = (
        f"import logging, smtpconn; {setup}\n"
        "smtpconn.ConnectionPool('smtp://localhost').close()\n"
        "logging.getLogger('smtpconn.pool').warning('a warning')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert ("a warning" in done.stderr) is is_seen
