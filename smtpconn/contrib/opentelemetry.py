"""Traces and metrics for OpenTelemetry: a hook for events, and instruments for the state of pools.

Example::

    ConnectionPool(url, on_event=PoolInstrumentation())     spans, and metrics of single operations
    observe_pools()                                         the state of every `get_pool` pool

There is no convention for SMTP, so sending follows the one for messaging (``messaging.*``), and
pools the one for database clients (``db.client.connection.*``) under ``smtp.client.connection.*``.
``docs/observability.md`` lists both.

Attributes contain only the pool's name, the server's address, reply codes and class names. Texts of
replies and errors are left out, because servers quote addresses in them.

Needs only ``opentelemetry-api`` (extra ``opentelemetry``); without an SDK nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Token
from dataclasses import dataclass
from typing import TypeAlias

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from smtpconn.model.errors import SmtpError
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.events import Action, PoolEvent, Stage
from smtpconn.pool.registry import open_pools
from smtpconn.pool.stats import PoolStats

DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of the histograms in seconds, as the convention for messaging recommends."""

_SCOPE = "smtpconn"
_POOL_NAME = "smtp.client.connection.pool.name"
_STATE = "smtp.client.connection.state"

_Attributes: TypeAlias = dict[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class _Open:
    """An operation in progress."""

    span: Span
    token: Token[Context]


class PoolInstrumentation:
    """A hook, ``ConnectionPool(url, on_event=PoolInstrumentation())``, for any number of pools.

    Each message gets a span ``send host:port`` of kind CLIENT, a child of the caller's span, and
    each connect inside it a span ``connect host:port``. While a message is sent its span is the
    current one, so that log records belong to the trace.

    Args:
        tracer_provider, meter_provider: None for the global ones.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._open: dict[int, _Open] = {}
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)

        def histogram(name: str, text: str) -> metrics.Histogram:
            return meter.create_histogram(
                name, "s", text, explicit_bucket_boundaries_advisory=DURATIONS
            )

        self._duration = histogram(
            "messaging.client.operation.duration",
            "Duration of sending a message, including the wait for a connection.",
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of attempts to send a message; with error.type for a failure.",
        )
        self._of_pool = {
            Action.CONNECT: histogram(
                "smtp.client.connection.create_time",
                "The time it took to connect, including TLS and login.",
            ),
            Action.CHECKOUT: histogram(
                "smtp.client.connection.wait_time",
                "The time it took to get a connection from the pool.",
            ),
            Action.CHECKIN: histogram(
                "smtp.client.connection.use_time",
                "The time until a connection was returned to the pool.",
            ),
        }

    def __call__(self, event: PoolEvent) -> None:
        """Record an event."""
        if event.action is Action.SEND or event.action is Action.CONNECT:
            if event.stage is Stage.STARTED:
                self._begin(event)
            else:
                self._end(event)
        if event.action is Action.SEND and event.seconds is not None:
            attributes = _messaging(event) | _outcome(event)
            self._duration.record(event.seconds, attributes)
            self._sent.add(1, attributes)
        elif event.stage is Stage.DONE and event.action in self._of_pool:
            self._of_pool[event.action].record(event.seconds or 0.0, {_POOL_NAME: event.pool})

    def _begin(self, event: PoolEvent) -> None:
        span = self._tracer.start_span(
            _span_name(event),
            kind=SpanKind.CLIENT,
            attributes=(_messaging(event) if event.action is Action.SEND else _server(event))
            | {_POOL_NAME: event.pool},
        )
        token = context.attach(trace.set_span_in_context(span))
        self._open[event.operation] = _Open(span, token)

    def _end(self, event: PoolEvent) -> None:
        if (ending := self._open.pop(event.operation, None)) is None:
            return  # its STARTED event was not recorded
        context.detach(ending.token)
        span = ending.span
        # With several servers, the server is known only now.
        span.update_name(_span_name(event))
        span.set_attributes(_server(event) | _outcome(event))
        if event.stage is Stage.FAILED:
            span.set_status(Status(StatusCode.ERROR))
            if event.error is not None and event.error.may_have_been_delivered:
                span.set_attribute("smtp.may_have_been_delivered", True)
        elif event.action is Action.SEND:
            span.set_attribute("smtp.recipients.accepted", event.accepted)
            span.set_attribute("smtp.recipients.rejected", event.rejected)
        span.end()


def observe_pools(
    pools: Iterable[ConnectionPool] | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Observe pools: their statistics are read at each collection.

    Args:
        pools: which pools; None for those that `smtpconn.get_pool` has made in this process and
            that are open at the time of each collection.
        meter_provider: None for the global one.
    """
    meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
    chosen = None if pools is None else tuple(pools)

    def reading(
        read: Callable[[PoolStats], float], state: str = ""
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            totals: dict[str, float] = {}
            for pool in open_pools() if chosen is None else chosen:
                stats = pool.stats()
                # Pools with the same name are added up: a series must not have two values.
                totals[stats.name] = totals.get(stats.name, 0) + read(stats)
            for name, total in totals.items():
                yield Observation(total, {_POOL_NAME: name} | ({_STATE: state} if state else {}))

        return observe

    meter.create_observable_up_down_counter(
        "smtp.client.connection.count",
        [
            reading(lambda s: s.idle, "idle"),
            reading(lambda s: s.in_use - s.connecting, "used"),
            reading(lambda s: s.connecting, "connecting"),
        ],
        "{connection}",
        "The number of connections that are in the state described by the state attribute.",
    )
    for name, unit, text, read in _LEVELS:
        meter.create_observable_up_down_counter(
            f"smtp.client.connection.{name}", [reading(read)], unit, text
        )
    for name, unit, text, read in _COUNTS:
        meter.create_observable_counter(
            f"smtp.client.connection.{name}", [reading(read)], unit, text
        )


_Row: TypeAlias = tuple[str, str, str, Callable[[PoolStats], float]]

_LEVELS: tuple[_Row, ...] = (
    ("max", "{connection}", "The maximum number of connections.", lambda s: s.max_size),
    ("idle.max", "{connection}", "The maximum number of idle connections.", lambda s: s.max_size),
    ("pending_requests", "{request}", "The number of waiting callers.", lambda s: s.waiting),
)

_COUNTS: tuple[_Row, ...] = (
    ("timeouts", "{timeout}", "Callers who got no connection in time.", lambda s: s.timeouts),
    ("rejections", "{request}", "Callers refused because too many waited.", lambda s: s.overloads),
    ("errors", "{error}", "Attempts to connect that failed.", lambda s: s.connect_errors),
    (
        "discards",
        "{connection}",
        "Connections that the pool closed.",
        lambda s: sum(s.discards.values()),
    ),
)


def _span_name(event: PoolEvent) -> str:
    return f"{event.action.value} {event.server}".rstrip()


def _messaging(event: PoolEvent) -> _Attributes:
    return {
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    } | _server(event)


def _server(event: PoolEvent) -> _Attributes:
    """The server's address and port, if known."""
    if event.protocol is None:
        return {}
    known: _Attributes = {"network.protocol.name": event.protocol.value.lower()}
    if event.server.startswith("/"):
        return known | {"server.address": event.server, "network.transport": "unix"}
    host, _, port = event.server.rpartition(":")
    return known | {"server.address": host, "server.port": int(port)}


def _outcome(event: PoolEvent) -> _Attributes:
    return {"error.type": error_type(event.error)} if event.stage is Stage.FAILED else {}


def error_type(error: SmtpError | None) -> str:
    """The value of ``error.type``: the reply's code, else the error's class.

    None stands for an error that is not smtpconn's; its value is ``_OTHER``, as in the convention.
    """
    if isinstance(error, ResponseError):
        return str(error.response.code)
    if isinstance(error, AllRecipientsFailedError) and error.rejected_recipients:
        return str(error.rejected_recipients[0].response.code)
    return "_OTHER" if error is None else type(error).__name__
