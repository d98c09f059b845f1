"""`smtpconn.smtplib` with pooling: who shares a connection, who never does, and how many exist."""

from __future__ import annotations

import gc
import os
import smtplib as original
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from smtpconn import PoolTimeoutError, SmtpError, ValidationError, smtplib
from smtpconn.model.modes import Protocol
from smtpconn.net.deadline import Deadline
from smtpconn.smtplib import pools as pools_module
from smtpconn.smtplib import server as server_module
from smtpconn.smtplib.pool_key import Address, Key, credential_hash
from smtpconn.smtplib.pools import (
    MAX_POOLS,
    MAX_POOLS_OF_OWN_CONTEXTS,
)
from smtpconn.testing import SmtpServer
from tests.realservers.base import PASSWORDS
from tests.realservers.postfix import Postfix
from tests.support.threads import run_in_threads

ME, YOU = "me@example.com", "you@example.net"
TEXT = "Subject: hello\n\nHello!\n"
USERS = {"user": "secret", "other": "hidden"}
Factory = Callable[..., SmtpServer]


@pytest.fixture
def server(smtp_server_factory: Factory, monkeypatch: pytest.MonkeyPatch) -> SmtpServer:
    """A server with STARTTLS and logins, whose certificate is trusted."""
    made = smtp_server_factory(tls="starttls", users=USERS)
    monkeypatch.setenv("SSL_CERT_FILE", made.ca_file)
    return made


@pytest.fixture
def pools() -> Iterator[smtplib.Pools]:
    """Pooling for the whole process."""
    with smtplib.pooled(keepalive=None) as made:
        yield made


def script(server: SmtpServer, user: str = "user", password: str = "secret") -> None:
    """What programs do for each message."""
    message = EmailMessage()
    message["From"], message["To"] = ME, YOU
    message.set_content("Hello!")
    with smtplib.SMTP(server.host, server.port, timeout=5) as smtp:
        smtp.starttls()
        smtp.login(user, password)
        assert smtp.send_message(message) == {}


def ten_scripts(server: SmtpServer) -> None:
    """What a thread does."""
    for _ in range(10):
        script(server)


def verbs(server: SmtpServer) -> list[str]:
    """The commands of all connections, the EHLO name left out."""
    return [line.split()[0].upper() for c in server.connections for line in c.commands]


# Sharing


@pytest.mark.parametrize(("is_pooled", "most"), [(False, 80), (True, 8)])
def test_eight_threads_and_ten_scripts_each(server: SmtpServer, is_pooled: bool, most: int) -> None:
    """80 connections without pooling, at most 8 with it."""
    pools = smtplib.pooled(max_size=8, keepalive=None) if is_pooled else None
    try:
        run_in_threads(8, lambda _: ten_scripts(server))
    finally:
        if pools is not None:
            pools.close()
    assert len(server.messages) == 80
    assert all(m.user == "user" and m.tls for m in server.messages)
    count = len(server.connections)
    assert count <= most if is_pooled else count == most


