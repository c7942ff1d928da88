"""The metrics themselves: names, kinds, and labels that stay bounded whatever they are told."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from pilothouse import calls
from pilothouse.messages import Usage
from pilothouse.metrics import NEXT, OUTCOMES, PROTOCOLS, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("pilothouse_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def changed(metrics: Metrics, before: dict[str, float]) -> dict[str, float]:
    """What is no longer as it was, without the buckets and birthdays of each series."""
    now = samples(metrics)
    return {k: v for k, v in now.items() if v != before.get(k) and "_bucket" not in k and "_created" not in k}


def test_an_answer_is_told_in_seconds_and_tokens() -> None:
    """Waits go into histograms, tokens into one counter by kind."""
    metrics = Metrics()
    before = samples(metrics)
    metrics.queued(0.25)
    metrics.first_token(0.5)
    metrics.next_token(0.03125)
    metrics.tokens(Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=2))
    assert changed(metrics, before) == {
        "pilothouse_queue_seconds_count": 1,
        "pilothouse_queue_seconds_sum": 0.25,
        "pilothouse_time_to_first_token_seconds_count": 1,
        "pilothouse_time_to_first_token_seconds_sum": 0.5,
        "pilothouse_inter_token_seconds_count": 1,
        "pilothouse_inter_token_seconds_sum": 0.03125,
        'pilothouse_tokens_total{kind="prompt"}': 7,
        'pilothouse_tokens_total{kind="completion"}': 3,
        'pilothouse_tokens_total{kind="cached"}': 2,
    }


def test_labels_are_the_known_ones() -> None:
    """An unknown protocol is "other", an unknown outcome "failed": no new series."""
    metrics = Metrics()
    before = samples(metrics)
    assert len([name for name in before if name.startswith("pilothouse_requests_total")]) == len(PROTOCOLS) * len(OUTCOMES)
    metrics.outcome("smtp", "exploded")
    metrics.outcome("openai", "cancelled")
    assert changed(metrics, before) == {
        'pilothouse_requests_total{outcome="failed",protocol="other"}': 1,
        'pilothouse_requests_total{outcome="cancelled",protocol="openai"}': 1,
        "pilothouse_cancelled_total": 1,
    }


async def test_the_edge_knows_the_protocol_best() -> None:
    """Whoever computes an answer may not know whether it goes out over gRPC; the call does."""
    metrics = Metrics()
    before = samples(metrics)
    calls.begin(calls.Call(protocol="grpc"))
    metrics.outcome("v2", "ok")
    assert changed(metrics, before) == {'pilothouse_requests_total{outcome="ok",protocol="grpc"}': 1}


def test_the_gaps_between_tokens_read_as_a_histogram_of_the_clients_own() -> None:
    """Every bucket, bound, sum and count as prometheus_client's Histogram writes them; bounds belong to their bucket."""
    metrics, registry = Metrics(), CollectorRegistry()
    name, about = "pilothouse_inter_token_seconds", "Between two tokens of one answer"
    theirs = Histogram(name, about, buckets=NEXT, registry=registry)
    for seconds in (0.0004, 0.001, 0.0011, 0.25, 2.5, 9.0):
        metrics.next_token(seconds)
        theirs.observe(seconds)

    def lines(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if name in line and "_created" not in line]

    assert lines(metrics.render()) == lines(generate_latest(registry))
