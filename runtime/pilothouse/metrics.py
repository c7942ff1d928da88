"""What Prometheus is told: one `Metrics` per server, with a registry of its own, so that two servers of one process do not meet.

No label takes a value that a client chose, and the gauges read the same numbers as readiness, at the moment of the scrape.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pilothouse import calls
from pilothouse.messages import Usage

PROTOCOLS = ("openai", "v2", "mlflow", "grpc", "other")
FACTS = ("version", "digest", "engine", "device")
"""What the info metric says of a model."""
OUTCOMES = ("ok", "refused", "failed", "cancelled")

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
NEXT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_QUEUE = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Load(Protocol):
    """The part of `engines.base.Stats` that gauges show."""

    @property
    def waiting(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def kv_used(self) -> float: ...


class Metrics:
    """Every metric of one server; a `tally.Observer`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        r = self.registry
        first = _Histogram("pilothouse_time_to_first_token_seconds", "From a request's arrival to its first token", _FIRST)
        following = _Histogram("pilothouse_inter_token_seconds", "Between two tokens of one answer", NEXT)
        for histogram in (first, following):
            r.register(histogram)
        self.first_token, self.next_token = first.observe, following.observe  # with no call between
        self._queue = Histogram("pilothouse_queue_seconds", "Wait for a row in the engine", buckets=_QUEUE, registry=r)
        tokens = Counter("pilothouse_tokens", "Tokens by kind; cached ones are counted under prompt too", ["kind"], registry=r)
        self._requests = Counter(
            "pilothouse_requests", "Requests that asked for an answer, by how they ended", ["protocol", "outcome"], registry=r
        )
        self._cancelled = Counter("pilothouse_cancelled", "Requests whose client went away before the end", registry=r)
        self._traces = Counter("pilothouse_traces", "Traces of requests: made, sent to MLflow, lost on the way", ["outcome"], registry=r)
        self._prompt, self._completion, self._cached = (tokens.labels(kind) for kind in ("prompt", "completion", "cached"))
        for protocol in PROTOCOLS:
            for outcome in OUTCOMES:
                self._requests.labels(protocol, outcome)
        for outcome in ("made", "sent", "lost"):
            self._traces.labels(outcome)

    def watch(self, name: str, load: Callable[[], Load | None], facts: Callable[[], dict[str, str]]) -> None:
        """Show the gauges of the model `name` from `load()`, and `facts()` as the labels of its info metric, at each scrape."""
        self._gauges.sources[name] = (load, facts)

    def unwatch(self, name: str) -> None:
        self._gauges.sources.pop(name, None)

    def queued(self, seconds: float) -> None:
        self._queue.observe(seconds)

    def tokens(self, usage: Usage) -> None:
        self._prompt.inc(usage.prompt_tokens)
        self._completion.inc(usage.completion_tokens)
        self._cached.inc(usage.cached_tokens)

    def outcome(self, protocol: str, outcome: str) -> None:
        """Count one request. The edge knows best which wire it came over; `protocol` counts where there was no edge."""
        known = calls.current().protocol
        protocol = known if known in PROTOCOLS else protocol
        self._requests.labels(protocol if protocol in PROTOCOLS else "other", outcome if outcome in OUTCOMES else "failed").inc()
        if outcome == "cancelled":
            self._cancelled.inc()

    def traced(self, outcome: str, traces: int) -> None:
        """Count traces that were `made`, `sent` or `lost`; one that a full queue forgot was made and neither of the others."""
        self._traces.labels(outcome).inc(traces)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Histogram(Collector):
    """For what is observed on the event loop, with each token: a quarter of what prometheus_client's costs."""

    def __init__(self, name: str, about: str, bounds: tuple[float, ...]) -> None:
        self._name, self._about, self._bounds = name, about, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        up_to = list(accumulate(self._counts))
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        yield HistogramMetricFamily(self._name, self._about, buckets=list(zip(bounds, up_to, strict=True)), sum_value=self._sum)


class _Gauges(Collector):
    """Reads the same numbers as readiness, at the moment of the scrape."""

    def __init__(self) -> None:
        self.sources: dict[str, tuple[Callable[[], Load | None], Callable[[], dict[str, str]]]] = {}

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterator[Metric]:
        waiting, running, kv = families = self._families()
        info = GaugeMetricFamily("pilothouse_model_info", "What is served, and on what", labels=["name", *FACTS])
        loads = [load for source, _ in self.sources.values() if (load := source()) is not None]
        waiting.add_metric([], sum(load.waiting for load in loads))
        running.add_metric([], sum(load.running for load in loads))
        kv.add_metric([], max((load.kv_used for load in loads), default=0.0))
        for name, (_, facts) in self.sources.items():
            known = facts()
            info.add_metric([name, *(known.get(label, "") for label in FACTS)], 1.0)
        yield from families
        yield info

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("pilothouse_requests_waiting", "Requests that wait for a row"),
            GaugeMetricFamily("pilothouse_requests_running", "Requests that have a row"),
            GaugeMetricFamily("pilothouse_kv_usage_ratio", "Share of the key and value memory in use"),
        )
