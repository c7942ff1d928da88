"""What every engine of ours promises the loop, on the pocket model: however a row is computed, its tokens are those of its run alone."""

from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings

from pilothouse.engines.base import Logits, Stages, Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.paged import PagedStep
from pilothouse.engines.refusals import GraphRefused
from pilothouse.engines.slots import SlotsStep
from pilothouse.models import pocket
from support.playing import Part, alone, play, schedules
from support.pocket_text import KNOWN, answer, question, text

Step = PagedStep | SlotsStep
Make = Callable[..., Step]
Oracle = dict[tuple[int, ...], list[int]]

ROWS = 4
CONTEXT = 512
PREFIX = question(KNOWN[0][0]) + answer(KNOWN[0][1])
PROMPTS = [question(q) for q, _ in KNOWN[:3]] + [PREFIX + question(q) for q, _ in KNOWN[:3]]


@pytest.fixture(scope="module", params=[PagedStep, SlotsStep], ids=lambda kind: kind.name)
def make(request: pytest.FixtureRequest) -> Make:
    def made(**changes: object) -> Step:
        return request.param(pocket.FOLDER, **{"threads": 2, "rows": ROWS, "context": CONTEXT, "kv_memory_bytes": 16 << 20} | changes)

    return made


@pytest.fixture(scope="module")
def engine(make: Make) -> Iterator[Step]:
    made = make()
    made.warm_up()
    yield made
    made.close()


@pytest.fixture(scope="module")
def oracle(make: Make) -> Oracle:
    """Each prompt's tokens alone, on an engine without prefixes."""
    made = make(prefix_cache=False)
    tokens = {prompt: alone(made, prompt, 24) for prompt in PROMPTS}
    made.close()
    return tokens


def feed(engine: Step, row: int, prompt: tuple[int, ...], tenant: str = "") -> int:
    """Open `row` and compute its prompt; answers the tokens that were there."""
    cached = engine.admit(row, prompt, tenant)
    assert cached is not None
    engine.step([Work(row, prompt[cached:], 1)])
    return cached


@pytest.mark.parametrize(("asked", "known"), KNOWN)
def test_known_answers_are_word_for_word(engine: Step, asked: str, known: str) -> None:
    """The pocket model says what it learned, to its end token, which is no text."""
    expected = answer(known)
    tokens = alone(engine, question(asked), len(expected))

    assert tokens == list(expected)
    assert text(tokens[:-1]) == known


@given(parts=schedules(PROMPTS, rows=ROWS))
@settings(max_examples=40, deadline=None)
def test_every_schedule_gives_the_tokens_of_a_run_alone(engine: Step, oracle: Oracle, parts: list[Part]) -> None:
    """Batched, in chunks, after roll-backs, over known prefixes, after others came or left: the same tokens; and all memory comes back."""
    played = play(engine, parts, [oracle[part.prompt] for part in parts])

    assert played == [oracle[part.prompt][: min(part.tokens, part.leaves)] for part in parts]
    assert engine.usage() == 0


def test_a_known_beginning_is_not_computed_again(engine: Step, oracle: Oracle) -> None:
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


def test_an_answer_is_a_known_beginning_too(engine: Step) -> None:
    """The next turn of a chat finds its whole history, answers included."""
    history = PREFIX + (7,) * (-len(PREFIX) % BLOCK)
    engine.admit(0, history[:3], "chat")
    engine.step([Work(0, history[:3], 1)])
    for token in history[3:]:
        assert engine.extend(0, 1)
        engine.step([Work(0, [token], 1)])
    engine.withdraw(0)

    assert feed(engine, 0, (*history, 9), "chat") == len(history)
    engine.withdraw(0)


def test_a_prompt_is_a_known_beginning_while_its_row_still_runs(engine: Step) -> None:
    """It can be used as soon as it is computed, and the first row may leave before the second."""
    prompt = tuple(range(50, 50 + 3 * BLOCK))
    assert feed(engine, 0, prompt) == 0
    assert engine.admit(1, prompt, "") == 2 * BLOCK
    engine.withdraw(0)
    assert engine.usage() > 0
    engine.withdraw(1)
    assert engine.usage() == 0


@pytest.mark.parametrize(("isolation", "expected"), [(True, 0), (False, BLOCK)])
def test_tenants_share_nothing_when_isolated(make: Make, isolation: bool, expected: int) -> None:
    """Another API key finds no prefix; with isolation off it does."""
    made = make(prefix_isolation=isolation)
    prompt = tuple(range(50, 51 + BLOCK))
    feed(made, 0, prompt, "alice")

    assert made.admit(1, prompt, "bob") == expected
    assert made.admit(2, prompt, "alice") == BLOCK
    made.close()


def test_without_a_prefix_cache_everything_is_computed(make: Make) -> None:
    """The setting turns sharing off, and the capability says so."""
    made = make(prefix_cache=False)
    prompt = tuple(range(50, 51 + BLOCK))
    feed(made, 0, prompt)

    assert made.admit(1, prompt, "") == 0
    assert made.capabilities.prefix_cache is False
    made.close()


