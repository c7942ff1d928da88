"""Does a served version answer as it must, keep the wire's promises and stay as quick as the one it would follow? One MLflow run with a verdict.

MLflow asks the questions (`mlflow.genai.evaluate`: a trace and an assessment for each) and judges the metrics (`validate_evaluation_results`);
the wire checks are `smoke`'s. Candidate and baseline are asked in turn, the order changing, so that a neighbour on the machine slows both.
"""

import io
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.lifecycle import versions
from pilothouse.lifecycle.pace import RATIO, Pace
from pilothouse.lifecycle.promotion import AGAINST, DIGEST, EVALUATION, FAILED, NONE, PASSED, VERDICT
from pilothouse.lifecycle.questions import Questions
from pilothouse.lifecycle.serving import Subject
from pilothouse.lifecycle.versions import PREFIX
from pilothouse.models import runs
from pilothouse.smoke import checks

EXACT, SMOKE = "exact", "smoke_failed"
REASON = PREFIX + "reason"
_SAID = 400  # characters of a reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What passes: the least share of exact answers, and the most that an answer may take, as a ratio to the baseline's time."""

    exact: float = 1.0
    slower: float = 1.25


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A verdict. `reason` is empty where it passed; `page` is the run's address for people."""

    candidate: str
    baseline: str | None
    passed: bool
    reason: str
    metrics: dict[str, float]
    run_id: str
    page: str
    problems: list[str] = field(default_factory=list)  # smoke's


def evaluate(
    candidate: Subject,
    baseline: Subject | None,
    questions: Questions,
    *,
    limits: Limits | None = None,
    rounds: int = 2,
    experiment: str = runs.EXPERIMENT,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Ask, measure and judge; the run's id becomes a tag of the candidate's version, whatever the verdict.

    `baseline` is the version that holds the alias, served alike; None where there is none: then no latency is compared. Every question is
    asked `rounds` times of each. Raises `ModelError` where a server or the store stops answering.
    """
    limits = limits or Limits()
    against = baseline.version.number if baseline else NONE
    with versions.opened(tracking_uri) as registry:
        flow = registry.flow
        tags = {DIGEST: candidate.version.digest or "", AGAINST: against}
        name = f"evaluate {candidate.version}"
        params = _params(candidate, baseline, questions, limits, rounds)
        with runs.started(flow, registry.address, "evaluate", name, experiment_name=experiment, params=params) as run:
            flow.set_tags(tags)
            registry.note(candidate.version, {EVALUATION: run.info.run_id})
            say(f"holding {candidate.client.url} to the wire's promises")
            problems = [f"{r.name}: {r.problem}" for r in _smoke(candidate) if r.problem is not None]
            say(f"asking {len(questions.asked)} questions")
            dataset = questions.dataset()
            flow.log_input(dataset, context="evaluation")
            pace = Pace(candidate, baseline)
            exact = _exact(questions, pace, candidate.version.model_id)
            for _ in range(rounds - 1):
                pace.round(questions)
            metrics = {EXACT: exact, **pace.metrics(), SMOKE: float(len(problems))}
            flow.log_metrics(metrics, dataset=dataset, model_id=candidate.version.model_id)
            flow.log_table(pace.table(questions), "answers.json")
            flow.log_dict({"problems": problems}, "smoke.json")
            reason = _judge(flow, metrics, limits, compared=baseline is not None)
            flow.set_tags({VERDICT: FAILED if reason else PASSED, REASON: reason})
            return Evaluation(
                candidate=candidate.version.uri,
                baseline=baseline.version.uri if baseline else None,
                passed=not reason,
                reason=reason,
                metrics=metrics,
                run_id=run.info.run_id,
                page=runs.page(registry.address, run),
                problems=problems,
            )


def _exact(questions: Questions, pace: Pace, model_id: str | None) -> float:
    """The share of exact answers, asked and counted by MLflow within the active run."""
    with warnings.catch_warnings(), _quietly(), redirect_stdout(io.StringIO()):  # it prints where our result goes
        warnings.simplefilter("ignore")  # its own modules warn of what they import
        try:
            from mlflow import flush_trace_async_logging, genai, trace
            from mlflow.genai.scorers import scorer
        except ImportError:
            raise ModelError("evaluating needs MLflow whole; pip install 'pilothouse[mlflow]'") from None

        @scorer
        def exact(outputs: str, expectations: dict[str, Any]) -> bool:
            """The answer is the expected one, word for word."""
            return bool(outputs == expectations["expected_response"])

        def ask(messages: list[Any], **options: Any) -> str:
            return pace.pair({"messages": messages, **options})

        pace.warm(questions)
        traced = trace(ask, name="chat", span_type="CHAT_MODEL")
        result = genai.evaluate(data=questions.records(), predict_fn=traced, scorers=[exact], model_id=model_id)
        flush_trace_async_logging()
    pace.demand()
    return float(result.metrics["exact/mean"])


def _smoke(subject: Subject) -> Iterator[checks.Result]:
    return checks.run(checks.Target(subject.client, subject.model, subject.grpc))


def _judge(flow: ModuleType, metrics: dict[str, float], limits: Limits, *, compared: bool) -> str:
    """Why the metrics do not pass, in MLflow's words; empty where they do."""
    threshold, result = flow.models.MetricThreshold, flow.models.EvaluationResult
    wanted = {
        EXACT: threshold(threshold=limits.exact, greater_is_better=True),
        SMOKE: threshold(threshold=0, greater_is_better=False),
    }
    if compared:
        wanted[RATIO] = threshold(threshold=limits.slower, greater_is_better=False)
    try:
        flow.validate_evaluation_results(wanted, result(metrics=metrics, artifacts={}))
    except flow.exceptions.MlflowException as refusal:
        return " ".join(str(refusal.message).split())[:_SAID]
    return ""


def _params(candidate: Subject, baseline: Subject | None, questions: Questions, limits: Limits, rounds: int) -> dict[str, Any]:
    facts = {name: candidate.facts.get(name) for name in ("engine", "device", "kind", "architecture")}
    return {
        "candidate": candidate.version.uri,
        "candidate_digest": candidate.version.digest,
        "baseline": baseline.version.uri if baseline else NONE,
        "baseline_digest": baseline.version.digest if baseline else None,
        "questions": questions.name,
        "rounds": rounds,
        "server": candidate.client.url,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        **{f"limit_{name}": value for name, value in asdict(limits).items()},
        **facts,
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """One question at a time and no first one for a check of MLflow's: the times are of one request alone."""
    ours = {"MLFLOW_GENAI_EVAL_MAX_WORKERS": "1", "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old
