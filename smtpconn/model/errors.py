"""All errors of smtpconn except those that hold a reply, and the machinery that all share.

    SmtpError(smtplib.SMTPException)
    ├─ RetryableError                           certainly not delivered, safe to send again
    ├─ TransportError(ConnectionError)          the socket or TLS failed
    │  └─ TlsError(ssl.SSLError)
    ├─ ConnectionClosedError(smtplib.SMTPServerDisconnected, ConnectionError)
    ├─ SmtpTimeoutError(TimeoutError)           the operation's one deadline has passed
    ├─ ProtocolError                            misuse, or a reply that breaks the protocol
    │  ├─ ParseError                            a reply that is not SMTP at all
    │  └─ UnsupportedExtensionError(smtplib.SMTPNotSupportedError)
    ├─ StartTlsUnavailableError, SmtpUtf8RequiredError   (smtplib.SMTPNotSupportedError)
    ├─ PoolError
    │  ├─ PoolTimeoutError(TimeoutError)
    │  ├─ PoolOverloadedError
    │  └─ PoolClosedError
    └─ ValidationError(ValueError)              an argument that may not be sent

Errors that hold a reply are in `smtpconn.model.response_errors`.

Rules of this file:

* Every error is also an instance of a class that users catch already (``smtplib``'s, ``OSError``,
  ``TimeoutError``, ``ValueError``), so ``except`` clauses need no change. Which class that is
  depends on where and how the error happened: a refused sender is an ``smtplib.SMTPSenderRefused``,
  a refused connection a ``ConnectionRefusedError``, and an error that is safe to retry a
  `RetryableError`. These combinations are the *variants* of a class, made by `make_variants`. The
  attributes of an error select its variant (`SmtpError.__setattr__`), so code that raises or
  changes an error does not deal with variants.
* Every error answers three questions without parsing its text: ``phase`` (where), ``is_transient``
  (may it succeed later) and ``may_have_been_delivered`` (False means certainly not, so sending
  again cannot make a duplicate).
* Errors are sent between processes by Celery, multiprocessing and others. ``args`` holds all of an
  error's information in JSON types, and ``type(error)(*error.args)`` is the same error; pickle and
  copy use that too. An error that is rebuilt from its text alone says that the message may have
  been delivered, unless its class excludes that.
* The ``__module__`` of the classes is ``smtpconn``, where users import them from. Pickles and
  serialised errors stay readable when a file moves.
* No error holds a credential or a command line, only the server's text and our own.
"""

from __future__ import annotations

import enum
import smtplib
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from smtpconn.model.pickling import reduce_enum


class Phase(enum.StrEnum):
    """The step in which an error happened; ``str(phase)`` is for log lines."""

    __reduce_ex__ = reduce_enum

    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    RSET = "rset"
    NOOP = "noop"
    VRFY = "vrfy"
    EXPN = "expn"
    HELP = "help"
    QUIT = "quit"
    IDLE = "idle"
    POOL = "pool"
    INPUT = "input"


# The attributes that decide which variant of its class an error is.
_VARIANT_ATTRIBUTES = frozenset({"phase", "is_transient", "may_have_been_delivered"})

# Attributes copied from an error of the socket, the resolver or TLS; part of the facts.
_CAUSE_FACTS = ("errno", "strerror", "library", "reason", "verify_code", "verify_message")


