"""Spans and metrics as an OpenTelemetry SDK receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    ConnectionPool,
    Envelope,
    PermanentError,
    PoolTimeoutError,
    SmtpError,
    get_pool,
)
from smtpconn.contrib.opentelemetry import PoolInstrumentation, error_type, observe_pools
from smtpconn.testing import SmtpServer

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"
POOL = "smtp.client.connection.pool.name"


class RecordingSdk:
    """An SDK that records what it receives.

    Attributes:
        tracers, meters: the providers.
        hook: an instrumentation that uses them.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.hook = PoolInstrumentation(self.tracers, self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self._exporter.get_finished_spans())

    def metric(self, name: str) -> dict[tuple[str, ...], NumberDataPoint | HistogramDataPoint]:
        """The points of a metric by the values of their attributes, in the order of these."""
        data = self._reader.get_metrics_data()
        points: dict[tuple[str, ...], NumberDataPoint | HistogramDataPoint] = {}
        for resource in data.resource_metrics if data is not None else ():
            for metric in resource.scope_metrics[0].metrics:
                for point in metric.data.data_points if metric.name == name else ():
                    assert isinstance(point, (NumberDataPoint, HistogramDataPoint))
                    key = [str(v) for _, v in sorted((point.attributes or {}).items())]
                    points[tuple(key)] = point
        return points

    def value(self, name: str, *key: str) -> float:
        """The number of a point."""
        point = self.metric(name)[key]
        assert isinstance(point, NumberDataPoint)
        return point.value


@pytest.fixture
def sdk() -> RecordingSdk:
    """An SDK of its own for each test."""
    return RecordingSdk()


@pytest.fixture
def pool(server: SmtpServer, sdk: RecordingSdk) -> Iterator[ConnectionPool]:
    """A pool named "mail" that is instrumented."""
    with ConnectionPool(server.url, name="mail", keepalive=None, on_event=sdk.hook) as made:
        yield made


def context_of(span: ReadableSpan) -> trace.SpanContext:
    """What identifies a span."""
    context: trace.SpanContext | None = span.context
    assert context is not None
    return context


