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
from typing import Any

from pilothouse import __version__
from pilothouse.calls import Call
from pilothouse.errors import StartError
from pilothouse.server import spans

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise StartError(f"traces are on and {error.name} is not installed: pip install 'pilothouse[traces]', or turn traces off") from None

log = logging.getLogger("pilothouse.server")

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_NANOSECONDS = 1_000_000_000


class Traces:
    """Begins a span with each call and sends it when the call has ended; `ended` is a listener of `finished.Finished`."""

    def __init__(self, model: Callable[[], Mapping[str, str]]) -> None:
        """`model` answers the served model's facts, at the end of each call. Raises `StartError` where the environment asks for what is not there."""
        for variable in _PROTOCOLS:
            if (asked := os.environ.get(variable, _HTTP)) != _HTTP:
                raise StartError(f"{variable} is {asked!r}, and traces are sent over {_HTTP} only: set that, or leave it out")
        try:
            exporter = _Telling(OTLPSpanExporter())
            self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        except ValueError as error:
            raise StartError(f"OpenTelemetry's settings in the environment (OTEL_*) are not understood: {error}") from None
        self._tracer = self._provider.get_tracer("pilothouse", __version__)
        self._model = model
        # Every failed try would be a line of its own; `_Telling` says what an operator needs.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def begin(self, call: Call, headers: Mapping[str, str]) -> None:
        """Start the span of `call`, within the trace that `headers` (traceparent, tracestate) name, if any."""
        parent = TraceContextTextMapPropagator().extract(headers) if "traceparent" in headers else None
        call.span = span = self._tracer.start_span("request", parent, SpanKind.SERVER, start_time=int(call.began * _NANOSECONDS))
        context = span.get_span_context()
        call.trace_id = f"{context.trace_id:032x}" if context.is_valid else ""

    def ended(self, call: Call) -> None:
        """Fill in the span of `call` and leave it to the sending thread."""
        span: Any = call.span
        if span is None or not span.is_recording():
            return
        model = self._model()
        span.update_name(spans.name(call, model))
        span.set_attributes(spans.attributes(call, model))
        if spans.failed(call):
            span.set_status(Status(StatusCode.ERROR))
        span.end(int((call.began + call.seconds) * _NANOSECONDS))

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most `seconds`; a collector that hangs keeps its thread, not us."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

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
