"""The paged engine on the pocket model: every way of computing a row gives the tokens of its run alone."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings

from pilothouse.engines.base import Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.paged import PagedStep
from pilothouse.engines.refusals import GraphRefused
from pilothouse.models import pocket
from support.playing import Part, alone, play, schedules
from support.pocket_text import KNOWN, answer, question, text

ROWS = 4
PREFIX = question(KNOWN[0][0]) + answer(KNOWN[0][1])
PROMPTS = [question(q) for q, _ in KNOWN[:3]] + [PREFIX + question(q) for q, _ in KNOWN[:3]]


def make(**changes: object) -> PagedStep:
    values = {"threads": 2, "rows": ROWS, "context": 512, "kv_memory_bytes": 8 << 20} | changes
    return PagedStep(pocket.FOLDER, **values)  # type: ignore[arg-type]  # the table above has the types of the signature


@pytest.fixture(scope="module")
def engine() -> Iterator[PagedStep]:
    made = make()
    made.warm_up()
    yield made
    made.close()


@pytest.fixture(scope="module")
def oracle() -> Iterator[dict[tuple[int, ...], list[int]]]:
    """Each prompt's tokens alone, on an engine without prefixes."""
    made = make(prefix_cache=False)
    yield {prompt: alone(made, prompt, 24) for prompt in PROMPTS}
    made.close()


@pytest.mark.parametrize(("asked", "known"), KNOWN)
def test_known_answers_are_word_for_word(engine: PagedStep, asked: str, known: str) -> None:
    """The pocket model says what it learned, to its end token, which is no text."""
    expected = answer(known)
    tokens = alone(engine, question(asked), len(expected))

    assert tokens == list(expected)
    assert text(tokens[:-1]) == known


@given(parts=schedules(PROMPTS, rows=ROWS))
@settings(max_examples=40, deadline=None)
def test_every_schedule_gives_the_tokens_of_a_run_alone(
    engine: PagedStep, oracle: dict[tuple[int, ...], list[int]], parts: list[Part]
) -> None:
    """Batched, in chunks, after roll-backs, over shared prefixes, after others came or left: the same tokens; and all memory comes back."""
    played = play(engine, parts, [oracle[part.prompt] for part in parts])

    assert played == [oracle[part.prompt][: min(part.tokens, part.leaves)] for part in parts]
    assert engine.usage() == 0


def test_a_shared_beginning_is_not_computed_again(engine: PagedStep, oracle: dict[tuple[int, ...], list[int]]) -> None:
    """A second row with the same first blocks need not be fed them, and answers as if it had been."""
    first, second = PROMPTS[3], PROMPTS[4]
    common = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    alone(engine, first, 2)
    cached = engine.admit(0, second, "")
    assert cached == common // BLOCK * BLOCK > 0

    assert engine.extend(0, len(second) - cached)
    logits = engine.step([Work(0, second[cached:], 1)])
    engine.withdraw(0)
    assert logits.argmax(axis=1).tolist() == oracle[second][:1]


def test_a_beginning_is_shared_while_its_first_row_still_runs(engine: PagedStep) -> None:
    """Blocks of a prompt can be used as soon as they are computed, and the first row may leave before the second."""
    prompt = tuple(range(50, 50 + 3 * BLOCK))
    assert engine.admit(0, prompt, "") == 0
    engine.step([Work(0, prompt, 1)])
    assert engine.admit(1, prompt, "") == 2 * BLOCK
    used = engine.usage()
    engine.withdraw(0)
    assert 0 < engine.usage() < used
    engine.withdraw(1)
    assert engine.usage() == 0


def test_tenants_share_nothing_when_isolated() -> None:
    """Another API key finds no prefix; with isolation off it does."""
    for isolation, expected in ((True, 0), (False, BLOCK)):
        made = make(prefix_isolation=isolation)
        prompt = tuple(range(50, 51 + BLOCK))
        made.admit(0, prompt, "alice")
        made.step([Work(0, prompt, 1)])
        assert made.admit(1, prompt, "bob") == expected
        assert made.admit(2, prompt, "alice") == BLOCK
        made.close()


def test_without_a_prefix_cache_everything_is_computed() -> None:
    """The setting turns sharing off, and the capability says so."""
    made = make(prefix_cache=False)
    prompt = tuple(range(50, 51 + BLOCK))
    made.admit(0, prompt, "")
    made.step([Work(0, prompt, 1)])

    assert made.admit(1, prompt, "") == 0
    assert made.capabilities.prefix_cache is False
    made.close()


