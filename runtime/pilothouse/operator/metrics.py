"""What Prometheus is told of the operator. Labels have few values: no model's name is one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from pilothouse.operator.spec import Object

OUTCOMES = ("ok", "again", "failed")
CONDITIONS = ("Ready", "Progressing", "Degraded")


class Metrics:
    """One registry of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        r = self.registry
        self.seconds = Histogram(
            "pilothouse_operator_reconcile_seconds", "Time of one reconcile", registry=r,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        )  # fmt: skip
        self.reconciles = Counter(
            "pilothouse_operator_reconciles",
            "Reconciles by how they ended: `again` could not reach the API server",
            ["outcome"],
            registry=r,
        )
        self.calls = Gauge(
            "pilothouse_operator_api_calls", "Calls of the API server since the start, watches and the Lease apart", registry=r
        )
        self.asked = Gauge("pilothouse_operator_registry_calls", "Calls of MLflow registries since the start", registry=r)
        self.renders = Gauge("pilothouse_operator_chart_renders", "Runs of Helm since the start", registry=r)
        self.leading = Gauge("pilothouse_operator_leading", "1 for the operator that works, 0 for one that waits", registry=r)
        self.overdue = Gauge("pilothouse_operator_queue_overdue", "LanguageModels whose reconcile is due", registry=r)
        self.models = Gauge("pilothouse_operator_language_models", "LanguageModels by condition that is true", ["condition"], registry=r)
        for outcome in OUTCOMES:
            self.reconciles.labels(outcome)

    def text(self, models: list[Object]) -> bytes:
        """The exposition; the gauges of conditions are counted now."""
        true = [c["type"] for body in models for c in (body.get("status") or {}).get("conditions", ()) if c["status"] == "True"]
        for condition in CONDITIONS:
            self.models.labels(condition).set(true.count(condition))
        return generate_latest(self.registry)
