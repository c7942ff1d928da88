"""A real loop over the scripted engine, for tests that need an `Engine` that batches, queues, fails and hangs by command."""

from typing import Any

from pilothouse.engines.base import Job
from pilothouse.engines.faults import Faults
from pilothouse.engines.loop import Loop
from pilothouse.engines.scripted import END, ScriptedStep, ScriptedVocabulary
from pilothouse.messages import Sampling

LOOP_OPTIONS = frozenset(
    {"guidance", "queue", "queue_tokens", "queue_seconds", "request_seconds", "speculation", "on_queue", "on_cancel", "on_failure", "clock"}
)


class ScriptedLoop(Loop):
    """A loop that keeps the step engines it made, for tests to look into."""

    made: list[ScriptedStep]


def engine(vocabulary: ScriptedVocabulary | None = None, *, faults: Faults | None = None, **options: Any) -> ScriptedLoop:
    """A loop that is not started. Options of `Loop` go to it, all others to `ScriptedStep`."""
    words = vocabulary or ScriptedVocabulary()
    of_loop = {name: value for name, value in options.items() if name in LOOP_OPTIONS}
    of_step = {name: value for name, value in options.items() if name not in LOOP_OPTIONS}
    made: list[ScriptedStep] = []

    def make() -> ScriptedStep:
        made.append(ScriptedStep(words.size, faults=faults, **of_step))
        return made[-1]

    loop = ScriptedLoop(make, words, **of_loop)
    loop.made = made
    return loop


def job(prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 8, **options: Any) -> Job:
    """A greedy job that ends at `END` or after `max_tokens`."""
    ours: dict[str, Any] = {"id": "job", "sampling": Sampling(temperature=0.0), "end_ids": frozenset({END})}
    return Job(prompt=prompt, max_tokens=max_tokens, **(ours | options))
