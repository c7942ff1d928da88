"""What was served beside what was evaluated: the traces in MLflow, or a server's own metrics, against the run that let the version through.

Traces are found by the digest of the model's files, so that it does not matter under which name, on which machine or how often they ran.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pilothouse.errors import ModelError
from pilothouse.lifecycle import versions
from pilothouse.lifecycle.promotion import EVALUATION
from pilothouse.lifecycle.versions import Registry, Version
from pilothouse.models import tracking

TAG = "pilothouse."
PAGE = 500  # traces of one question to the server
MOST = 100_000
EVALUATED = {"answer_seconds_p50": "answer_seconds_p50", "answer_seconds_p95": "answer_seconds_p95", "exact_share": "exact_match/v1"}
"""Our measures by what the evaluation's run calls them."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Feedback of one name: how much of it, and the mean where it is numbers or booleans (true is 1)."""

    count: int
    mean: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """`evaluated` and `served` have the measures by name: seconds, counts, shares from 0 to 1."""

    version: Version
    evaluation: str | None
    source: str
    evaluated: dict[str, float]
    served: dict[str, float]
    feedback: dict[str, Opinion] = field(default_factory=dict)

    @property
    def slower(self) -> float | None:
        """The served median answer's time, as a ratio to the evaluated one; None where one of them is unknown."""
        ours, theirs = self.served.get("answer_seconds_p50"), self.evaluated.get("answer_seconds_p50")
        return ours / theirs if ours is not None and theirs else None


def from_traces(uri: str, *, experiment: str, hours: float, tracking_uri: str | None = None) -> Report:
    """The traces of the last `hours` in `experiment` that the version `uri` answered, and its evaluation.

    Raises `ModelError`: no such version or experiment, no trace of it, or a store that does not answer.
    """
    with versions.opened(tracking_uri) as registry:
        version = registry.find(uri)
        found = list(_traces(registry, version, experiment, hours))
        if not found:
            raise ModelError(
                f"{version} left no trace in {experiment!r} in {hours:g} hours; serve it with --traces --trace-experiment {experiment}"
            )
        return _report(registry, version, f"{len(found)} traces of {hours:g} hours", _of_traces(found), _feedback(found))


def from_metrics(uri: str, text: str, *, tracking_uri: str | None = None) -> Report:
    """The counts of one server since it started, from the text of its /metrics. Raises `ModelError` where it serves another version."""
    measured = _Metrics(text)
    with versions.opened(tracking_uri) as registry:
        version = registry.find(uri)
        if version.number not in measured.versions:
            raise ModelError(f"that server serves version {', '.join(sorted(measured.versions)) or 'none'} and not {version}; ask another")
        return _report(registry, version, "one server's metrics since it started", measured.measures(), {})


def _report(registry: Registry, version: Version, source: str, served: dict[str, float], feedback: dict[str, Opinion]) -> Report:
    run_id = version.tags.get(EVALUATION)
    run = registry.run(run_id) if run_id else None
    known = dict(run.data.metrics) if run is not None else {}
    evaluated = {ours: known[theirs] for ours, theirs in EVALUATED.items() if theirs in known}
    return Report(version, run_id if run is not None else None, source, evaluated, served, feedback)


# -- traces ------------------------------------------------------------------------------------------------------------------------


