"""Candidate and baseline asked the same, one after the other, the order changing, so that a neighbour on the machine slows both."""

import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.lifecycle.questions import Questions
from pilothouse.lifecycle.serving import Subject

RATIO = "latency_ratio"


class Pace:
    """Asks the candidate and the baseline the same, one after the other, and keeps the answers of the first and the seconds of both."""

    def __init__(self, candidate: Subject, baseline: Subject | None) -> None:
        self._both = [candidate, *([baseline] if baseline else [])]
        self._turn = 0
        self._failure: ModelError | None = None
        self.seconds: list[list[float]] = [[] for _ in self._both]
        self.first: dict[str, tuple[str, list[float]]] = {}  # of each question: the first answer and the seconds of both

    def warm(self, questions: Questions) -> None:
        """A server's first answer is not what it is compared by."""
        for subject in self._both:
            _answer(subject, questions.asked[0])

    def round(self, questions: Questions) -> None:
        """Every question once, for its times alone."""
        for asked in questions.asked:
            self.pair(asked)

    def pair(self, asked: Mapping[str, Any]) -> str:
        """One question to both, the order changing; the candidate's answer. Raises `ModelError` where one is gone."""
        self._turn += 1
        texts, seconds = [""] * len(self._both), [0.0] * len(self._both)
        order = list(enumerate(self._both))
        for index, subject in order if self._turn % 2 else reversed(order):
            began = time.perf_counter()
            try:
                texts[index] = _answer(subject, asked)
            except ModelError as failure:  # MLflow counts it as an answer that was not given
                self._failure = self._failure or failure
                raise
            seconds[index] = time.perf_counter() - began
        for kept, one in zip(self.seconds, seconds, strict=True):
            kept.append(one)
        self.first.setdefault(_key(asked), (texts[0], seconds))
        return texts[0]

    def demand(self) -> None:
        """Raise what a server that went away raised."""
        if self._failure is not None:
            raise self._failure

    def metrics(self) -> dict[str, float]:
        """Times in seconds; the ratio is the median over the pairs."""
        ours, *others = self.seconds
        told = {"answer_seconds_p50": statistics.median(ours), "answer_seconds_p95": _share(ours, 0.95), "asked": float(len(ours))}
        for theirs in others:
            told["baseline_answer_seconds_p50"] = statistics.median(theirs)
            told[RATIO] = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        return told

    def table(self, questions: Questions) -> dict[str, list[Any]]:
        """A row a question of the first round, in the file's order."""
        told = [self.first[_key(asked)] for asked in questions.asked]
        return {
            "inputs": [_key(asked) for asked in questions.asked],
            "expected": list(questions.expected),
            "answer": [text for text, _ in told],
            "exact": [text == wanted for (text, _), wanted in zip(told, questions.expected, strict=True)],
            **{name: [seconds[i] for _, seconds in told] for i, name in enumerate(("seconds", "baseline_seconds")[: len(self._both)])},
        }


def _answer(subject: Subject, asked: Mapping[str, Any]) -> str:
    """The text of one chat; a refusal is told in its place, for it is no answer."""
    body = {"temperature": 0, **asked, "model": subject.model}
    try:
        reply = subject.client.post("/v1/chat/completions", body)
    except OSError as error:
        raise ModelError(f"{subject.client.url} stopped answering ({type(error).__name__}); see its log and evaluate again") from None
    if reply.status != 200:
        return f"(refused with {reply.status})"
    return str(reply.json["choices"][0]["message"]["content"] or "")


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, ensure_ascii=False, sort_keys=True)


def _share(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
