"""Whether a new revision may serve: its check's report, beside that of the serving one where the two are compared. Pure.

A report is what `pilothouse smoke --json` prints.
"""

from collections.abc import Mapping
from typing import Any

from pilothouse.operator.rollout import PASSED, Failure
from pilothouse.operator.spec import Analysis

Report = Mapping[str, Any]


def judge(analysis: Analysis, report: Report, baseline: Report | None) -> Failure:
    """`PASSED`, or the first thing that is wrong. `baseline` is the serving revision's report; None where there is none to compare with."""
    for check in report.get("checks", ()):
        if check["problem"]:
            return _no("SmokeFailed", f"{check['name']}: {check['problem']}")
    if not report.get("checks"):
        return _no("SmokeFailed", str(report.get("problem", "the check ended without a report")))
    told = {answer["question"]: answer for answer in report.get("answers", ())}
    for question in analysis.questions:
        text = told[question.question]["text"]
        if question.answer is not None and text != question.answer:
            return _no("WrongAnswer", f"{question.question!r} was answered {_short(text)}, not {_short(question.answer)}")
    if baseline is None:
        return PASSED
    if not baseline.get("answers"):
        wrong = next((check["problem"] for check in baseline.get("checks", ()) if check["problem"]), baseline.get("problem"))
        return _no("NotCompared", f"the serving revision could not be asked the same: {wrong}")
    before = {answer["question"]: answer for answer in baseline.get("answers", ())}
    if analysis.same_answers:
        for asked in told.keys() & before.keys():
            if told[asked]["text"] != before[asked]["text"]:
                return _no("AnswersDiffer", f"{asked!r} was answered {_short(told[asked]['text'])}, before {_short(before[asked]['text'])}")
    if analysis.max_slowdown_percent is not None and told.keys() & before.keys():
        # The fastest of its samples: what a busy node adds is no property of a version, and comes on top of some samples only.
        new, old = (sum(min(side[asked]["milliseconds"]) for asked in told.keys() & before.keys()) for side in (told, before))
        slower = (new / old - 1) * 100
        if slower > analysis.max_slowdown_percent:
            return _no("TooSlow", f"its answers took {new:.0f} ms, {slower:.0f}% more than the serving {old:.0f} ms")
    return PASSED


def _no(reason: str, message: str) -> Failure:
    return Failure(reason, message[:1000], final=True)


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