def _traces(registry: Registry, version: Version, experiment: str, hours: float) -> Iterator[Any]:
    client = registry.flow.MlflowClient()
    asked = registry.ask(lambda: client.get_experiment_by_name(experiment))
    if asked is None:
        raise ModelError(f"no experiment {experiment!r} in {tracking.shown(registry.address)}; name the one of trace_experiment")
    which = f"digest` = '{version.digest}'" if version.digest else f"model` = '{version.name}' AND tags.`{TAG}version` = '{version.number}'"
    since = int((time.time() - hours * 3600) * 1000)
    token: str | None = None
    search = partial(
        client.search_traces,
        locations=[asked.experiment_id],
        filter_string=f"tags.`{TAG}{which} AND timestamp_ms > {since}",
        max_results=PAGE,
        include_spans=False,
    )
    for _ in range(MOST // PAGE):
        page = registry.ask(partial(search, page_token=token))
        yield from (trace.info for trace in page or ())
        token = page.token if page else None
        if not token:
            return


def _of_traces(found: Sequence[Any]) -> dict[str, float]:
    outcomes = [info.tags.get(f"{TAG}outcome", "") for info in found]
    answered = [info for info, outcome in zip(found, outcomes, strict=True) if outcome == "ok"]
    seconds = [info.execution_duration / 1000 for info in answered if info.execution_duration is not None]
    first = [float(told) / 1000 for info in answered if (told := info.tags.get(f"{TAG}ttft_ms"))]
    usages = [info.token_usage or {} for info in answered]
    told = {"requests": float(len(found)), **_shares(len(found), outcomes)}
    told |= _times("answer_seconds", seconds) | _times("first_token_seconds", first)
    for name, key in (("prompt_tokens_mean", "input_tokens"), ("answer_tokens_mean", "output_tokens")):
        if counted := [usage[key] for usage in usages if key in usage]:
            told[name] = sum(counted) / len(counted)
    return told


def _feedback(found: Iterable[Any]) -> dict[str, Opinion]:
    """By name; of an assessment that was replaced, the last one counts."""
    values: dict[str, list[Any]] = defaultdict(list)
    for info in found:
        for assessment in info.assessments:
            if assessment.feedback is not None and assessment.valid is not False:
                values[assessment.name].append(assessment.value)
    opinions = {}
    for name, given in sorted(values.items()):
        numbers = [float(value) for value in given if isinstance(value, bool | int | float)]
        opinions[name] = Opinion(len(given), sum(numbers) / len(numbers) if numbers else None)
    return opinions


def _shares(requests: float, outcomes: Iterable[str]) -> dict[str, float]:
    ended = list(outcomes)
    return {f"{outcome}_share": ended.count(outcome) / requests for outcome in ("failed", "refused", "cancelled")} if requests else {}


def _times(name: str, seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {f"{name}_p{p}": ordered[min(len(ordered) - 1, round((len(ordered) - 1) * p / 100))] for p in (50, 95)}


# -- metrics -----------------------------------------------------------------------------------------------------------------------


class _Metrics:
    """One scrape, read with Prometheus' own parser."""

    def __init__(self, text: str) -> None:
        try:
            self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        except ValueError:
            raise ModelError("those are no metrics in Prometheus' text format; give the address of a server's /metrics") from None
        self.versions = {sample.labels.get("version", "") for sample in self._samples if sample.name == "pilothouse_model_info"}

    def measures(self) -> dict[str, float]:
        ended = {outcome: self._sum("pilothouse_requests_total", outcome=outcome) for outcome in ("ok", "failed", "refused", "cancelled")}
        requests = sum(ended.values())
        told = {"requests": requests}
        if requests:
            told |= {f"{outcome}_share": ended[outcome] / requests for outcome in ("failed", "refused", "cancelled")}
        if ended["ok"]:
            told["prompt_tokens_mean"] = self._sum("pilothouse_tokens_total", kind="prompt") / ended["ok"]
            told["answer_tokens_mean"] = self._sum("pilothouse_tokens_total", kind="completion") / ended["ok"]
        for name, metric in (("first_token_seconds", "time_to_first_token_seconds"), ("next_token_seconds", "inter_token_seconds")):
            told |= self._quantiles(name, f"pilothouse_{metric}_bucket")
        return told

    def _sum(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())

    def _quantiles(self, name: str, metric: str) -> dict[str, float]:
        """The bound of the bucket that each quantile lies in: no more is known."""
        buckets = sorted((float(sample.labels["le"]), sample.value) for sample in self._samples if sample.name == metric)
        if not buckets or not (count := buckets[-1][1]):
            return {}
        return {f"{name}_p{p}": next(bound for bound, below in buckets if below >= count * p / 100) for p in (50, 95)}


# -- for people --------------------------------------------------------------------------------------------------------------------


def lines(report: Report, shown: Callable[[float], str] = lambda value: f"{value:.4g}") -> Iterator[str]:
    """A table: measure, evaluated, served, ratio."""
    yield f"{report.version}: {report.source}, beside {f'evaluation {report.evaluation}' if report.evaluation else 'no evaluation'}"
    yield f"{'':24}{'evaluated':>12}{'served':>12}{'ratio':>8}"
    for name in dict.fromkeys([*report.served, *report.evaluated]):
        ours, theirs = report.served.get(name), report.evaluated.get(name)
        ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else ""
        yield f"{name:24}{shown(theirs) if theirs is not None else '':>12}{shown(ours) if ours is not None else '':>12}{ratio:>8}".rstrip()
    for name, opinion in report.feedback.items():
        mean = f", mean {shown(opinion.mean)}" if opinion.mean is not None else ""
        yield f"feedback {name}: {opinion.count}{mean}"
