"""A little OpenTelemetry collector: it takes spans over OTLP's HTTP form, as any would, and keeps them for the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support import planted

PATIENCE = 30.0


@dataclass
class Collector:
    """What arrived: `bodies` as they came, their spans, and the headers of each call. `status` is what it answers."""

    url: str = ""
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    def spans(self) -> list[Any]:
        return [span for request in self.requests() for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]

    def wait(self, spans: int) -> list[Any]:
        """The spans, once there are as many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.spans()) >= spans, PATIENCE), f"only {len(self.spans())} spans came"
        return self.spans()


def plain(span: Any) -> dict[str, Any]:
    """A span's attributes as values."""
    return {pair.key: _value(pair.value) for pair in span.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    """A collector on a free port of the loopback address."""
    collector = Collector(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with collector.arrived:
                if collector.status == 200:
                    collector.bodies.append(body)
                    collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                collector.arrived.notify_all()
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join(PATIENCE)
            planted.keep(f"collector-{server.server_port}", spans=b"".join(collector.bodies))