def test_memory_decides_who_is_admitted_and_who_may_grow(make: Make) -> None:
    """A prompt needs its room at once; full memory refuses both with no side effect, and a row that leaves makes room."""
    made = make()
    token = made.describe()["kv_bytes_per_token"]
    made.close()
    made = make(kv_memory_bytes=4 * BLOCK * token, prefix_cache=False)
    assert made.context == 4 * BLOCK
    one, other, long = (5,) * (2 * BLOCK), (6,) * (2 * BLOCK), (7,) * (2 * BLOCK + 1)
    feed(made, 0, one)
    assert made.admit(1, long, "") is None
    feed(made, 1, other)
    assert made.usage() == 1.0
    assert made.extend(0, 1) is False
    made.withdraw(1)
    assert made.extend(0, 1) is True
    assert 0.5 < made.usage() < 1.0
    made.withdraw(0)
    assert made.usage() == 0
    made.close()


def test_known_prefixes_give_way(make: Make) -> None:
    """Prefixes that nobody uses never keep a row out, however many there were."""
    made = make()
    token = made.describe()["kv_bytes_per_token"]
    made.close()
    made = make(kv_memory_bytes=8 * BLOCK * token)
    for value in range(20, 28):
        prompt = (value,) * (3 * BLOCK + 1)
        assert feed(made, 0, prompt) == 0
        made.withdraw(0)
        assert feed(made, 0, prompt) > 0
        made.withdraw(0)
    assert made.usage() == 0
    made.close()


def test_too_little_memory_is_refused_by_name(make: Make) -> None:
    """Memory that can't hold anything is an error at the start that names the setting."""
    with pytest.raises(GraphRefused, match="raise kv_memory_bytes"):
        make(kv_memory_bytes=1000)


def test_a_step_without_wanted_logits_answers_none(engine: Step) -> None:
    """The middle of a prompt needs no head: no rows of logits come back."""
    vocabulary = engine.describe()["vocabulary"]
    engine.admit(0, (5,) * 40, "nobody")
    assert engine.step([Work(0, (5,) * 20, 0)]).shape == (0, vocabulary)
    assert engine.step([Work(0, (5,) * 20, 1)]).shape == (1, vocabulary)
    engine.withdraw(0)


def test_logits_come_in_the_order_of_the_work(engine: Step) -> None:
    """Whatever runs together inside: first item, first logits; a middle piece of a prompt takes no place."""
    prompts = [question(q) for q, _ in KNOWN[:4]]
    single = []
    for row, prompt in enumerate(prompts):
        engine.admit(row, prompt, f"alone {row}")
        single.append(engine.step([Work(row, prompt, 1)])[0].copy())
        engine.withdraw(row)
    for row in (3, 0, 2, 1):
        engine.admit(row, prompts[row], f"together {row}")
    engine.step([Work(row, prompts[row][:-1], 0) for row in (0, 1, 3)])
    logits = engine.step(
        [Work(3, prompts[3][-1:], 1), Work(2, prompts[2][:-2], 0), Work(0, prompts[0][-1:], 1), Work(1, prompts[1][-1:], 1)]
    ).copy()
    last = engine.step([Work(2, prompts[2][-2:], 1)]).copy()
    for row in range(4):
        engine.withdraw(row)

    together = np.stack([logits[1], logits[2], last[0], logits[0]])
    np.testing.assert_allclose(together, np.stack(single), rtol=0, atol=1e-3 * np.abs(logits).max())


def test_logits_of_drafts_are_those_of_single_steps(engine: Step) -> None:
    """The last `wanted` positions answer in order, as if each had been fed on its own."""
    prompt = question(KNOWN[0][0])
    engine.admit(0, prompt, "a")
    rows = [engine.step([Work(0, [token], 1)])[0].copy() for token in prompt]
    engine.withdraw(0)
    engine.admit(0, prompt, "b")
    at_once = engine.step([Work(0, prompt, 3)]).copy()
    engine.withdraw(0)

    np.testing.assert_allclose(at_once, np.stack(rows[-3:]), rtol=0, atol=1e-3 * np.abs(rows[-1]).max())


def test_only_the_last_step_can_be_rolled_back(engine: Step) -> None:
    """Older tokens may be others' as well: taking them back is a bug of the caller."""
    feed(engine, 0, (5,) * 8)
    assert engine.extend(0, 3)
    engine.step([Work(0, [6, 7, 8], 3)])
    engine.rollback(0, 2)
    with pytest.raises(ValueError, match="can go back by 1 tokens, not 2"):
        engine.rollback(0, 2)
    engine.withdraw(0)


