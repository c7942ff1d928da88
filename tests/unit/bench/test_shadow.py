"""The bare loop that layers are compared with takes the very steps that were served, some of each in turn."""

from typing import Any

import pytest
from shadow import TURN, Shadow

from pilothouse.engines.base import Job
from pilothouse.engines.bench import Bench
from pilothouse.engines.driver import Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.plan import Limits
from pilothouse.engines.scripted import ScriptedStep
from pilothouse.engines.waiting import Waiting
from pilothouse.messages import Sampling

SIZE = 2100  # words in it are told from what is none
COMING = {0: (40, 5), 3: (7, 30), 12: (60, 9), 13: (20, 3), 24: (9, 12)}  # before which step: tokens of the prompt, and of the answer


def _fail(error: BaseException) -> None:
    raise error


class Served:
    """A loop with its shadow, and what their engine was fed in each step."""

    def __init__(self, rows: int = 4, **engine: Any) -> None:
        self.engine = ScriptedStep(SIZE, rows=rows, tokens_per_step=32, **engine)
        self.waiting = Waiting()
        limits = Limits(rows=rows, context=256, tokens_per_step=32, stages=self.engine.stages)
        self.driver = Stepping(self.engine, SIZE, None, self.waiting, limits, _fail)
        self.shadow = Shadow(self.driver, Bench(self.engine, SIZE, None, _fail), limits)

    def serve(self, coming: dict[int, tuple[int, int]]) -> int:
        """Steps that it took."""
        step, coming = 0, dict(coming)
        while coming or len(self.waiting) or self.driver.running:
            if step in coming:
                prompt, tokens = coming.pop(step)
                job = Job(str(step), tuple(range(295, 295 + prompt)), Sampling(temperature=0.0), tokens, min_tokens=tokens)
                self.waiting.add(Entry(job, 0.0))
            self.driver.step(self.driver.plan(0.0))
            step += 1
        return step


def turns(fed: list[int], steps: int) -> tuple[list[int], list[int]]:
    """What was fed in the served loop's steps, and in the shadow's."""
    served, shadow = list[int](), list[int]()
    while len(served) < steps:
        size = min(TURN, steps - len(served))
        served += fed[len(served) + len(shadow) :][:size]
        shadow += fed[len(served) + len(shadow) :][:size]
    return served, shadow


def test_shadow_takes_the_steps_that_were_served() -> None:
    """Whenever requests come, each step has as many tokens in both loops, and no row is left."""
    both = Served(rows=8)
    both.shadow.begin(4)
    steps = both.serve(COMING)
    told = both.shadow.end()
    served, shadow = turns(both.engine.fed, steps)
    assert served == shadow
    assert sum(served) == sum(prompt + tokens - 1 for prompt, tokens in COMING.values())
    assert told["steps"] == (steps - 1) // TURN * (TURN - 1)
    assert not both.engine.open


def test_the_wait_for_a_request_is_no_part_of_a_step() -> None:
    """Where nobody was there, the first step counts in neither loop, though it is not the first of a turn."""
    both = Served()
    both.shadow.begin(2)
    steps = both.serve({0: (4, 3)}) + both.serve({0: (4, 3)}) + both.serve({0: (4, 7)})
    told = both.shadow.end()
    assert steps == 13
    assert told["steps"] == TURN - 3


def test_no_steps_beside_without_a_shadow() -> None:
    """Before it begins and after it has ended the engine is the served loop's alone."""
    both = Served()
    assert both.serve(COMING) == len(both.engine.fed)
    both.shadow.begin(2)
    both.shadow.end()
    before = len(both.engine.fed)
    assert both.serve(COMING) == len(both.engine.fed) - before


def test_shadow_asks_for_other_words() -> None:
    """A prompt as long of other words: nothing of it is computed yet. What is no word stays."""
    both = Served(prefix_cache=True)
    both.shadow.begin(2)
    both.serve({0: (40, 12)})
    prompts = [row.tokens[:40] for row in both.engine.open.values()]
    both.shadow.end()
    [shadow] = prompts
    assert shadow[:5] == list(range(295, 300))
    assert not set(shadow[5:]) & set(range(295, 335))


def test_shadow_needs_rows_of_its_own() -> None:
    """It is refused by name where the engine has no rows left for it."""
    with pytest.raises(ValueError, match="rows: a shadow needs 6 of them, and the engine has 4"):
        Served().shadow.begin(3)


def test_shadow_refuses_a_piece_that_rests() -> None:
    """The engine holds one; it can't be the other loop's, too."""
    both = Served(stages=4, context=256)
    both.shadow.begin(2)
    with pytest.raises(ValueError, match="words: a piece of a long prompt"):
        both.serve({0: (4, 60), 2: (200, 3)})
