"""Traces: where a request went, span by span and through the queues, up to the last delivery that came of it.

Imported only where a collector is set (`BILLHOOK_TRACES_URL`): who does not want it pays nothing for OpenTelemetry.
Between processes a trace travels as the `traceparent` of rows (`billhook.store.schema.trace_column`), never with a
ring, which may be lost.

Attributes are ids, types and figures, as in the log. Payloads, addresses, secrets and reasons, which may quote them,
are none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final, Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from billhook.logs import Outage

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 5.0
"""How long the collector may take for a batch, its retries included."""

GOODBYE_SECONDS: Final = 3.0
"""How long the end of a process waits for its last spans to leave: what is lost then is spans, and no work."""

MOST_LINKS: Final = 256
"""Of one span: as many as the largest batch has members."""

Kind = Literal["internal", "server", "client", "consumer"]

_KINDS: Final = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}
_W3C: Final = TraceContextTextMapPropagator()


class Span:
    """Something that is being done."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        context = span.get_span_context()
        self._span = span
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        """What rows keep, so that what comes of them belongs to this."""

    def end(self, outcome: str, about: Mapping[str, Any], *, failed: bool = False) -> None:
        """It is done, and so it went."""
        self._span.set_attributes(_attributes({**about, "outcome": outcome}))
        if failed:
            self._span.set_status(trace.StatusCode.ERROR, outcome)
        self._span.end()


class Tracing:
    """What a process says of its work to a collector. Sampling and all else that OpenTelemetry's own variables set
    (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`…) counts."""

    def __init__(self, service: str, exporter: SpanExporter, *, at_once: bool = False) -> None:
        """`at_once`: each span is exported when it ends, for tests."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # what is wrong is said once, by `Outage`
        self._exporter = _Patient(exporter)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": f"billhook-{service}", "service.version": version("billhook")}),
            span_limits=SpanLimits(max_links=MOST_LINKS),
            shutdown_on_exit=False,
        )
        processor = SimpleSpanProcessor if at_once else BatchSpanProcessor
        self._provider.add_span_processor(processor(self._exporter))
        self._tracer = self._provider.get_tracer("billhook")

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        about: Mapping[str, Any],
        *,
        seconds_ago: float = 0.0,
    ) -> Span:
        """A span below `parent`, a `traceparent`; a trace of its own where that is None, or no traceparent at all."""
        span = self._tracer.start_span(
            name,
            _context(parent),
            _KINDS[kind],
            _attributes(about),
            start_time=time.time_ns() - int(seconds_ago * 1e9),
        )
        return Span(span)

    @contextmanager
    def together(self, name: str, members: Iterable[str | None], about: Mapping[str, Any]) -> Iterator[None]:
        """A span for what is done once for many, with a link to each of them (a `traceparent`). It is a trace of its
        own: it belongs to none of theirs more than to the others."""
        found = (trace.get_current_span(_context(member)).get_span_context() for member in members)
        links = [trace.Link(context) for context in found if context.is_valid]
        span = self._tracer.start_span(name, Context(), attributes=_attributes(about), links=links)
        try:
            yield
        except BaseException:
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left, within `GOODBYE_SECONDS`."""
        self._exporter.hurry(GOODBYE_SECONDS)
        goodbye = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE_SECONDS)


def open_tracing(service: str, url: str) -> Tracing:
    """To the collector at `url`, which takes OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Tracing(service, OTLPSpanExporter(url, timeout=ANSWER_SECONDS))


class _Patient(SpanExporter):
    """Says once that the collector is away, and does not hold up the end of a process."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._outage = Outage(log, "the collector of traces")
        self._until = float("inf")

    def hurry(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if time.monotonic() >= self._until:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.worked()
        else:
            self._outage.failed("spans were not taken: is BILLHOOK_TRACES_URL right?")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _context(traceparent: str | None) -> Context:
    """What is malformed counts as none, as W3C's recommendation wants."""
    return Context() if traceparent is None else _W3C.extract({"traceparent": traceparent}, Context())


def _attributes(about: Mapping[str, Any]) -> dict[str, Any]:
    return {f"billhook.{name}": value for name, value in about.items() if value is not None}
