"""Connecting: socket, TLS, greeting and EHLO, under one deadline (RFC 5321 3.1, 3207, 8314).

`SmtpConnection.connect` and its variants call `open_channel`. If a step fails, the socket is
closed and the error names the phase; `smtpconn.client.connect_hints` adds what the likely mistake
is, such as the wrong port for the TLS mode.
"""

from __future__ import annotations

import logging
import socket
import ssl

from smtpconn.client.channel import Channel
from smtpconn.client.connect_hints import IMPLICIT_TLS_PORT, with_hint
from smtpconn.client.driver import Driver
from smtpconn.client.options import (
    ConnectOptions,
    check_choice,
    check_ehlo_domain,
    check_flag,
    check_names,
    check_server,
    check_socket_options,
    check_tls_options,
    default_ehlo_domain,
    extension_names,
)
from smtpconn.model.errors import Phase, SmtpError, SmtpTimeoutError
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.model.origin import is_own
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import from_factory, open_socket
from smtpconn.net.tls import shared_context
from smtpconn.net.transport import Transport, as_smtp_error
from smtpconn.protocol import handshake
from smtpconn.protocol.session import SessionState

GREETING_TIMEOUT = 5.0
"""Seconds to wait for a cleartext greeting on port 465, where servers expect TLS at once."""

_log = logging.getLogger("smtpconn.connection")


def open_channel(
    protocol: Protocol,
    host: str,
    port: int,
    tls_mode: TlsMode,
    deadline: Deadline,
    context: ssl.SSLContext | None,
    options: ConnectOptions,
) -> tuple[Channel, SessionState]:
    """Connect and send EHLO or LHLO; return the channel and the state of its session.

    If a TLS handshake with ``tls_session`` fails, it is repeated once without, on a new socket.

    Args:
        protocol: SMTP or LMTP.
        host, port, tls_mode, options: as `smtpconn.SmtpConnection.connect` documents them.
        deadline: of all steps together.
        context: the caller's TLS settings; None for the shared ones.

    Raises:
        SmtpError: as `smtpconn.SmtpConnection.connect`.
    """
    check_names(options.keys())
    check_server(host, port)
    check_socket_options(options.get("source_address"), options.get("socket_factory"))
    cafile, tls_session = options.get("cafile"), options.get("tls_session")
    check_tls_options(context, cafile, options.get("tls_server_name"))
    used = context
    if context is None and tls_mode is not TlsMode.NONE:
        used = shared_context(cafile, seconds=deadline.remaining())
    try:
        try:
            return _open_once(protocol, host, port, tls_mode, deadline, used, tls_session, options)
        except SmtpError as error:
            # The offered TLS session may be the reason for the failed handshake.
            is_final = error.phase is not Phase.TLS or not deadline.remaining()
            if tls_session is None or is_final:
                raise
            _log.debug("%s: connecting again without a TLS session: %s", host, str(error))
        return _open_once(protocol, host, port, tls_mode, deadline, used, None, options)
    except SmtpError as error:
        hinted = with_hint(error, host, port, protocol, tls_mode, context is not None, cafile)
        if hinted is error:
            raise
        raise hinted from hinted.__cause__


def _open_once(
    protocol: Protocol,
    host: str,
    port: int,
    tls_mode: TlsMode,
    deadline: Deadline,
    context: ssl.SSLContext | None,
    tls_session: ssl.SSLSession | None,
    options: ConnectOptions,
) -> tuple[Channel, SessionState]:
    session = _new_session(protocol, options)
    factory = options.get("socket_factory")
    if factory is None:
        sock = open_socket(host, port, deadline, options.get("source_address"))
    else:
        sock = from_factory(factory, host, port, deadline)
    driver = driver_over(
        sock,
        host,
        port,
        session,
        deadline,
        # A caller's own socket may lead to a proxy, so its peer address proves nothing.
        is_direct=factory is None,
        is_private=tls_mode is TlsMode.IMPLICIT or options.get("allow_cleartext_auth", False),
        context=context,
        tls_session=tls_session,
        tls_server_name=options.get("tls_server_name"),
    )
    try:
        _log.debug("#%d %s: connected", driver.number, driver.peer)
        if tls_mode is TlsMode.IMPLICIT:
            driver.start_tls(deadline)
        elif port == IMPLICIT_TLS_PORT and driver.transport.tls is None:
            _wait_for_greeting(driver, deadline)
        driver.run(handshake.handshake(session, starttls=tls_mode is TlsMode.STARTTLS), deadline)
    except BaseException:
        driver.transport.close()
        raise
    return Channel(driver, driver.peer, deadline.timeout), session


def driver_over(
    sock: socket.socket,
    host: str,
    port: int,
    session: SessionState,
    deadline: Deadline,
    *,
    is_direct: bool,
    is_private: bool,
    context: ssl.SSLContext | None,
    tls_session: ssl.SSLSession | None,
    tls_server_name: str | None = None,
) -> Driver:
    """Make a driver for a connected socket, and set what follows from the socket in ``session``.

    Args:
        sock: in clear or with TLS; closed if this fails.
        host, port: what it is connected to.
        session: new; its ``ehlo_domain`` stays unless it is "".
        deadline: the deadline of the operation.
        is_direct: whether the peer is the server and not a proxy.
        is_private: whether a secret may be sent even if the socket does not make that safe.
        context, tls_session: for TLS that is started later.
        tls_server_name: the name in the server's certificate, if it is not ``host``.

    Raises:
        SmtpError: the socket is not connected.
    """
    peer = host if host.startswith("/") else f"{host}:{port}"
    try:
        transport = Transport(sock)
        session.ehlo_domain = session.ehlo_domain or default_ehlo_domain(transport.local_ip)
        session.is_local = is_direct and transport.peer_is_local
        session.is_private = is_private or transport.tls is not None or session.is_local
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, SmtpError) and is_own(error):
            raise as_smtp_error(error, Phase.CONNECT, deadline, peer) from error
        raise
    name = tls_server_name or host.rstrip(".")
    return Driver(transport, session, name, peer, context, tls_session)


def _wait_for_greeting(driver: Driver, deadline: Deadline) -> None:
    """Wait `GREETING_TIMEOUT` for the first byte: a TLS server sends none before the client does.

    Raises:
        SmtpTimeoutError: nothing came.
        SmtpError: waiting failed.
    """
    seconds = min(GREETING_TIMEOUT, deadline.check(Phase.GREETING))
    try:
        driver.transport.wait(Deadline(seconds), write=False)
    except OSError as error:
        if not is_own(error):
            raise
        if not isinstance(error, TimeoutError):
            raise as_smtp_error(error, Phase.GREETING, deadline, driver.peer) from error
        raise SmtpTimeoutError(
            f"{driver.peer} sent nothing within {seconds:.3g} seconds", phase=Phase.GREETING
        ) from None


def _new_session(protocol: Protocol, options: ConnectOptions) -> SessionState:
    """The state of a new session; its ``ehlo_domain`` is "" until the local address is known."""
    ehlo_domain = options.get("ehlo_domain")
    if ehlo_domain is not None:
        check_ehlo_domain(ehlo_domain)
    check_flag("allow_cleartext_auth", options.get("allow_cleartext_auth", False))
    return SessionState(
        protocol=protocol,
        pipelining=check_choice(
            "pipelining", options.get("pipelining", Pipelining.AUTO), Pipelining
        ),
        ignore_extensions=extension_names(options.get("ignore_extensions", ())),
        ehlo_domain=ehlo_domain or "",
    )