def test_memory_decides_who_is_admitted_and_who_may_grow() -> None:
    """A prompt needs its blocks at once; a full pool refuses both with no side effect, and a row that leaves makes room."""
    made = make()
    block = made.describe()["kv_bytes_per_token"] * BLOCK
    made.close()
    made = make(kv_memory_bytes=4 * block)
    assert made.context == 4 * BLOCK
    assert made.admit(0, [5] * (2 * BLOCK), "") == 0
    assert made.admit(1, [6] * (2 * BLOCK + 1), "") is None
    assert made.admit(1, [6] * (2 * BLOCK), "") == 0
    assert made.usage() == 1.0
    made.step([Work(0, [5] * (2 * BLOCK), 1), Work(1, [6] * (2 * BLOCK), 1)])
    assert made.extend(0, 1) is False
    made.withdraw(1)
    assert made.extend(0, 1) is True
    assert made.usage() == 0.75
    made.close()


def test_kept_prefixes_give_way_to_rows() -> None:
    """A prefix that nobody holds never keeps a row out."""
    made = make()
    block = made.describe()["kv_bytes_per_token"] * BLOCK
    made.close()
    made = make(kv_memory_bytes=4 * block)
    for token in (5, 6, 7, 8):
        prompt = [token] * (3 * BLOCK + 1)
        assert made.admit(0, prompt, "") == 0
        made.step([Work(0, prompt, 1)])
        made.withdraw(0)
    assert made.usage() == 0
    made.close()


def test_too_little_memory_is_refused_by_name() -> None:
    """A pool that can't hold anything is an error at the start that names the setting."""
    with pytest.raises(GraphRefused, match="raise kv_memory_bytes"):
        make(kv_memory_bytes=1000)


def test_a_step_without_wanted_logits_answers_none(engine: PagedStep) -> None:
    """The middle of a prompt needs no head: no rows of logits come back."""
    engine.admit(0, [5] * 40, "nobody")
    assert engine.step([Work(0, [5] * 20, 0)]).shape == (0, engine.describe()["vocabulary"])
    assert engine.step([Work(0, [5] * 20, 1)]).shape == (1, engine.describe()["vocabulary"])
    engine.withdraw(0)


def test_logits_of_drafts_are_those_of_single_steps(engine: PagedStep) -> None:
    """The last `wanted` positions answer in order, as if each had been fed on its own."""
    prompt = question(KNOWN[0][0])
    engine.admit(0, prompt, "a")
    rows = [engine.step([Work(0, [token], 1)])[0].copy() for token in prompt]
    engine.withdraw(0)
    engine.admit(0, prompt, "b")
    at_once = engine.step([Work(0, prompt, 3)])

    np.testing.assert_allclose(at_once, np.stack(rows[-3:]), rtol=0, atol=1e-3 * np.abs(rows[-1]).max())
    engine.withdraw(0)


def test_only_the_last_step_can_be_rolled_back(engine: PagedStep) -> None:
    """Older tokens may be in shared blocks: taking them back is a bug of the caller."""
    engine.admit(0, [5] * 8, "")
    engine.step([Work(0, [5] * 8, 1)])
    assert engine.extend(0, 3)
    engine.step([Work(0, [6, 7, 8], 3)])
    engine.rollback(0, 2)
    with pytest.raises(ValueError, match="can go back by 1 tokens, not 2"):
        engine.rollback(0, 2)
    engine.withdraw(0)


def test_a_row_ends_at_the_context(engine: PagedStep) -> None:
    """`extend` refuses the token after the last one; a prompt that is longer is the caller's bug."""
    engine.admit(0, [5] * 512, "")
    assert engine.extend(0, 512) is True
    assert engine.extend(0, 513) is False
    engine.withdraw(0)
    with pytest.raises(ValueError, match="1 to 512 tokens, not 513"):
        engine.admit(0, [5] * 513, "")


def test_keys_and_values_of_8_bits_hold_more_and_promise_less() -> None:
    """u8 takes about half the memory, answers a known question, and says that it is not exact."""
    half = make(kv_precision="u8")
    facts = half.describe()
    full = make()
    tokens = alone(half, question(KNOWN[0][0]), 8)

    assert facts["kv_precision"] == "u8"
    assert facts["kv_bytes_per_token"] < 0.7 * full.describe()["kv_bytes_per_token"]
    assert (half.capabilities.exact, full.capabilities.exact) == (False, True)
    assert tokens == list(answer(KNOWN[0][1])[:8])
    half.close()
    full.close()


def test_the_engine_says_what_it_is(engine: PagedStep) -> None:
    """Metadata and log name kernels, precision, sizes and what the graph has."""
    facts = engine.describe()
    assert facts["kernels"] == "OpenVINO 2026.4.1 CPU, paged attention"
    assert {k: facts[k] for k in ("engine", "compute", "kv_precision", "threads", "rows", "context_tokens", "layers", "graph_features")} == {
        "engine": "paged", "compute": "f32", "kv_precision": "fp16", "threads": 2, "rows": ROWS, "context_tokens": 512, "layers": 2, "graph_features": [],
    }  # fmt: skip
    assert repr(engine).startswith(f"PagedStep(rows=0/{ROWS}, Blocks(")
