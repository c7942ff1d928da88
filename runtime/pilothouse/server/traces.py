"""OpenTelemetry traces of served requests, off by default: one span a call, sent over OTLP on a thread of the SDK's own.

Where they go, how many are kept and how they are named is OpenTelemetry's own environment (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, ...). A caller's W3C `traceparent` is taken in, so that the span joins the caller's trace. A collector that is down costs
spans and one log line, never an answer: the queue is bounded, and full it forgets.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pilothouse import __version__, content
from pilothouse.calls import Call
from pilothouse.errors import StartError
from pilothouse.server import spans

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise StartError(f"traces are on and {error.name} is not installed: pip install 'pilothouse[traces]', or turn traces off") from None

log = logging.getLogger("pilothouse.server")

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_NANOSECONDS = 1_000_000_000


class Destination(Protocol):
    """Where spans go, and what is told there beside `spans.attributes`."""

    exporter: SpanExporter
    every_milliseconds: float | None  # between two batches; None: as the environment says
    joins: bool  # a caller's trace goes on there; else it is linked
    keeps_content: bool  # what was asked and answered is told too

    def name(self, call: Call) -> str:
        """The call's trace as it is named there."""

    def wants(self, method: str, route: str, status: int | str) -> bool:
        """Whether such a call is told there."""

    def attributes(self, call: Call, model: Mapping[str, str], kept: "content.Content | None") -> Mapping[str, spans.Value]:
        """What is told there alone."""

    def stop(self) -> None:
        """Wait for nothing from now on."""


class Traces:
    """Begins a span with each call and sends it when the call has ended; `ended` is a listener of `finished.Finished`."""

    def __init__(
        self, model: Callable[[], Mapping[str, str]], destination: "Callable[[], Destination] | None" = None, *, sample: float = 1.0
    ) -> None:
        """`model` answers the served model's facts, at the end of each call. Raises `StartError` where the environment asks for what is not there."""
        for variable in _PROTOCOLS:
            if (asked := os.environ.get(variable, _HTTP)) != _HTTP:
                raise StartError(f"{variable} is {asked!r}, and traces are sent over {_HTTP} only: set that, or leave it out")
        try:
            self._to = (destination or Collector)()
            sampler = ParentBasedTraceIdRatio(sample) if sample < 1.0 else None
            self._provider = TracerProvider(sampler, _resource(), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._to.exporter, schedule_delay_millis=self._to.every_milliseconds))
        except ValueError as error:
            raise StartError(f"OpenTelemetry's settings in the environment (OTEL_*) are not understood: {error}") from None
        self._tracer = self._provider.get_tracer("pilothouse", __version__)
        self._model = model
        # Every failed try would be a line of its own; the destinations say what an operator needs.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def begin(self, call: Call, headers: Mapping[str, str]) -> None:
        """Start the span of `call`, within the trace that `headers` (traceparent, tracestate) name, if any."""
        parent = TraceContextTextMapPropagator().extract(headers) if "traceparent" in headers else None
        links = None
        if parent is not None and not self._to.joins:
            links, parent = [Link(get_current_span(parent).get_span_context())], None
        began = int(call.began * _NANOSECONDS)
        call.span = span = self._tracer.start_span("request", parent, SpanKind.SERVER, links=links, start_time=began)
        context = span.get_span_context()
        call.trace_id = f"{context.trace_id:032x}" if context.is_valid else ""
        content.keep(content.Content() if self._to.keeps_content and span.is_recording() else None)

    def name(self, call: Call, route: str, status: int | str) -> str:
        """What the caller is told to ask for this trace by; "" where there will be none."""
        span: Any = call.span
        told = span is not None and span.is_recording() and self._to.wants(call.method, route, status)
        return self._to.name(call) if told else ""

    def ended(self, call: Call) -> None:
        """Fill in the span of `call` and leave it to the sending thread."""
        span: Any = call.span
        if span is None or not span.is_recording() or not self._to.wants(call.method, call.route, call.status):
            return
        model = self._model()
        span.update_name(spans.name(call, model))
        span.set_attributes({**spans.attributes(call, model), **self._to.attributes(call, model, content.kept())})
        if spans.failed(call):
            span.set_status(Status(StatusCode.ERROR))
        span.end(int((call.began + call.seconds) * _NANOSECONDS))

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most `seconds`; a collector that hangs keeps its thread, not us."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        self._to.stop()

        def work() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=work, name="pilothouse-traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await sent.wait()


def _resource() -> Resource:
    """Who sends: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, ours where they say nothing."""
    ours = {"service.name": "pilothouse", "service.version": __version__}
    asked = OTELResourceDetector().detect().attributes
    return Resource.create({key: value for key, value in ours.items() if key not in asked})


class _Telling(SpanExporter):
    """Says once that spans are not taken, and once that they are again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._taken = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        taken = result is SpanExportResult.SUCCESS
        if taken != self._taken:
            self._taken = taken
            if taken:
                log.info("traces are taken again")
            else:
                log.warning("the collector of traces does not take them (OTEL_EXPORTER_OTLP_ENDPOINT); they are dropped until it does")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Collector:
    """The collector that OTEL_EXPORTER_OTLP_ENDPOINT names."""

    every_milliseconds = None
    joins = True
    keeps_content = False

    def __init__(self) -> None:
        self.exporter: SpanExporter = _Telling(OTLPSpanExporter())

    def name(self, call: Call) -> str:
        return call.trace_id

    def wants(self, method: str, route: str, status: int | str) -> bool:
        return True

    def attributes(self, call: Call, model: Mapping[str, str], kept: "content.Content | None") -> Mapping[str, spans.Value]:
        return {}

    def stop(self) -> None:
        """Its retries end with the exporter."""