def test_a_message_is_a_span(server: SmtpServer, pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """It is named after the server, is the caller's child, and has the messaging attributes."""
    with sdk.tracers.get_tracer("app").start_as_current_span("request") as request:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert trace.get_current_span() is request
    connect, send, _ = sdk.spans
    assert send.name == f"send {server.host}:{server.port}"
    assert send.kind is SpanKind.CLIENT
    assert send.parent == request.get_span_context()
    assert send.status.status_code is StatusCode.UNSET
    assert dict(send.attributes or {}) == {
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "server.address": server.host,
        "server.port": server.port,
        "network.protocol.name": "smtp",
        POOL: "mail",
        "smtp.recipients.accepted": 1,
        "smtp.recipients.rejected": 0,
    }
    assert connect.name == f"connect {server.host}:{server.port}"
    assert connect.parent == context_of(send)
    assert dict(connect.attributes or {}) == {
        "server.address": server.host,
        "server.port": server.port,
        "network.protocol.name": "smtp",
        POOL: "mail",
    }


def test_a_reused_connection_makes_no_span(pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """Only what takes time is in a trace: the second message has a span and no more."""
    for _ in range(2):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    names = [span.name.split()[0] for span in sdk.spans]
    assert names == ["connect", "send", "send"]


def test_a_refused_message_has_the_reply_code_and_no_text(
    server: SmtpServer, pool: ConnectionPool, sdk: RecordingSdk
) -> None:
    """The span has failed, ``error.type`` is the code, and the reply's text is nowhere."""
    server.fault("RCPT", reply="550 5.1.1 <you@example.com> is unknown")
    with pytest.raises(AllRecipientsFailedError):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    span = sdk.spans[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert (span.attributes or {})["error.type"] == "550"
    assert "you@" not in span.to_json()
    assert "you@" not in str(sdk.metric("messaging.client.operation.duration"))


def test_a_message_whose_delivery_is_unknown(
    server: SmtpServer, pool: ConnectionPool, sdk: RecordingSdk
) -> None:
    """A connection lost behind the content is told apart from one lost before."""
    server.fault("CONTENT", close=True)
    with pytest.raises(ConnectionClosedError):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    attributes = sdk.spans[-1].attributes or {}
    assert attributes["error.type"] == "ConnectionClosedError"
    assert attributes["smtp.may_have_been_delivered"] is True


def test_an_error_of_the_application_is_some_other_error(
    pool: ConnectionPool, sdk: RecordingSdk
) -> None:
    """An error that is not smtpconn's has the convention's name ``_OTHER``."""

    def broken() -> Iterator[bytes]:
        yield MESSAGE
        raise RuntimeError("secret")

    with pytest.raises(RuntimeError):
        pool.send(SENDER, RECIPIENTS, broken())
    assert (sdk.spans[-1].attributes or {})["error.type"] == "_OTHER"
    assert not trace.get_current_span().is_recording()


def test_a_connect_that_fails(server: SmtpServer, sdk: RecordingSdk) -> None:
    """Both the connect and the message say why; a message that got no connection says where to."""
    server.fault("CONNECT", reply="554 5.3.2 No", close=True)
    with ConnectionPool(server.url, max_size=1, on_event=sdk.hook) as pool:
        with pytest.raises(PermanentError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        with pool.connection(), pytest.raises(PoolTimeoutError):
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.02)
    failed = [s for s in sdk.spans if s.status.status_code is StatusCode.ERROR]
    assert [(s.name.split()[0], (s.attributes or {})["error.type"]) for s in failed] == [
        ("connect", "554"),
        ("send", "554"),
        ("send", "PoolTimeoutError"),
    ]
    assert {(s.attributes or {})["server.port"] for s in failed} == {server.port}


def test_a_message_that_moved_to_another_server(server: SmtpServer, sdk: RecordingSdk) -> None:
    """The span is named after the server that had the message; each attempt is a span in it."""
    server.fault("CONNECT", reply="421 4.3.2 Not now", close=True)
    with (
        SmtpServer() as backup,
        ConnectionPool([server.url, backup.url], on_event=sdk.hook) as pool,
    ):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        names = [span.name for span in sdk.spans]
    first, second = (f"{s.host}:{s.port}" for s in (server, backup))
    assert names == [f"connect {first}", f"connect {second}", f"send {second}"]


def test_a_unix_socket_has_an_address_and_no_port(tmp_path: Path, sdk: RecordingSdk) -> None:
    """LMTP over a UNIX socket: the path is the address."""
    path = str(tmp_path / "lmtp")
    with (
        SmtpServer(unix_path=path, protocol="LMTP") as server,
        ConnectionPool(server.url, on_event=sdk.hook) as pool,
    ):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    span = sdk.spans[-1]
    attributes = span.attributes or {}
    assert span.name == f"send {path}"
    assert attributes["server.address"] == path
    assert "server.port" not in attributes
    assert attributes["network.transport"] == "unix"
    assert attributes["network.protocol.name"] == "lmtp"


def test_a_batch_is_in_the_callers_trace(pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """`ConnectionPool.send_many` works in other threads; their spans are the caller's children."""
    envelopes = [Envelope(SENDER, RECIPIENTS, MESSAGE) for _ in range(9)]
    with sdk.tracers.get_tracer("app").start_as_current_span("batch") as batch:
        assert all(outcome.error is None for outcome in pool.send_many(envelopes))
    sends = [span for span in sdk.spans if span.name.startswith("send")]
    assert len(sends) == 9
    assert all(span.parent == batch.get_span_context() for span in sends)


def test_many_threads_do_not_mix_up_their_spans(pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """Each thread's message is the child of that thread's span."""
    tracer = sdk.tracers.get_tracer("app")

    def work() -> None:
        for _ in range(5):
            with tracer.start_as_current_span("request"):
                pool.send(SENDER, RECIPIENTS, MESSAGE)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = {context_of(s).span_id for s in sdk.spans if s.name == "request"}
    parents = [s.parent for s in sdk.spans if s.name.startswith("send")]
    assert len(requests) == 30
    assert {p.span_id for p in parents if p is not None} == requests


def test_metrics_of_messages(server: SmtpServer, pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """Counted and measured per server and kind of error, by the convention's names."""
    for _ in range(3):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    server.fault("MAIL", reply="451 4.7.1 Later")
    with pytest.raises(SmtpError):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    ok = ("send", "send", "smtp", "smtp", server.host, str(server.port))
    failed = ("451", *ok)
    assert sdk.value("messaging.client.sent.messages", *ok) == 3
    assert sdk.value("messaging.client.sent.messages", *failed) == 1
    durations = sdk.metric("messaging.client.operation.duration")
    assert set(durations) == {ok, failed}
    point = durations[ok]
    assert isinstance(point, HistogramDataPoint)
    assert point.count == 3
    assert point.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    for name, count in (("create_time", 1), ("wait_time", 4), ("use_time", 4)):
        point = sdk.metric(f"smtp.client.connection.{name}")["mail",]
        assert isinstance(point, HistogramDataPoint)
        assert point.count == count


def test_metrics_of_pools(server: SmtpServer, pool: ConnectionPool, sdk: RecordingSdk) -> None:
    """How a pool stands is read when metrics are collected."""
    observe_pools([pool], sdk.meters)
    server.fault("CONTENT", close=True)
    with pytest.raises(OSError, match="closed"):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    with pool.connection(), pool.connection():
        pass
    with pool.connection():
        found = {
            name: {k: sdk.value(f"smtp.client.connection.{name}", *k) for k in points}
            for name in (
                "count", "max", "idle.max", "pending_requests", "timeouts", "rejections", "errors",
                "discards",
            )
            if (points := sdk.metric(f"smtp.client.connection.{name}"))
        }  # fmt: skip
    assert found == {
        "count": {("mail", "idle"): 1, ("mail", "used"): 1, ("mail", "connecting"): 0},
        "max": {("mail",): 5},
        "idle.max": {("mail",): 5},
        "pending_requests": {("mail",): 0},
        "timeouts": {("mail",): 0},
        "rejections": {("mail",): 0},
        "errors": {("mail",): 0},
        "discards": {("mail",): 1},
    }
    assert sdk.value("smtp.client.connection.count", "mail", "idle") == 2


def test_all_pools_of_the_registry_are_observed(server: SmtpServer, sdk: RecordingSdk) -> None:
    """Without pools given those of `get_pool` are read, and two of one name are added up."""
    observe_pools(meter_provider=sdk.meters)
    name = "smtp.client.connection.max"
    assert ("observed",) not in sdk.metric(name)
    pools = [get_pool(server.url, name="observed", max_size=size) for size in (3, 4)]
    assert sdk.value(name, "observed") == 7
    for pool in pools:
        pool.close()
    assert ("observed",) not in sdk.metric(name)


def test_without_an_sdk_nothing_is_recorded_and_nothing_fails(server: SmtpServer) -> None:
    """The API alone is harmless: mail goes out as ever."""
    with ConnectionPool(server.url, on_event=PoolInstrumentation()) as pool:
        observe_pools([pool])
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    assert len(server.messages) == 1


def test_what_errors_are_called() -> None:
    """Codes for replies, class names for the rest: a short list, whatever servers say."""
    assert error_type(None) == "_OTHER"
    assert error_type(ConnectionClosedError("lost")) == "ConnectionClosedError"
    assert error_type(AllRecipientsFailedError([])) == "AllRecipientsFailedError"
