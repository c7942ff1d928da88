"""A long-rope model's row that grows past the original window, beside rows that are answering: exact tokens, and nobody waits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pilothouse.engines.base import Job, StepEngine
from pilothouse.engines.driver import Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.plan import Limits
from pilothouse.engines.waiting import Waiting
from pilothouse.messages import Sampling
from support.tiny_models import ORIGINAL, tiny

pytestmark = [pytest.mark.slow, pytest.mark.transformers, pytest.mark.timeout(300)]

VOCABULARY, STEP = 600, 24
TEXT = np.random.default_rng(3).integers(10, 590, 64).tolist()


def paged() -> StepEngine:
    from pilothouse.engines.paged import PagedStep

    return PagedStep(tiny("phi35"), threads=2, rows=4, context=256, kv_memory_bytes=64 << 20, step_tokens=STEP)


def transformers() -> StepEngine:
    from pilothouse.engines.hf import HFStep
    from support.tiny_models import tiny_hf

    return HFStep(tiny_hf("phi35"), threads=2, context=256, rows=4, tokens_per_step=STEP)


def entry(prompt: int, tokens: int) -> Entry:
    """A greedy job of `prompt` tokens that answers so many."""
    return Entry(Job("job", tuple(TEXT[:prompt]), Sampling(temperature=0.0), tokens), 0.0)


def driver(engine: StepEngine, *entries: Entry) -> Stepping:
    waiting = Waiting()
    for one in entries:
        waiting.add(one)
    limits = Limits(engine.rows, engine.context, engine.tokens_per_step, drafts=False, turn=engine.turn)
    return Stepping(engine, VOCABULARY, None, waiting, limits, lambda error: None)


@pytest.mark.parametrize("make", [paged, transformers])
def test_neighbours_get_a_token_in_every_step_while_a_row_crosses_its_window(
    make: Callable[[], StepEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step of the kernels is ever larger than a step may be, and the row's text is the one that it gets alone."""
    engine: Any = make()
    assert engine.turn == ORIGINAL
    alone = entry(ORIGINAL - 8, 40)
    single = driver(engine, alone)
    while alone.answered < 40:
        single.step(single.plan(0.0))

    computed: list[int] = []
    inner = "_compute" if hasattr(engine, "_compute") else "_forward"
    compute = getattr(engine, inner)

    def counting(work: Any) -> Any:
        before = [state.length if (state := getattr(item, "keys", None)) else 0 for item, *_ in work] if inner == "_forward" else []
        answer = compute(work)
        after = [item.keys.length for item, *_ in work] if inner == "_forward" else [len(item.tokens) for item in work]
        computed.append(sum(after) - sum(before))
        return answer

    monkeypatch.setattr(engine, inner, counting)
    grows, others = entry(ORIGINAL - 8, 40), [entry(4 + n, 120) for n in range(2)]
    together = driver(engine, grows, *others)
    while grows.answered < 40:
        counts = [(other, other.answered) for other in others if other.answered]
        together.step(together.plan(0.0))
        assert all(other.answered == count + 1 for other, count in counts)
    assert max(computed) <= STEP
    assert grows.tokens == alone.tokens
    assert grows.opened == ORIGINAL + 1
    together.close()
