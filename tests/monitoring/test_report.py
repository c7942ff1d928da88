"""`pilothouse report`: what was served, from real traces or real metrics, beside the evaluation of that version."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow.entities import Trace

from monitoring.asking import CHAT, ask, found
from pilothouse.lifecycle import report
from pilothouse.lifecycle.promotion import EVALUATION
from pilothouse.models import packaging
from pilothouse.models.packaging import Packaged, Target
from support.server import Served, served
from support.waiting import waited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

EXPERIMENT = "reported"


@pytest.fixture(scope="module")
def registered(tracking: str) -> Packaged:
    """A version with an evaluation's run behind it, as `pilothouse evaluate` leaves it."""
    made = packaging.package_onnx(target=Target(tracking_uri=tracking, register="reported", alias="champion"))
    client = mlflow.MlflowClient(tracking_uri=tracking)
    run = client.create_run(client.get_experiment_by_name("pilothouse").experiment_id)
    for name, value in (("exact_match/v1", 1.0), ("answer_seconds_p50", 1e-4), ("answer_seconds_p95", 1e9)):
        client.log_metric(run.info.run_id, name, value)
    client.set_model_version_tag("reported", made.version, EVALUATION, run.info.run_id)
    return made


@pytest.fixture(scope="module")
def asked(registered: Packaged, tracking: str) -> Iterator[Served]:
    """Served by its alias; three answers, one refusal, and feedback on two."""
    with served(registered.uri, traces=True, trace_experiment=EXPERIMENT, tracking_uri=tracking) as server:
        body = CHAT | {"model": "reported", "max_tokens": 5}
        ids = [ask(server, "/v1/chat/completions", body).headers["x-trace-id"] for _ in range(3)]
        ask(server, "/v1/chat/completions", body | {"messages": [{"role": "user", "content": "x " * 20000}]})
        client = mlflow.MlflowClient(tracking_uri=tracking)
        for trace_id in ids:
            waited(lambda t=trace_id: found(client, t), "a trace did not arrive")
        for trace_id, value in zip(ids, (True, False), strict=False):
            assert ask(server, "/v1/feedback", {"trace_id": trace_id, "name": "helpful", "value": value}).status_code == 200
        yield server


def test_traces_are_counted_by_the_model_s_files(
    asked: Served, registered: Packaged, tracking: str, arrived: Callable[[str], Trace]
) -> None:
    """Requests, shares, times, tokens and feedback of the version, with the evaluation's numbers beside them."""
    last = ask(asked, "/v1/chat/completions", CHAT | {"model": "reported", "max_tokens": 5})
    arrived(last.headers["x-trace-id"])
    made = report.from_traces("models:/reported@champion", experiment=EXPERIMENT, hours=1, tracking_uri=tracking)

    assert made.served["requests"] == 5
    assert (made.served["refused_share"], made.served["failed_share"], made.served["cancelled_share"]) == (0.2, 0.0, 0.0)
    assert (made.served["answer_tokens_mean"], made.served["prompt_tokens_mean"]) == (5, last.json()["usage"]["prompt_tokens"])
    assert 0 < made.served["first_token_seconds_p50"] <= made.served["answer_seconds_p50"] <= made.served["answer_seconds_p95"]
    assert made.feedback == {"helpful": report.Opinion(2, 0.5)}
    assert made.evaluated == {"answer_seconds_p50": 1e-4, "answer_seconds_p95": 1e9, "exact_share": 1.0}
    assert made.slower is not None
    assert made.slower > 1
    first, *rows = report.lines(made)
    assert first == f"reported version 1: 5 traces of 1 hours, beside evaluation {made.evaluation}"
    assert "feedback helpful: 2, mean 0.5" in rows


def test_the_command_ends_with_1_over_a_limit(asked: Served, tracking: str) -> None:
    """And says which; with --json the report is one object on standard output."""
    command = [
        sys.executable,
        "-m",
        "pilothouse.cli",
        "report",
        "models:/reported/1",
        "--tracking-uri",
        tracking,
        "--experiment",
        EXPERIMENT,
    ]
    done = subprocess.run([*command, "--slower", "1.1", "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["served"]["requests"] >= 4
    assert done.stderr.startswith("the median answer took ")


def test_metrics_take_the_place_of_traces(asked: Served, tracking: str) -> None:
    """Of the server that serves that version: the same requests, times as the buckets have them."""
    text = httpx.get(asked.metrics, timeout=60).text
    made = report.from_metrics("models:/reported@champion", text, tracking_uri=tracking)
    assert made.served["requests"] >= 4
    assert made.served["answer_tokens_mean"] == 5
    assert made.served["first_token_seconds_p50"] > 0
    assert made.source == "one server's metrics since it started"


def test_what_was_never_served_is_said(registered: Packaged, traced: Served, tracking: str, tmp_path: Path) -> None:
    """No experiment, no trace of that version, another version's metrics: one line each, with the way out."""
    from pilothouse.errors import ModelError

    with pytest.raises(ModelError, match=r"^no experiment 'nowhere' in http://"):
        report.from_traces(registered.uri, experiment="nowhere", hours=1, tracking_uri=tracking)
    with pytest.raises(ModelError, match=r"^reported version 1 left no trace in 'Default' in 1 hours; serve it with --traces"):
        report.from_traces(registered.uri, experiment="Default", hours=1, tracking_uri=tracking)
    with pytest.raises(ModelError, match=r"those are no metrics|serves version"):
        report.from_metrics(registered.uri, "}{", tracking_uri=tracking)
