"""Traces in MLflow: spans go to the tracking server's own OTLP route, into one experiment, and wait here while it is away.

MLflow charts and searches traces by their tags, so what is asked for most often is a tag: model, version, key, outcome. Serving never waits
for any of this: the queue before it (the SDK's) is bounded, and full it forgets the oldest.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence

import orjson
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from pilothouse.calls import Call
from pilothouse.content import Content
from pilothouse.protocols import feedback
from pilothouse.server.finished import ANSWERS, ended
from pilothouse.server.tracking_server import EXPERIMENT_HEADER, SECONDS, ServerFailed, TrackingServer

log = logging.getLogger("pilothouse.server")

TAG = "mlflow.traceTag."
"""What MLflow's server makes a tag of the whole trace."""
PATIENCE_SECONDS = 120.0  # with one batch
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between its tries

Count = Callable[[str, int], None]


def attributes(call: Call, model: Mapping[str, str], content: Content | None) -> dict[str, str]:
    """What MLflow alone is told of a call: tags of its trace, and its content where that was kept."""
    tags = {"request": call.id, "protocol": call.protocol, "outcome": ended(call)}
    tags |= {name: model[fact] for name, fact in (("model", "name"), ("version", "version"), ("digest", "digest")) if fact in model}
    if call.tenant:
        tags["key"] = call.tenant
    if call.first_token_seconds is not None:
        tags["ttft_ms"] = f"{call.first_token_seconds * 1000:.1f}"
    found = {f"{TAG}pilothouse.{name}": tag for name, tag in tags.items()}
    if call.tenant:
        found["user.id"] = call.tenant
    if content is not None:
        found["gen_ai.input.messages"] = _messages(content.asked)
        found["gen_ai.output.messages"] = _messages([("assistant", text) for text in content.answered])
    return found


def _messages(texts: Sequence[tuple[str, str]]) -> str:
    return orjson.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in texts]).decode()


class Mlflow:
    """One experiment of a tracking server, as a destination of `traces.Traces`. A trace is whole there: a caller's own is linked, not joined."""

    every_milliseconds = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else 1000.0
    joins = False

    def __init__(self, server: TrackingServer, count: Count, *, content: bool) -> None:
        self.keeps_content = content
        self._exporter = ToMlflow(server, count)
        self.exporter: SpanExporter = self._exporter
        self._count = count

    def name(self, call: Call) -> str:
        return f"tr-{call.trace_id}"

    def wants(self, method: str, route: str, status: int | str) -> bool:
        """Requests for an answer: not what reads, probes, gives feedback, or has no key."""
        if isinstance(status, str):
            return route in ANSWERS and status not in ("UNAUTHENTICATED", "NOT_FOUND")
        return method == "POST" and route not in ("unknown", feedback.PATH) and status not in (401, 403, 404, 405)

    def attributes(self, call: Call, model: Mapping[str, str], kept: Content | None) -> dict[str, str]:
        self._count("made", 1)
        return attributes(call, model, kept)

    def stop(self) -> None:
        self._exporter.stop()


class ToMlflow(SpanExporter):
    """Sends batches to the tracking server, and tries again for a while when it is away. `count` is told of `sent` and `lost` spans."""

    def __init__(self, server: TrackingServer, count: Count) -> None:
        self._server = server
        self._count = count
        self._stopped = threading.Event()
        self._exporter: OTLPSpanExporter | None = None
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        waited, tries = 0.0, 0
        while not self._sent(spans):
            pause = PAUSES[min(tries, len(PAUSES) - 1)]
            if waited >= PATIENCE_SECONDS or self._stopped.wait(pause):
                self._count("lost", len(spans))
                return SpanExportResult.FAILURE
            waited, tries = waited + pause, tries + 1
        self._count("sent", len(spans))
        return SpanExportResult.SUCCESS

    def _sent(self, spans: Sequence[ReadableSpan]) -> bool:
        try:
            if self._exporter is None:
                headers = {EXPERIMENT_HEADER: self._server.experiment()}
                address = f"{self._server.address}/v1/traces"
                self._exporter = OTLPSpanExporter(endpoint=address, headers=headers, timeout=SECONDS, session=self._server.session)
            reason = None if self._exporter.export(spans) is SpanExportResult.SUCCESS else "it took none"
        except ServerFailed as failure:
            reason = str(failure)
        if reason is not None:
            self._exporter = None  # the experiment may be gone with the server that had it
            self._server.forget()
        self._tell(reason)
        return reason is None

    def _tell(self, reason: str | None) -> None:
        """One line when it goes away, one when it is back."""
        if reason is not None and not self._away:
            log.warning("traces wait: the MLflow server %s does not take them (%s)", self._server.shown, reason)
        elif reason is None and self._away:
            log.info("the MLflow server %s takes traces again", self._server.shown)
        self._away = reason is not None

    def stop(self) -> None:
        """Give up what can't be sent at once: the server ends."""
        self._stopped.set()

    def shutdown(self) -> None:
        self.stop()
        if self._exporter is not None:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
