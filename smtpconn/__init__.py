"""smtpconn: a blocking, thread-safe SMTP and LMTP client with a connection pool.

    from smtpconn import ConnectionPool

    with ConnectionPool("smtp+starttls://user:password@smtp.example.com") as pool:
        pool.send("me@example.com", ["you@example.com"], b"Subject: hello\\r\\n\\r\\nHello!\\r\\n")

Public are the names in ``__all__``, `smtpconn.smtplib`, `smtpconn.testing`, `smtpconn.contrib`, the
command ``smtpconn`` and the pytest plugin. Everything else may change.

Folders are layers; each imports only those below it:

    cli, contrib, smtplib     the command, frameworks, the drop-in for the standard library's module
    testing                  the test server; shares no code with the client
    pool                     threads, waiting, several connections
    client                   one connection: `SmtpConnection`, `ServerConfig`
    protocol | net           commands and replies | sockets, TLS and the clock
    auth                     SASL mechanisms and credentials
    model                    values: addresses, parameters, content, replies, errors

(PYTEST_DONT_REWRITE: the distribution has a pytest plugin, so pytest would rewrite this module, and
warn if it was imported before.)
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from smtpconn.auth.credentials import OAuthCredentials, PasswordCredentials
    from smtpconn.client.config import ServerConfig
    from smtpconn.client.connection import SmtpConnection
    from smtpconn.model.addresses import AddressLiteral, Domain, ForwardPath, Mailbox, ReversePath
    from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
    from smtpconn.model.errors import (
        ConnectionClosedError,
        ParseError,
        Phase,
        PoolClosedError,
        PoolError,
        PoolOverloadedError,
        PoolTimeoutError,
        ProtocolError,
        RetryableError,
        SmtpError,
        SmtpTimeoutError,
        SmtpUtf8RequiredError,
        StartTlsUnavailableError,
        TlsError,
        TransportError,
        UnsupportedExtensionError,
        ValidationError,
    )
    from smtpconn.model.modes import Pipelining, Protocol, TlsMode
    from smtpconn.model.parameters import (
        BodyType,
        DeliverBy,
        DeliverByMode,
        DsnNotify,
        DsnRet,
        MailFromParams,
        RcptToParams,
    )
    from smtpconn.model.replies import EnhancedStatusCode, SmtpResponse
    from smtpconn.model.response_errors import (
        AllRecipientsFailedError,
        AuthError,
        PermanentError,
        ResponseError,
        TransientError,
    )
    from smtpconn.model.results import (
        Envelope,
        LmtpSendResult,
        RecipientResult,
        RejectedRecipient,
        SendOutcome,
        SendResult,
    )
    from smtpconn.net.tls import TlsInfo
    from smtpconn.pool.bulk import Outcomes
    from smtpconn.pool.connection_pool import ConnectionPool
    from smtpconn.pool.events import Action, PoolEvent, Stage
    from smtpconn.pool.failover import ServerStats
    from smtpconn.pool.registry import get_pool
    from smtpconn.pool.stats import PoolStats

__version__ = "0.1.0"

__all__ = [
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

# The public names, by the module that defines them. Each is loaded at its first use, so that
# ``import smtpconn`` is fast.
_NAMES = {
    "model.addresses": "AddressLiteral Domain ForwardPath Mailbox ReversePath",
    "model.capabilities": "AuthMechanism ServerCapabilities SmtpExtension",
    "client.config": "ServerConfig",
    "client.connection": "SmtpConnection",
    "auth.credentials": "OAuthCredentials PasswordCredentials",
    "model.modes": "Pipelining Protocol TlsMode",
    "model.results": (
        "Envelope LmtpSendResult RecipientResult RejectedRecipient SendOutcome SendResult"
    ),
    "model.errors": (
        "ConnectionClosedError ParseError Phase PoolClosedError PoolError PoolOverloadedError "
        "PoolTimeoutError ProtocolError RetryableError SmtpError SmtpTimeoutError "
        "SmtpUtf8RequiredError StartTlsUnavailableError TlsError TransportError "
        "UnsupportedExtensionError ValidationError"
    ),
    "pool.events": "Action PoolEvent Stage",
    "model.parameters": (
        "BodyType DeliverBy DeliverByMode DsnNotify DsnRet MailFromParams RcptToParams"
    ),
    "pool.bulk": "Outcomes",
    "pool.connection_pool": "ConnectionPool",
    "pool.registry": "get_pool",
    "model.replies": "EnhancedStatusCode SmtpResponse",
    "model.response_errors": (
        "AllRecipientsFailedError AuthError PermanentError ResponseError TransientError"
    ),
    "pool.failover": "ServerStats",
    "pool.stats": "PoolStats",
    "net.tls": "TlsInfo",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


if not typing.TYPE_CHECKING:  # with __getattr__, type checkers assume that every name exists

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            if (found := _for_pickles(name)) is None:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            return found
        value = getattr(importlib.import_module(f"smtpconn.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def _for_pickles(name: str) -> object:
    """The value of a name that only pickles contain: a variant of an error, or a function."""
    if name in ("_make_public", "_restore_value"):
        return getattr(importlib.import_module("smtpconn.model.pickling"), name[1:])
    if not name.endswith("Error"):
        return None
    importlib.import_module("smtpconn.model.response_errors")
    return importlib.import_module("smtpconn.model.errors").variants.get(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