def test_a_row_ends_at_the_context(engine: Step) -> None:
    """`extend` refuses the token after the last one; a prompt that is longer is the caller's bug, as is a row that is open already."""
    assert engine.admit(0, (11,) * CONTEXT, "") == 0
    assert engine.extend(0, CONTEXT) is True
    assert engine.extend(0, CONTEXT + 1) is False
    with pytest.raises(ValueError, match="row 0 is open"):
        engine.admit(0, (5,), "")
    engine.withdraw(0)
    with pytest.raises(ValueError, match="1 to 512 tokens, not 513"):
        engine.admit(0, (5,) * (CONTEXT + 1), "")


def test_a_step_without_room_is_the_callers_bug(engine: Step) -> None:
    """Tokens beyond the room are never computed over somebody else's."""
    feed(engine, 0, (12,) * CONTEXT)
    with pytest.raises(ValueError, match="row 0 has no room for 1 tokens: extend it first"):
        engine.step([Work(0, [5], 1)])
    engine.withdraw(0)


def test_the_engine_says_what_it_is(engine: Step) -> None:
    """Metadata and log name kernels, precision and sizes."""
    facts = engine.describe()
    expected = {"engine": engine.name, "threads": 2, "rows": ROWS, "context_tokens": CONTEXT, "layers": 2, "graph_features": []}
    assert {name: facts[name] for name in expected} == expected
    assert facts["kernels"] == {
        "paged": "OpenVINO 2026.4.1 CPU, paged attention",
        "slots": f"onnxruntime {onnxruntime.__version__} CPU",
    }[engine.name]  # fmt: skip
    assert f"rows=0/{ROWS}" in repr(engine)


@pytest.mark.parametrize(("company", "pieces", "advance"), [(0, 60, 1), (0, 25, 2), (1, 25, 1), (2, 7, 3), (2, 20, 1)])
def test_a_piece_that_rests_between_stages_has_the_bits_of_the_whole(make: Make, company: int, pieces: int, advance: int) -> None:
    """Who else is served decides whether a prompt rests: its logits, those of its answer and those of the others are what they are without."""
    engine = make(prefix_cache=False)
    engine.warm_up()
    prompt = [100 + place * 7 % 1500 for place in range(60)]

    def answer(resting: bool) -> tuple[Logits, list[Logits]]:
        beside: list[Logits] = []
        tokens = iter(range(300, 400))
        for row in range(company):
            engine.admit(row, [5 + row, 9, 11], "")
            engine.step([Work(row, [5 + row, 9, 11], 1)])

        def step(*mine: Work) -> Logits:
            assert all(engine.extend(row, 1) for row in range(company))
            token = next(tokens)
            logits = engine.step([*(Work(row, [token], 1) for row in range(company)), *mine]).copy()
            beside.append(logits[:company])
            return logits[company:]

        engine.admit(3, prompt, "")
        found = []
        for at in range(0, len(prompt), pieces):
            part = prompt[at : at + pieces]
            for begin in range(0, engine.stages, advance) if resting else ():
                stages = Stages(begin, min(begin + advance, engine.stages), engine.stages)
                found.append(step(Work(3, part, int(stages.last), stages)))
            if not resting:
                found.append(step(Work(3, part, 1)))
        for token in range(500, 510):
            assert engine.extend(3, 1)
            found.append(step(Work(3, [token], 1)))
        for row in (*range(company), 3):
            engine.withdraw(row)
        return np.concatenate(found), beside

    (flat, _), (rested, with_it) = answer(resting=False), answer(resting=True)
    alone = [engine.admit(row, [5 + row, 9, 11], "") for row in range(company)]
    for row in range(company):
        engine.step([Work(row, [5 + row, 9, 11], 1)])
    without = []
    for token in range(300, 300 + len(with_it)):
        assert all(engine.extend(row, 1) for row in range(company))
        without.append(
            engine.step([Work(row, [token], 1) for row in range(company)]).copy() if company else np.empty((0, 2048), np.float32)
        )
    engine.close()

    assert alone == [0] * company
    assert np.array_equal(flat, rested)
    assert all(np.array_equal(a, b) for a, b in zip(with_it, without, strict=True))


def test_a_row_may_leave_while_its_piece_rests(make: Make) -> None:
    """Nothing of it is left: its blocks are free, nobody finds what was not computed to the end, and the next piece begins at the first stage."""
    engine = make()
    prompt = list(range(100, 100 + 2 * BLOCK))
    engine.admit(0, prompt, "")
    last = engine.stages - 1
    engine.step([Work(0, prompt, 0, Stages(0, last, engine.stages))])
    assert engine.admit(1, prompt, "") == 0
    engine.withdraw(1)
    engine.withdraw(0)
    assert engine.usage() == 0

    engine.admit(0, prompt, "")
    with pytest.raises(ValueError, match=f"64 tokens do not rest before stage {last}"):
        engine.step([Work(0, prompt, 1, Stages(last, engine.stages, engine.stages))])
    engine.step([Work(0, prompt, 0, Stages(0, 1, engine.stages))])
    engine.step([Work(0, prompt, 1, Stages(1, engine.stages, engine.stages))])
    assert engine.admit(1, prompt, "") == BLOCK
    engine.close()
