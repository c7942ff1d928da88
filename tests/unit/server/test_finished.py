"""Finished calls: one access line each, told to every listener, and no listener harms a request."""

import logging

import pytest

from pilothouse.calls import Call
from pilothouse.server.finished import Finished, ended, line

ANSWERED = Call(
    id="r-1",
    tenant="team-a",
    protocol="openai",
    seconds=1.25,
    method="POST",
    route="/v1/chat/completions",
    status=200,
    prompt_tokens=7,
    completion_tokens=3,
    cached_tokens=2,
    queue_seconds=0.0625,
    first_token_seconds=0.5,
    outcome="ok",
    trace_id="0af7651916cd43dd8448eb211c80319c",
)


def test_an_answer_s_line_has_who_how_and_what_it_cost() -> None:
    """Id, key's name, protocol, route, status, outcome, times in milliseconds, tokens, and the trace where there is one."""
    assert line(ANSWERED) == {
        "id": "r-1",
        "key": "team-a",
        "protocol": "openai",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "ms": 1250.0,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "cached_tokens": 2,
        "queue_ms": 62.5,
        "ttft_ms": 500.0,
        "trace": "0af7651916cd43dd8448eb211c80319c",
    }


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (404, "refused"),
        (503, "refused"),
        (500, "failed"),
        (499, "cancelled"),
        ("OK", "ok"),
        ("NOT_FOUND", "refused"),
        ("INTERNAL", "failed"),
        ("CANCELLED", "cancelled"),
    ],
)
def test_a_call_that_never_met_the_engine_has_an_outcome_too(status: int | str, outcome: str) -> None:
    """By its status, over either wire."""
    assert ended(Call(status=status)) == outcome


def test_every_listener_hears_of_every_call_but_probes(caplog: pytest.LogCaptureFixture) -> None:
    """One that fails is logged; the next one and the request do not notice."""
    caplog.set_level(logging.DEBUG, logger="pilothouse")
    heard: list[Call] = []

    def broken(call: Call) -> None:
        raise RuntimeError("out of paper")

    finished = Finished()
    finished.tell(broken)
    finished.tell(heard.append)
    finished(ANSWERED)
    finished(Call(id="probe", status=200), quiet=True)
    assert heard == [ANSWERED]
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("pilothouse.access", "INFO", "request"),
        ("pilothouse.server", "ERROR", "a listener failed for request r-1"),
        ("pilothouse.access", "DEBUG", "request"),
    ]
