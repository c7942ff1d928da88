"""A new version is let in by its check's report, beside the serving one's where the two are compared."""

from typing import Any

from pilothouse.operator.analysis import judge
from pilothouse.operator.rollout import PASSED
from pilothouse.operator.spec import Analysis, Question

SPAIN = "What is the capital of Spain?"


def report(text: str = "Madrid.", milliseconds: float = 100.0, problem: str | None = None) -> dict[str, Any]:
    times = [milliseconds * 3, milliseconds * 9, milliseconds]  # a busy node is no slow version
    return {"checks": [{"name": "parity", "problem": problem}], "answers": [{"question": SPAIN, "text": text, "milliseconds": times}]}


def test_a_promise_that_was_not_held_is_the_reason() -> None:
    """By its name, in its own words."""
    found = judge(Analysis(), report(problem="V2 REST answered nothing"), None)

    assert (found.reason, found.message, found.final) == ("SmokeFailed", "parity: V2 REST answered nothing", True)


def test_a_check_without_a_report_is_no_pass() -> None:
    """A pod that was evicted has checked nothing."""
    assert judge(Analysis(), {"checks": [], "problem": "evicted"}, None).message == "evicted"
    assert judge(Analysis(), {}, None).reason == "SmokeFailed"


def test_answers_are_held_to_the_letter() -> None:
    """Where the policy says what is right; else any answer is."""
    exact = Analysis(questions=(Question(SPAIN, "Madrid."),))

    assert judge(exact, report("Madrid."), None) == PASSED
    assert judge(exact, report("Madrid"), None).reason == "WrongAnswer"
    assert judge(Analysis(questions=(Question(SPAIN),)), report("Lisbon"), None) == PASSED


def test_answers_are_compared_with_the_serving_version() -> None:
    """Only where the policy asks for that."""
    assert judge(Analysis(same_answers=True), report("Lisbon"), report("Madrid.")).reason == "AnswersDiffer"
    assert judge(Analysis(same_answers=True), report(), report()) == PASSED
    assert judge(Analysis(), report("Lisbon"), report("Madrid.")) == PASSED


def test_slower_than_allowed_is_too_slow() -> None:
    """By the fastest time of each question, as a ratio to the serving version's: a busy node makes some times slower, on either side."""
    policy = Analysis(max_slowdown_percent=50)

    assert judge(policy, report(milliseconds=149), report(milliseconds=100)) == PASSED
    found = judge(policy, report(milliseconds=160), report(milliseconds=100))
    assert (found.reason, found.message) == ("TooSlow", "its answers took 160 ms, 60% more than the serving 100 ms")
