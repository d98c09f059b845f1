"""Traces with OpenTelemetry: each message is a span in the trace of the request that sent it.

Needs ``pip install 'smtpconn[opentelemetry]' opentelemetry-sdk``. The server is the embedded one of
`smtpconn.testing`; the spans are printed instead of exported.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from smtpconn import AllRecipientsFailedError, ConnectionPool
from smtpconn.contrib.opentelemetry import PoolInstrumentation
from smtpconn.testing import SmtpServer


class Printer(SpanExporter):
    """Prints spans as they end; an application takes an exporter to a collector instead."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Print a line for each."""
        for span in spans:
            error = (span.attributes or {}).get("error.type", "ok")
            print(f"{span.name} [{error}] {name(span.get_span_context())} in {name(span.parent)}")
        return SpanExportResult.SUCCESS


def name(span: trace.SpanContext | None) -> str:
    """The number by which a span is known."""
    return "nothing" if span is None else trace.format_span_id(span.span_id)


def main() -> None:
    """Handle a request that sends three messages, one of which is refused."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Printer()))
    trace.set_tracer_provider(provider)
    with SmtpServer() as server:
        server.refuse_recipient("nobody@example.com")
        with (
            ConnectionPool(server.url, on_event=PoolInstrumentation()) as pool,
            trace.get_tracer("shop").start_as_current_span("POST /order"),
        ):
            for recipient in ("jane@example.com", "nobody@example.com", "joe@example.com"):
                try:
                    pool.send("shop@example.com", [recipient], b"Subject: hello\r\n\r\nHello!\r\n")
                except AllRecipientsFailedError:
                    pass  # it is in the trace
        print(f"{len(server.messages)} messages over {len(server.connections)} connection")


if __name__ == "__main__":
    main()