class SmtpError(smtplib.SMTPException):
    """The root of every error smtpconn raises.

    Args:
        message: the text.
        facts: the second item of an error's ``args``, if the error is rebuilt from them.
        phase: where it happened.
        may_have_been_delivered: see the attribute. By default False if ``phase`` is given. Without
            ``phase`` and ``facts`` the error is being rebuilt from its text alone; then it is True
            unless the class excludes delivery.
        cause: the underlying error of the socket, the resolver or TLS; this error takes over its
            class and its numbers.

    Attributes:
        phase: where it happened.
        is_transient: whether the same call may succeed later.
        may_have_been_delivered: False if the message was certainly not delivered, so that it is
            safe to send again; True if its last byte may have been sent and no final reply came.
        never_begun: True if sending the content was never begun: certainly not delivered,
            and safe to send again. The errors of `smtpconn.ConnectionPool.send_many` have it for
            what was taken and not begun.
        args: the text and the facts: ``type(error)(*error.args)`` is the same error, also after
            JSON.
    """

    __module__ = "smtpconn"

    phase = Phase.INPUT
    is_transient = False
    may_have_been_delivered = False
    never_begun = False

    _text = ""
    _leaves_delivery_open = True
    """Whether ``may_have_been_delivered`` may be True for an error of this class."""

    def __init__(
        self,
        message: str = "",
        facts: object = None,
        *,
        phase: Phase | None = None,
        may_have_been_delivered: bool | None = None,
        cause: BaseException | None = None,
    ) -> None:
        # OSError.__init__ is called directly, because the smtplib bases take other arguments; and
        # with one argument, because OSError treats the first of two as an errno.
        OSError.__init__(self, message)
        self._text = str(message)
        if may_have_been_delivered is None:
            may_have_been_delivered = phase is None and self._leaves_delivery_open
        # Set on the instance too, because the error may change to another variant.
        self.is_transient = self.is_transient
        self.may_have_been_delivered = may_have_been_delivered
        self.phase = self.phase if phase is None else phase
        if cause is not None:
            self._take_cause(cause)
        if facts is not None:
            self._take_facts(facts)

    def __init_subclass__(cls) -> None:
        if cls.__module__.startswith("smtpconn."):
            cls.__module__ = "smtpconn"

    @property
    def is_safe_to_retry(self) -> bool:
        """Whether the same call may succeed later and cannot make a duplicate.

        Such an error is a `RetryableError`, for ``except`` clauses and retry libraries.
        """
        return self.is_transient and not self.may_have_been_delivered

    if not TYPE_CHECKING:  # for type checkers `args` is what all exceptions have

        @property
        def args(self) -> tuple[object, ...]:
            """The text and the facts; computed on access, so that they are always up to date."""
            return self._text, self._facts()

        @args.setter
        def args(self, args: tuple[object, ...]) -> None:
            # Other libraries change the text of an error by setting its args.
            self._text = str(args[0]) if args else ""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _VARIANT_ATTRIBUTES:
            self._choose_variant()

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __reduce__(self) -> tuple[object, ...]:
        cls, args = type(self), self.args
        known = vars(cls._rebuild(args, {}))
        added = {name: value for name, value in vars(self).items() if name not in known}
        return cls._rebuild, (args, added)

    @classmethod
    def _rebuild(cls, args: tuple[object, ...], added: dict[str, object]) -> Self:
        """The error with these ``args``, and what a caller added to it (notes, attributes)."""
        error = cls.__new__(cls)
        # A user's subclass may have a constructor with other arguments.
        public = _VARIANTS[cls.__mro__[_depth_of_smtpconn_class(cls)]][0]
        public.__init__(error, *args)  # type: ignore[arg-type]
        vars(error).update(added)
        return error

    def _facts(self) -> dict[str, object]:
        """All information but the text, in JSON types."""
        facts: dict[str, object] = {
            "phase": str(self.phase),
            "is_transient": self.is_transient,
            "may_have_been_delivered": self.may_have_been_delivered,
        }
        if self.never_begun:
            facts["never_begun"] = True
        for name in _CAUSE_FACTS:
            if value := getattr(self, name, None):
                facts[name] = value
        return facts

    def _take_facts(self, facts: object) -> None:
        """Restore what `_facts` returned; invalid facts are ignored.

        An error with damaged facts keeps its class and its text.
        """
        if not isinstance(facts, Mapping):
            return
        # The flags first: they decide about sending again, even if the rest is damaged.
        try:
            for read in (_flags_from, self._state_from):
                for name, value in read(facts).items():
                    setattr(self, name, value)
            if facts.get("never_begun") is True and not self.may_have_been_delivered:
                self.never_begun = True
        except (KeyError, TypeError, ValueError, AttributeError):
            pass

    def _state_from(self, facts: Mapping[str, object]) -> dict[str, object]:
        """The attributes in these facts, without the flags.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they are not facts of this class.
        """
        return {name: facts[name] for name in _CAUSE_FACTS if name in facts}

    def _take_cause(self, cause: BaseException) -> None:
        """Take over the class and the numbers of the underlying error."""
        for name in _CAUSE_FACTS:
            if (value := getattr(cause, name, None)) is not None:
                setattr(self, name, value)
        public, stdlib = _VARIANTS.get(type(self), (type(self), None))
        for each in _STDLIB_CLASSES.get(public, ()):
            stdlib = each if isinstance(cause, each) else stdlib
        self.__class__ = _CLASSES.get((public, stdlib, self.is_safe_to_retry), type(self))

    def _stdlib_class(self) -> type[Exception] | None:
        """The class of the standard library that this error also is, if that depends on it."""
        return _VARIANTS[type(self)][1]

    def _choose_variant(self) -> None:
        if type(self) not in _VARIANTS:
            return  # a user's own subclass
        key = _VARIANTS[type(self)][0], self._stdlib_class(), self.is_safe_to_retry
        self.__class__ = _CLASSES.get(key, type(self))


