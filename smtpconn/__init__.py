"""smtpconn: a blocking, thread-safe SMTP and LMTP client with a connection pool.

    from smtpconn import ConnectionPool

    with ConnectionPool("smtp+starttls://user:password@smtp.example.com") as pool:
        pool.send("me@example.com", ["you@example.com"], b"Subject: hello\\r\\n\\r\\nHello!\\r\\n")

The layers, from the top; each uses only those below it:

    pool       pool, lease, registry -> lending (the lock), connector -> poolstate, servers,
               pacing (pure decisions), fanout, keeper, forking, limits, events, stats
    session    connection, sending, logging_in -> channel (the lock) -> driver (runs conversations)
               config, options
    I/O        transport, connect (racing addresses), tls, deadline
    dialogue   dialogue/: opening, auth, transaction, simple; pairing (whose reply is it)
    words      reply, commands, address, parameters, capabilities, content, message, envelope,
               sasl, scram, credentials, errors

`smtpconn.testing` has an SMTP server for tests. Everything named below is public and stays.

(PYTEST_DONT_REWRITE: the distribution has a pytest plugin, for which pytest would rewrite this, and
warn where it was imported before.)
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from smtpconn.address import AddressLiteral, Domain, ForwardPath, Mailbox, ReversePath
    from smtpconn.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
    from smtpconn.config import ServerConfig
    from smtpconn.connection import SmtpConnection
    from smtpconn.credentials import OAuthCredentials, PasswordCredentials
    from smtpconn.dialogue.session import Pipelining, Protocol
    from smtpconn.envelope import (
        Envelope,
        LmtpSendResult,
        RecipientResult,
        RejectedRecipient,
        SendOutcome,
        SendResult,
    )
    from smtpconn.errors import (
        AllRecipientsFailedError,
        AuthError,
        ConnectionClosedError,
        ParseError,
        PermanentError,
        Phase,
        PoolClosedError,
        PoolError,
        PoolOverloadedError,
        PoolTimeoutError,
        ProtocolError,
        ResponseError,
        SmtpError,
        SmtpTimeoutError,
        SmtpUtf8RequiredError,
        StartTlsUnavailableError,
        TlsError,
        TransientError,
        TransportError,
        UnsupportedExtensionError,
        ValidationError,
    )
    from smtpconn.events import Action, PoolEvent, Stage
    from smtpconn.parameters import (
        BodyType,
        DeliverBy,
        DeliverByMode,
        DsnNotify,
        DsnRet,
        MailFromParams,
        RcptToParams,
    )
    from smtpconn.pool import ConnectionPool
    from smtpconn.registry import get_pool
    from smtpconn.reply import EnhancedStatusCode, SmtpResponse
    from smtpconn.servers import ServerStats
    from smtpconn.stats import PoolStats
    from smtpconn.tls import TlsInfo, TlsMode

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

# What is public, by the module it comes from. Each is loaded when it is first asked for: a program
# that imports smtpconn for the sake of one function does not wait for it when it starts.
_NAMES = {
    "address": "AddressLiteral Domain ForwardPath Mailbox ReversePath",
    "capabilities": "AuthMechanism ServerCapabilities SmtpExtension",
    "config": "ServerConfig",
    "connection": "SmtpConnection",
    "credentials": "OAuthCredentials PasswordCredentials",
    "dialogue.session": "Pipelining Protocol",
    "envelope": "Envelope LmtpSendResult RecipientResult RejectedRecipient SendOutcome SendResult",
    "errors": (
        "AllRecipientsFailedError AuthError ConnectionClosedError ParseError PermanentError Phase "
        "PoolClosedError PoolError PoolOverloadedError PoolTimeoutError ProtocolError "
        "ResponseError SmtpError SmtpTimeoutError SmtpUtf8RequiredError StartTlsUnavailableError "
        "TlsError TransientError TransportError UnsupportedExtensionError ValidationError"
    ),
    "events": "Action PoolEvent Stage",
    "parameters": "BodyType DeliverBy DeliverByMode DsnNotify DsnRet MailFromParams RcptToParams",
    "pool": "ConnectionPool",
    "registry": "get_pool",
    "reply": "EnhancedStatusCode SmtpResponse",
    "servers": "ServerStats",
    "stats": "PoolStats",
    "tls": "TlsInfo TlsMode",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


if not typing.TYPE_CHECKING:  # to type checkers it would be a promise that every name exists

    def __getattr__(name: str) -> object:
        if name in _NAMES:
            return importlib.import_module(f"smtpconn.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"smtpconn.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
