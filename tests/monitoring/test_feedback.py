"""Feedback by trace id: it lands beside the answer's trace as an MLflow assessment, or the client is told why not."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from mlflow.entities import Trace

from monitoring.asking import CHAT, KEYS, ask
from support.relay import relayed
from support.server import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PATH = "/v1/feedback"


@pytest.mark.parametrize("value", [True, 0.5, 4, "too long"])
def test_feedback_lands_as_an_assessment(traced: Served, arrived: Callable[[str], Trace], value: Any) -> None:
    """With its name, value, reason and who gave it; 200 means that MLflow has it."""
    trace_id = ask(traced, "/v1/chat/completions", CHAT | {"max_tokens": 3}).headers["x-trace-id"]
    arrived(trace_id)
    given = {"trace_id": trace_id, "name": "helpful", "value": value, "rationale": "it names the city", "user": "anna"}
    answer = ask(traced, PATH, given, **{"X-Request-Id": "f-1"})
    assert answer.status_code == 200, answer.text

    (assessment,) = arrived(trace_id).info.assessments
    assert answer.json() == {"id": assessment.assessment_id, "trace_id": trace_id, "name": "helpful"}
    assert (assessment.name, assessment.value, assessment.rationale) == ("helpful", value, "it names the city")
    assert (assessment.source.source_type, assessment.source.source_id) == ("HUMAN", "anna")
    assert assessment.metadata == {"pilothouse.request": "f-1"}


def test_a_trace_that_is_not_there_is_not_found(traced: Served) -> None:
    """After a little patience: a trace arrives a moment after its answer."""
    answer = ask(traced, PATH, {"trace_id": "tr-" + "0" * 32, "value": True})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("no trace tr-0000")


def test_feedback_is_taken_from_the_key_that_asked(keyed: Served, arrived: Callable[[str], Trace]) -> None:
    """Another key sees no such trace; no key is 401; the key's name is the source where the client names nobody."""
    mine, other = ({"authorization": f"Bearer {KEYS[name]}"} for name in ("team-a", "team-b"))
    trace_id = ask(keyed, "/v1/chat/completions", CHAT | {"max_tokens": 3}, **mine).headers["x-trace-id"]
    given = {"trace_id": trace_id, "value": False}
    arrived(trace_id)

    assert ask(keyed, PATH, given).status_code == 401
    assert ask(keyed, PATH, given, **other).status_code == 404
    assert ask(keyed, PATH, given, **mine).status_code == 200
    (assessment,) = arrived(trace_id).info.assessments
    assert (assessment.name, assessment.value, assessment.source.source_id) == ("user_feedback", False, "team-a")
    assert assessment.metadata["pilothouse.key"] == "team-a"


def test_a_tracking_server_that_is_away_is_said(tracking: str) -> None:
    """503 with Retry-After, in OpenAI's shape; nothing is lost in silence."""
    with relayed(tracking, "cut") as relay, served(traces=True, trace_experiment="away", tracking_uri=relay.address) as server:
        answer = ask(server, PATH, {"trace_id": "tr-" + "0" * 32, "value": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "not_ready"


def test_the_document_has_the_route(traced: Served) -> None:
    """With its body and what it answers."""
    route = httpx.get(f"{traced.rest}/openapi.json", timeout=60).json()["paths"][PATH]["post"]
    assert sorted(route["responses"]) == ["200", "400", "401", "403", "404", "405", "408", "413", "415", "429", "431", "500", "503"]