def _flags_from(facts: Mapping[str, object]) -> dict[str, object]:
    """The phase and the flags in the facts; raises the same errors as `_state_from`."""
    return {
        "phase": Phase(str(facts["phase"])),
        "is_transient": facts["is_transient"] is True,
        "may_have_been_delivered": facts["may_have_been_delivered"] is not False,
    }


class RetryableError(SmtpError):
    """The message was certainly not delivered, and the same call may succeed later: send it again.

    Every error whose `SmtpError.is_safe_to_retry` is True is an instance, whatever its class. An
    error after which the message may have been delivered never is. For ``except``, for Celery's
    ``autoretry_for``, for tenacity's ``retry_if_exception_type``.
    """

    is_transient = True
    _leaves_delivery_open = False


class TransportError(SmtpError, ConnectionError):
    """The network failed: no route, refused, reset, no such host. Worth trying again later.

    A refused connection is also a ``ConnectionRefusedError``, an unknown name a
    ``socket.gaierror``; ``errno`` and ``strerror`` are the operating system's or the resolver's.
    """

    is_transient = True


class TlsError(TransportError, ssl.SSLError):
    """The TLS handshake or session failed: untrusted certificate, wrong name, broken record.

    One about the server's certificate is also an ``ssl.SSLCertVerificationError``.

    Attributes:
        library, reason: OpenSSL's names of its library and of the reason; "" if it gave none.
        verify_code, verify_message: why the certificate is not trusted; 0 and "" for other
            failures.
    """

    is_transient = False
    library = ""
    reason = ""
    verify_code = 0
    verify_message = ""


class ConnectionClosedError(SmtpError, smtplib.SMTPServerDisconnected, ConnectionError):
    """The connection is closed: by the server, by this program, or because the server said 421."""

    is_transient = True


OUTSIDE_A_SESSION = frozenset({Phase.CONNECT, Phase.TLS, Phase.POOL, Phase.INPUT})
"""Phases in which there is no SMTP session, in smtplib or in smtpconn."""


class SmtpTimeoutError(SmtpError, TimeoutError):
    """The operation's deadline has passed; if it had started, the connection is closed.

    Within a session it is also an ``smtplib.SMTPServerDisconnected``, as in smtplib.
    """

    is_transient = True

    def _stdlib_class(self) -> type[Exception] | None:
        return None if self.phase in OUTSIDE_A_SESSION else smtplib.SMTPServerDisconnected


class ProtocolError(SmtpError):
    """A call that is not allowed in this state, or a reply that breaks the protocol.

    If `SmtpConnection.set_ehlo_domain` refuses a name, the error is also a `ValidationError`.
    """


class ParseError(ProtocolError):
    """What the server sent is not an SMTP reply (RFC 5321 4.2), or exceeds the limits for one."""


class StartTlsUnavailableError(SmtpError, smtplib.SMTPNotSupportedError):
    """STARTTLS was required and the server does not offer it; nothing was sent without TLS."""

    phase = Phase.STARTTLS
    _leaves_delivery_open = False


