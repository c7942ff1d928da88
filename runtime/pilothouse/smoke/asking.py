"""Questions of one's own beside the checks: what was answered, and how long it took, so that two versions can be compared."""

import time
from collections.abc import Sequence
from typing import Any

from pilothouse.smoke.answers import Question
from pilothouse.smoke.client import Client
from pilothouse.smoke.ways import REST

MOST_TOKENS = 128


def ask(client: Client, model: str, questions: Sequence[str], times: int) -> list[dict[str, Any]]:
    """Each question greedily, once to warm up and then `times` times, in turn: its text, finish reason and the milliseconds of each time.

    A text that changes from one time to the next is told as it came last; `steady` is false then.
    """
    asked = {text: Question(messages=({"role": "user", "content": text},), options={"max_tokens": MOST_TOKENS}) for text in questions}
    found: dict[str, dict[str, Any]] = {text: {"question": text, "milliseconds": [], "steady": True} for text in asked}
    for turn in range(times + 1):
        for text, question in asked.items():
            begun = time.perf_counter()
            told = REST["OpenAI stream"](client, model, question)
            passed = (time.perf_counter() - begun) * 1000
            answer = found[text]
            answer["steady"] &= answer.get("text", told.text) == told.text
            answer |= {"text": told.text, "finish_reason": told.finish_reason, "tokens": told.completion_tokens}
            if turn:
                answer["milliseconds"].append(round(passed, 1))
    return list(found.values())
