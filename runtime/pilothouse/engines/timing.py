"""How fast an engine is on this machine: prompts and batches of random tokens, for a few seconds, through the same seam that serves."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pilothouse.engines.base import StepEngine, Work

PROMPT = 256  # tokens


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens per second: of one prompt, and of all rows together at each number of rows."""

    name: str
    prefill: float
    decode: dict[int, float]

    @property
    def best(self) -> float:
        """Tokens per second at the most rows that were tried: what a busy server gives."""
        return self.decode[max(self.decode)] if self.decode else 0.0


def measure(engine: StepEngine, vocabulary: int, *, rows: tuple[int, ...] = (1, 4, 16), seconds: float = 1.0) -> Timing:
    """Time `engine` for about `seconds` a figure; figures are medians of steps. It must be warm, and is left with no rows."""
    draw = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in draw.integers(0, vocabulary, count)]

    length = min(PROMPT, engine.context // 2)
    prefill: list[float] = []
    began = time.perf_counter()
    while not prefill or time.perf_counter() - began < seconds:
        prompt, at = tokens(length), 0
        if engine.admit(0, prompt, "timing") is None:
            return Timing(engine.name, 0.0, {})
        begun = time.perf_counter()
        while at < length:
            piece = prompt[at : at + engine.tokens_alone]
            at += len(piece)
            engine.extend(0, len(piece))
            engine.step([Work(0, piece, 1 if at == length else 0)])
        prefill.append(length / (time.perf_counter() - begun))
        engine.withdraw(0)
    return Timing(
        engine.name, float(np.median(prefill)), {count: rate for count in rows if (rate := _decode(engine, tokens, count, seconds))}
    )


def _decode(engine: StepEngine, tokens: Callable[[int], list[int]], count: int, seconds: float) -> float:
    """Tokens per second of `count` rows; 0 where the engine has no place for so many."""
    opened: list[int] = []
    try:
        for row in range(min(count, engine.rows)):
            prompt = tokens(8)
            if engine.admit(row, prompt, "timing") is None or not engine.extend(row, len(prompt)):
                return 0.0
            opened.append(row)
            engine.step([Work(row, prompt, 1)])
        if len(opened) < count:
            return 0.0
        steps: list[float] = []
        began = time.perf_counter()
        while len(steps) < 3 or time.perf_counter() - began < seconds:
            if not all(engine.extend(row, 1) for row in opened) or len(steps) > engine.context // 2:
                break
            work = [Work(row, tokens(1), 1) for row in opened]
            begun = time.perf_counter()
            engine.step(work)
            steps.append(time.perf_counter() - begun)
        return count / float(np.median(steps))
    finally:
        for row in opened:
            engine.withdraw(row)
