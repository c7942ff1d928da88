"""An engine that computes everything and then says what was written for it: real steps, and a text whose repetitions are known.

Random weights say nothing that could be guessed. What drafts gain and cost is a question of text, so the text is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.engines.base import Logits, StepEngine, Work


class Dictated:
    """A `StepEngine` around another one: after a prompt in `script`, the text that stands there is the likeliest."""

    def __init__(self, engine: StepEngine, script: Mapping[tuple[int, ...], Sequence[int]]) -> None:
        self._engine = engine
        self._script = script
        self._text: dict[int, list[int]] = {}
        self._length: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        cached = self._engine.admit(row, prompt, tenant, answered)
        if cached is not None:
            self._text[row] = [*prompt, *self._script.get(tuple(prompt), ())]
            self._length[row] = cached
        return cached

    def step(self, work: Sequence[Work]) -> Logits:
        logits = self._engine.step(work)
        at = 0
        for item in work:
            self._length[item.row] += len(item.tokens)
            text, end = self._text[item.row], self._length[item.row]
            for place in range(item.wanted):
                position = end - item.wanted + place + 1
                if position < len(text):
                    logits[at + place, text[position]] = 1e9
            at += item.wanted
        return logits

    def rollback(self, row: int, tokens: int) -> None:
        self._engine.rollback(row, tokens)
        self._length[row] -= tokens