def test_the_second_script_says_nothing_but_the_message(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """The first script causes greeting, EHLO, TLS and login; each happens once."""
    script(server)
    before = verbs(server)
    script(server)
    assert before == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"]
    assert verbs(server)[len(before) :] == ["MAIL", "RCPT", "DATA"]


def test_what_a_program_is_told_is_what_the_server_said(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """Replies and features are the same whether they were asked for or remembered."""
    seen = []
    for _ in range(2):
        with smtplib.SMTP(server.host, server.port) as smtp:
            replies = [smtp.ehlo(), smtp.starttls(), smtp.ehlo(), smtp.login("user", "secret")]
            seen.append((replies, smtp.esmtp_features, smtp.does_esmtp, smtp.noop()))
            assert not smtp.has_extn("starttls")
    assert seen[0] == seen[1]
    assert len(server.connections) == 1


def test_pools_for_some_objects_alone(server: SmtpServer) -> None:
    """An object may be given pools, or be kept out of those of the process."""
    with smtplib.Pools(keepalive=None) as mine:
        for _ in range(2):
            with smtplib.SMTP(server.host, server.port, pool=mine) as smtp:
                smtp.sendmail(ME, YOU, TEXT)
        assert len(server.connections) == 1
        with (
            smtplib.pooled(keepalive=None),
            smtplib.SMTP(server.host, server.port, pool=False) as smtp,
        ):
            smtp.sendmail(ME, YOU, TEXT)
    assert len(server.connections) == 2


def test_pooling_ends_with_its_block(server: SmtpServer) -> None:
    """Behind it objects have connections of their own, and the pool's are closed."""
    with smtplib.pooled(keepalive=None), smtplib.SMTP(server.host, server.port) as smtp:
        smtp.sendmail(ME, YOU, TEXT)
    server.wait_for(lambda: all(c.closed for c in server.connections))
    for _ in range(2):
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.sendmail(ME, YOU, TEXT)
    assert len(server.connections) == 3


def test_an_object_that_outlives_its_pools(server: SmtpServer) -> None:
    """It gets a connection of its own, which is closed with it."""
    with smtplib.Pools(keepalive=None) as pools:
        smtp = smtplib.SMTP(server.host, server.port, pool=pools)
        smtp.starttls()
        other = smtplib.SMTP(server.host, server.port, pool=pools)
        other.starttls()
        other.noop()
    assert smtp.login("user", "secret")[0] == other.login("user", "secret")[0] == 235
    for each in (smtp, other):
        assert each.sendmail(ME, YOU, TEXT) == {}
        assert each.quit()[0] == 221
    assert [(m.user, m.tls) for m in server.messages] == [("user", True)] * 2
    assert pools.pools() == []
    server.wait_for(lambda: all(c.closed for c in server.connections))


def test_tls_from_the_first_byte_and_lmtp(
    smtp_server_factory: Factory, monkeypatch: pytest.MonkeyPatch, pools: smtplib.Pools
) -> None:
    """SMTP_SSL and LMTP are pooled, too."""
    tls = smtp_server_factory(tls="implicit", users=USERS)
    monkeypatch.setenv("SSL_CERT_FILE", tls.ca_file)
    lmtp = smtp_server_factory(protocol="LMTP")
    for _ in range(3):
        with smtplib.SMTP_SSL(tls.host, tls.port) as smtp:
            smtp.ehlo()
            smtp.login("user", "secret")
            smtp.sendmail(ME, YOU, TEXT)
        with smtplib.LMTP(lmtp.host, lmtp.port) as local:
            local.sendmail(ME, YOU, TEXT)
    assert len(tls.connections) == len(lmtp.connections) == 1
    assert len(tls.messages) == len(lmtp.messages) == 3


def test_a_unix_socket(tmp_path: Path, pools: smtplib.Pools) -> None:
    """LMTP over a UNIX socket, as to a mail store on the same machine, is pooled."""
    path = str(tmp_path / "lmtp")
    with SmtpServer(protocol="LMTP", unix_path=path) as server:
        for _ in range(2):
            with smtplib.LMTP(path) as lmtp:
                assert lmtp.sendmail(ME, [YOU, ME], TEXT) == {}
        assert len(server.connections) == 1
        assert len(server.messages) == 4
        pools.close()


def test_over_a_real_postfix(
    postfix_with_auth: Postfix, monkeypatch: pytest.MonkeyPatch, pools: smtplib.Pools
) -> None:
    """Messages of one user and of another arrive; each has a connection."""
    monkeypatch.setenv("SSL_CERT_FILE", str(postfix_with_auth.certificates.ca_file))
    for user in ("alice", "bob") * 3:
        with smtplib.SMTP("127.0.0.1", postfix_with_auth.port) as smtp:
            smtp.ehlo()
            smtp.starttls()
            smtp.login(user, PASSWORDS[user])
            assert smtp.sendmail(f"{user}@example.test", ["carol@example.test"], TEXT) == {}
    postfix_with_auth.wait_until_queue_empty()
    arrived = list((postfix_with_auth.root / "mail" / "carol" / "new").iterdir())
    assert len(arrived) == 6
    assert sum(pool.stats().connects for pool in pools.pools()) == 2


# Never sharing


def test_a_wrong_password_never_uses_another_login(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """Nor another user's, nor none at all."""
    script(server)
    for user, password in (
        ("user", "wrong"),
        ("user", ""),
        ("other", "secret"),
        ("usersecret", ""),
    ):
        with pytest.raises((original.SMTPAuthenticationError, ValidationError)):
            script(server, user, password)
    script(server, "other", "hidden")
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.sendmail(ME, YOU, TEXT)
    assert [m.user for m in server.messages] == ["user", "other", None]


@pytest.mark.parametrize("pool", [True, "pooled", object()])
def test_what_is_no_pool(pool: object) -> None:
    """An invalid ``pool`` is refused, not ignored."""
    with pytest.raises(TypeError):
        smtplib.SMTP("127.0.0.1", 1, pool=pool)  # type: ignore[arg-type]


def test_a_credential_is_hashed_whole() -> None:
    """No two credentials have the same hash because their parts are joined."""
    given = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "c"), ("b", "a"), ("a\0", "b"), ("a", "\0b")]
    assert len({credential_hash(*each) for each in given}) == len(given)
    assert credential_hash("a", "b") == credential_hash("a", "b")
    assert b"secret" not in credential_hash("user", "secret")


def test_what_has_to_be_the_same(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, pools: smtplib.Pools
) -> None:
    """Class, EHLO name, source address and TLS context: each difference is a connection."""

    class Other(smtplib.SMTP):
        pass

    own = server.client_context
    variants: list[tuple[type[smtplib.SMTP], dict[str, object], ssl.SSLContext | None]] = [
        (smtplib.SMTP, {}, None),
        (Other, {}, None),
        (smtplib.SMTP, {"local_hostname": "other.example"}, None),
        (smtplib.SMTP, {"source_address": ("127.0.0.1", 0)}, None),
        (smtplib.SMTP, {}, own),
        (smtplib.SMTP, {}, server.client_context),
    ]
    for count, (kind, options, context) in enumerate(variants, 1):
        for _ in range(2):
            with kind(server.host, server.port, **options) as smtp:  # type: ignore[arg-type]
                smtp.starttls(context=context)
                smtp.sendmail(ME, YOU, TEXT)
        assert len(server.connections) == count


def test_an_open_transaction_is_never_handed_on(server: SmtpServer, pools: smtplib.Pools) -> None:
    """Recipients that were named would get the next user's message."""
    endings: list[Callable[[smtplib.SMTP], object]] = [
        lambda smtp: smtp.quit(),
        lambda smtp: smtp.close(),
        lambda smtp: smtp.__exit__(None, None, None),
    ]
    for count, leave in enumerate(endings, 1):
        smtp = smtplib.SMTP(server.host, server.port)
        smtp.ehlo()
        smtp.starttls()
        smtp.mail(ME)
        smtp.rcpt("somebody@example.org")
        leave(smtp)
        server.wait_for(lambda: all(c.closed for c in server.connections))
        assert len(server.connections) == count
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.mail(ME)
        smtp.rcpt(YOU)
        smtp.data(TEXT)
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.sendmail(ME, YOU, TEXT)
    assert [m.recipients for m in server.messages] == [(YOU,), (YOU,)]
    assert len(server.connections) == 4


@pytest.mark.parametrize(
    "use",
    [
        lambda smtp: smtp.docmd("noop"),
        lambda smtp: (smtp.putcmd("noop"), smtp.getreply()),
        lambda smtp: smtp.putcmd("noop"),
        lambda smtp: (smtp.send("noop\r\n"), smtp.getreply()),
        lambda smtp: smtp.sock,
        lambda smtp: smtp.helo(),
        lambda smtp: smtp.ehlo("another.example"),
        lambda smtp: smtp.auth("PLAIN", lambda challenge=None: "\0user\0secret"),
        lambda smtp: smtp.login("user", "secret", initial_response_ok=False),
    ],
    ids=["docmd", "putcmd and getreply", "putcmd", "send", "sock", "helo", "ehlo", "auth", "login"],
)
def test_raw_access_takes_a_connection_out_for_good(
    server: SmtpServer, pools: smtplib.Pools, use: Callable[[smtplib.SMTP], object]
) -> None:
    """The state of its session is unknown."""
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.noop()
        use(smtp)
    server.wait_for(lambda: all(c.closed for c in server.connections))
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.sendmail(ME, YOU, TEXT)
    assert len(server.connections) == 2
    assert server.messages[0].user is None


def test_a_login_on_a_connection_in_use(server: SmtpServer, pools: smtplib.Pools) -> None:
    """One that was borrowed without a login is given back, and not logged in."""
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.noop()
        smtp.login("user", "secret")
        smtp.sendmail(ME, YOU, TEXT)
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.sendmail(ME, YOU, TEXT)
    assert [m.user for m in server.messages] == ["user", None]


def test_a_login_in_a_transaction_is_not_handed_on(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """The connection of an open transaction is the one that is logged in, or failed to."""
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.starttls()
        smtp.mail(ME)
        with pytest.raises(original.SMTPException):
            smtp.login("user", "wrong")
        smtp.rset()
    server.wait_for(lambda: server.connections[0].closed)


def test_an_interrupted_block_gives_nothing_back(server: SmtpServer, pools: smtplib.Pools) -> None:
    """The state of the session is unknown."""
    smtp = smtplib.SMTP(server.host, server.port)
    smtp.sendmail(ME, YOU, TEXT)
    with pytest.raises(KeyboardInterrupt), smtp:
        raise KeyboardInterrupt
    server.wait_for(lambda: server.connections[0].closed)


def test_a_subclass_with_its_own_sockets_is_not_pooled(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """Where they go to may depend on the object."""

    class Ipv4(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            return socket.create_connection((host, port), 5)

    for _ in range(2):
        with Ipv4(server.host, server.port) as smtp:
            smtp.sendmail(ME, YOU, TEXT)
    assert len(server.connections) == 2


# Memory


def test_ehlo_without_starttls_is_never_remembered(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """Who strips it once would have stripped it for good."""

    def offers() -> bool:
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.ehlo()
            return smtp.has_extn("starttls")

    server.fault("EHLO", reply=b"250-mx.example.test\r\n250 SIZE 100\r\n", times=2)
    assert not offers()
    assert not offers()
    assert offers()
    count = len(server.connections)
    script(server)
    assert offers()
    assert len(server.connections) == count + 1
    assert offers()
    assert len(server.connections) == count + 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda smtp: smtp.ehlo_or_helo_if_needed(),
        lambda smtp: smtp.ehlo(),
        lambda smtp: None,
    ],
    ids=["if needed", "ehlo", "not"],
)
def test_a_connection_made_without_starttls_does_not_say_there_is_none(
    server: SmtpServer, pools: smtplib.Pools, ask: Callable[[smtplib.SMTP], object]
) -> None:
    """A program that borrowed it first asks the server anew, and goes on under TLS."""
    server.fault("EHLO", reply=b"250-mx.example.test\r\n250 SIZE 100\r\n", times=1)
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.sendmail(ME, YOU, TEXT)
    with smtplib.SMTP(server.host, server.port) as smtp:
        smtp.noop()
        ask(smtp)
        assert smtp.has_extn("STARTTLS")
        smtp.starttls()
        smtp.sendmail(ME, YOU, TEXT)
    assert [m.tls for m in server.messages] == [False, True]


def test_starttls_that_is_gone_ends_it(server: SmtpServer, pools: smtplib.Pools) -> None:
    """What was remembered is no reason to go on in clear where it does not hold any more."""
    script(server)
    for pool in pools.pools():
        pool.drain()
    server.fault("EHLO", reply=b"250-mx.example.test\r\n250 AUTH PLAIN\r\n", times=None)
    with pytest.raises(original.SMTPNotSupportedError):
        script(server)
    assert len(server.messages) == 1
    assert "AUTH" not in [line.split()[0] for line in server.connections[-1].commands]


def test_a_server_that_is_gone_is_found_where_smtplib_finds_it(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """With no connection left the constructor connects."""
    script(server)
    server.stop()
    for pool in pools.pools():
        pool.drain()
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP(server.host, server.port)


def test_a_dead_connection_is_replaced(server: SmtpServer, pools: smtplib.Pools) -> None:
    """Whether it died idle, or when the message had begun but not its content."""
    script(server)
    server.close_idle()
    server.wait_for(lambda: server.connections[0].closed)
    script(server)
    server.fault("MAIL", reply="421 4.3.2 shutting down", times=1)
    script(server)
    assert len(server.messages) == 3
    assert len(server.connections) == 3


def test_what_may_have_been_delivered_is_not_sent_again(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """A connection that is lost after the content."""
    script(server)
    server.fault("CONTENT", close=True, times=1)
    with pytest.raises(original.SMTPServerDisconnected) as raised:
        script(server)
    assert isinstance(raised.value, SmtpError)
    assert raised.value.may_have_been_delivered
    assert len(server.messages) == 1


def test_refusals_leave_a_connection_as_good_as_new(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """The next user's transaction is his own."""
    for step in ("MAIL", "RCPT", "DATA", "CONTENT"):
        server.fault(step, reply="452 4.3.1 no", times=1)
        with pytest.raises(original.SMTPException):
            script(server)
        script(server)
    assert len(server.connections) == 1
    assert len(server.messages) == 4


def test_starttls_twice(server: SmtpServer, pools: smtplib.Pools) -> None:
    """Under TLS it is not offered, whether anything was said already or not."""
    for _ in range(2):
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.starttls()
            with pytest.raises(original.SMTPNotSupportedError):
                smtp.starttls()
            smtp.noop()
            with pytest.raises(original.SMTPNotSupportedError):
                smtp.starttls()


def test_a_name_is_said_until_the_next_connection(server: SmtpServer, pools: smtplib.Pools) -> None:
    """One that was given to ehlo is not the object's."""
    smtp = smtplib.SMTP(server.host, server.port, "own.example")
    smtp.ehlo("other.example")
    smtp.noop()
    smtp.quit()
    smtp.connect(server.host, server.port)
    smtp.noop()
    smtp.quit()
    assert [line for c in server.connections for line in c.commands if "ehlo" in line] == [
        "ehlo other.example",
        "ehlo own.example",
    ]


# Bounds


def test_max_size_is_a_limit(server: SmtpServer) -> None:
    """If all connections are in use, a caller waits; the error says who has them."""
    with smtplib.pooled(max_size=1, acquire_timeout=0.5, keepalive=None):
        with smtplib.SMTP(server.host, server.port) as first:
            first.noop()
            second = smtplib.SMTP(server.host, server.port)
            with pytest.raises(PoolTimeoutError, match="in use=1"):
                second.noop()
        assert second.noop()[0] == 250
        second.close()


def a_key(pools: smtplib.Pools, number: int, context: ssl.SSLContext | None) -> tuple[Address, Key]:
    address = Address(smtplib.SMTP, "mx.example.com", 25, Protocol.SMTP, None, None, False)
    credential = credential_hash("user", "" if context else str(number))
    return address, Key(address, "client.example", context, credential)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("has_own_context", [True, False])
def test_ten_thousand_calls(has_own_context: bool) -> None:
    """With a context made anew, or a credential never seen again, pools do not pile up."""
    most = MAX_POOLS_OF_OWN_CONTEXTS if has_own_context else MAX_POOLS
    with smtplib.Pools(keepalive=None) as pools:
        for number in range(10_000):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if has_own_context else None
            address, key = a_key(pools, number, context)
            pools._entry(pools.server(address), key, None, Deadline(5), has_own_context)
            assert len(pools.pools()) <= most + 1
        assert len(pools._servers) == 1


@pytest.mark.timeout(60)
def test_ten_thousand_calls_with_tls_from_the_first_byte() -> None:
    """What is known of a server is kept by context there, and does not pile up either."""
    most = MAX_POOLS_OF_OWN_CONTEXTS
    with smtplib.Pools(keepalive=None) as pools:
        made = []
        for _ in range(10_000):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            made.append(weakref.ref(context))
            address = Address(
                smtplib.SMTP_SSL, "mx.example.com", 465, Protocol.SMTP, None, context, False
            )
            key = Key(address, "client.example", context, b"")
            pools._entry(pools.server(address), key, None, Deadline(5), True)
            assert len(pools.pools()) <= most + 1
            assert len(pools._servers) <= most
        del context, address, key
        gc.collect()
        assert sum(each() is not None for each in made) <= 2 * most + 1


def test_contexts_made_anew_leave_few_connections(server: SmtpServer, pools: smtplib.Pools) -> None:
    """Those of pools that are dropped are closed."""
    for _ in range(12):
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.starttls(context=server.client_context)
            smtp.sendmail(ME, YOU, TEXT)
    assert len(server.messages) == 12

    def open_ones() -> int:
        return sum(not c.closed for c in server.connections)

    server.wait_for(lambda: open_ones() <= MAX_POOLS_OF_OWN_CONTEXTS + 1)


def test_an_object_that_is_not_closed(server: SmtpServer) -> None:
    """Its connection is closed, the next object gets its place, and its pool is not in use."""
    with smtplib.pooled(max_size=1, keepalive=None) as pools:
        for _ in range(3):
            smtp = smtplib.SMTP(server.host, server.port, timeout=5)
            smtp.noop()
            del smtp
            gc.collect()
        (entry,) = pools._entries.values()
        assert not entry.is_in_use
    assert len(server.connections) == 3


def test_pools_in_use_are_kept(server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of them; a pool unused for long is dropped."""
    monkeypatch.setattr(pools_module, "MAX_POOLS", 2)
    with smtplib.Pools(keepalive=None) as pools:
        objects = []
        for number in range(4):
            smtp = smtplib.SMTP(server.host, server.port, f"c{number}.example", pool=pools)
            smtp.noop()
            objects.append(smtp)
        assert len(pools.pools()) == 4
        for smtp in objects:
            assert smtp.noop()[0] == 250
            smtp.quit()
        monkeypatch.setattr(pools_module, "UNUSED_AFTER", 0.0)
        with smtplib.SMTP(server.host, server.port, "new.example", pool=pools) as smtp:
            smtp.noop()
        assert len(pools.pools()) == 1


def test_a_parked_connection_does_not_outlive_its_object(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """A program that only connects leaves nothing behind."""
    with smtplib.SMTP(server.host, server.port):
        pass
    server.wait_for(lambda: server.connections[0].closed)


def test_a_parked_connection_that_is_old_is_not_taken(
    server: SmtpServer, pools: smtplib.Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may be about to hang up."""
    smtp = smtplib.SMTP(server.host, server.port)
    monkeypatch.setattr(server_module, "PARKED_FOR", 0.0)
    smtp.sendmail(ME, YOU, TEXT)
    smtp.quit()
    assert len(server.connections) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_connections_of_its_own(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """And the parent goes on with its own."""
    script(server)
    child = os.fork()
    if not child:
        try:
            script(server)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    script(server)
    assert len(server.messages) == 3
    assert len(server.connections) == 2


def test_a_slow_first_connection_is_waited_for_once(
    server: SmtpServer, pools: smtplib.Pools
) -> None:
    """Threads that come while the first one asks use what it was told."""
    server.delay_at("CONNECT", 0.2, times=1)
    begun = threading.Barrier(4)

    def connect(_: int) -> None:
        begun.wait()
        smtp = smtplib.SMTP(server.host, server.port, timeout=5)
        assert smtp.sendmail(ME, YOU, TEXT) == {}
        smtp.quit()

    started = time.monotonic()
    run_in_threads(4, connect)
    assert time.monotonic() - started < 3
    assert len(server.messages) == 4
    assert len(server.connections) <= 4