class SmtpUtf8RequiredError(SmtpError, smtplib.SMTPNotSupportedError):
    """An address or argument is not ASCII and the server lacks SMTPUTF8 (RFC 6531)."""

    _leaves_delivery_open = False


class UnsupportedExtensionError(ProtocolError, smtplib.SMTPNotSupportedError):
    """The call needs an extension the server did not advertise; nothing was sent."""

    _leaves_delivery_open = False


class PoolError(SmtpError):
    """The pool could not hand out a connection."""

    phase = Phase.POOL
    _leaves_delivery_open = False


class PoolTimeoutError(PoolError, TimeoutError):
    """No connection became free in time.

    The text says who holds them. ``__cause__`` is the last error of connecting, if there was one.
    """

    is_transient = True


class PoolOverloadedError(PoolError):
    """``max_waiting`` callers already wait, so the call fails at once."""

    is_transient = True


class PoolClosedError(PoolError):
    """The pool was closed and hands out no connections."""


class ValidationError(SmtpError, ValueError):
    """An address, parameter, domain or message that may not be sent.

    It is raised before anything is sent, with one exception: if a stream yields an invalid item
    later on, the connection is closed, and the message was certainly not delivered.
    """

    _leaves_delivery_open = False


# For each class, variants included: its class in docs/errors.md, and its standard library class.
_VARIANTS: dict[type[SmtpError], tuple[type[SmtpError], type[Exception] | None]] = {}
_CLASSES: dict[tuple[type[SmtpError], type[Exception] | None, bool], type[SmtpError]] = {}
_STDLIB_CLASSES: dict[type[SmtpError], tuple[type[Exception], ...]] = {}


def public_class(error: SmtpError) -> type[SmtpError]:
    """The class of docs/errors.md that an error is a variant of."""
    return _VARIANTS[type(error)][0]


variants: dict[str, type[SmtpError]] = {}
"""The variants by the names under which ``smtpconn`` exports them."""


def make_variants(public: type[SmtpError], **stdlib: type[Exception]) -> None:
    """Create the variants of an error class.

    Each has the ``__name__`` of its public class, for logs, metrics and `repr`. Its
    ``__qualname__`` is unique and importable from ``smtpconn``, for pickle and other serialisers.

    Args:
        public: the class in docs/errors.md.
        stdlib: standard library classes that its errors may also be, by the word for each in the
            variant's name.
    """
    _STDLIB_CLASSES[public] = tuple(stdlib.values())
    for word, other in {"": None, **stdlib}.items():
        for is_retryable in (False, True):
            # RetryableError precedes the other class, so that SmtpError's methods do too.
            kinds = (public, RetryableError if is_retryable else None, other)
            bases = tuple(kind for kind in kinds if kind is not None)
            kind = public
            if public is SmtpError and is_retryable:
                kind = RetryableError
            elif len(bases) > 1:
                name = f"{'Retryable' * is_retryable}{word}{public.__name__}"
                kind = type(name, bases, {"__doc__": public.__doc__, "__module__": "smtpconn"})
                kind.__name__ = public.__name__
                variants[name] = kind
            _VARIANTS[kind] = public, other
            _CLASSES[public, other, is_retryable] = kind


def _depth_of_smtpconn_class(cls: type[SmtpError]) -> int:
    """The position of the first smtpconn error in the ``__mro__`` of a class."""
    return next(depth for depth, base in enumerate(cls.__mro__) if base in _VARIANTS)


make_variants(SmtpError)
make_variants(TransportError, ConnectionRefused=ConnectionRefusedError, UnknownName=socket.gaierror)
make_variants(TlsError, Certificate=ssl.SSLCertVerificationError)
make_variants(ConnectionClosedError)
make_variants(SmtpTimeoutError, Disconnected=smtplib.SMTPServerDisconnected)
make_variants(ProtocolError, Invalid=ValidationError)
make_variants(ParseError)
make_variants(StartTlsUnavailableError)
make_variants(SmtpUtf8RequiredError)
make_variants(UnsupportedExtensionError)
make_variants(PoolError)
make_variants(PoolTimeoutError)
make_variants(PoolOverloadedError)
make_variants(PoolClosedError)
make_variants(ValidationError)
