"""Sampling against a slow and obvious reference, and the promise that a row's tokens depend on nothing but the row."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pilothouse.engines.base import Job, Logits
from pilothouse.engines.drawing import BLOCK, LOOK, ROWS, Chances, Drawer, chances, logprobs
from pilothouse.engines.sampling import Sampled, Sampler
from pilothouse.errors import EngineFailed, InvalidRequest, Unsupported
from pilothouse.messages import Guide, Sampling

VOCABULARY = 400
GREEDY = Sampling(temperature=0.0)


def job(sampling: Sampling = GREEDY, **fields: object) -> Job:
    return Job(**{"id": "j", "prompt": (1, 2, 3), "sampling": sampling, "max_tokens": 50, **fields})  # type: ignore[arg-type]  # free fields


def noise(seed: int, rows: int = 1, spread: float = 3.0, vocabulary: int = VOCABULARY) -> Logits:
    return (np.random.default_rng(seed).normal(size=(rows, vocabulary)) * spread).astype(np.float32)


def answer(task: Job, logits: Logits, history: Sequence[int] = ()) -> list[Sampled]:
    """A row alone, one step for each row of logits."""
    sampler = Sampler(logits.shape[1])
    sampler.open(0, task, history)
    return [sampler.sample(row[None], [(0, ())])[0][0] for row in logits]


def tokens(task: Job, logits: Logits, history: Sequence[int] = ()) -> list[int]:
    return [sampled.token for sampled in answer(task, logits, history)]


def draw(logits: Logits, sampling: Sampling, chances: Chances) -> int:
    """A row alone."""
    return Drawer(len(logits)).draw([logits], [sampling], [chances])[0]


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.2, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 200, 1000]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 1.5, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logit_bias=st.sampled_from([(), ((5, 4.0), (7, -100.0))]),
    seed=st.integers(-(2**63), 2**63 - 1),
)
jobs = st.builds(
    job,
    samplings,
    index=st.integers(0, 3),
    min_tokens=st.integers(0, 3),
    end_ids=st.sampled_from([frozenset(), frozenset({5, 9})]),
    logprobs=st.sampled_from([None, 0, 3]),
)


def reference(logits: Logits, sampling: Sampling, chances: Chances) -> int:
    """Temperature, min-p, top-k and top-p by a whole sort."""
    first, second, third = chances
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] >= sampling.min_p]
    if sampling.top_k:
        order = order[: sampling.top_k]
    held = np.cumsum(weights[order])
    kept = order[: int(np.searchsorted(held, sampling.top_p * held[-1])) + 1]

    def fallen(ids: NDArray[np.intp], chance: float) -> int:
        reach = np.cumsum(weights[ids])
        return int(ids[min(int(np.searchsorted(reach, chance * reach[-1], side="right")), len(ids) - 1)])

    if sampling.top_k:
        return fallen(kept, first)
    for chance in (first, second):
        token = fallen(np.sort(order), chance)
        if token in kept:
            return token
    return fallen(kept, third)


@settings(deadline=None, max_examples=40)
@given(st.lists(jobs, min_size=2, max_size=6), st.integers(0, 1000), st.integers(1, 4))
def test_a_row_among_others_answers_exactly_what_it_answers_alone(tasks: list[Job], seed: int, steps: int) -> None:
    """Rows of any parameters share no arithmetic: tokens and log-probabilities are equal to the last bit."""
    logits = noise(seed, len(tasks) * steps).reshape(steps, len(tasks), VOCABULARY)
    sampler = Sampler(VOCABULARY)
    for row, task in enumerate(tasks):
        sampler.open(row, task)
    together = [sampler.sample(step, [(row, ()) for row in range(len(tasks))]) for step in logits]
    for row, task in enumerate(tasks):
        assert [step[row][0] for step in together] == answer(task, logits[:, row])


@settings(deadline=None, max_examples=40)
@given(jobs, st.integers(0, 1000), st.integers(0, 5))
def test_an_answer_goes_on_unchanged_after_preemption(task: Job, seed: int, cut: int) -> None:
    """Opening a row again with its history gives the tokens that it would have had without the break."""
    logits = noise(seed, 6)
    whole = tokens(task, logits)

    again = tokens(task, logits[cut:], whole[:cut])

    assert again == whole[cut:]


@settings(deadline=None, max_examples=60)
@given(jobs, st.integers(0, 1000), st.integers(1, 4), st.integers(0, 4))
def test_drafts_change_no_token(task: Job, seed: int, drafts: int, right: int) -> None:
    """A row with drafts answers the same tokens as one without: the drafts that were right, then one more; nothing after an end token."""
    logits = noise(seed, drafts + 1)
    alone = tokens(task, logits)
    guesses = [t if i < right else (t + 1) % VOCABULARY for i, t in enumerate(alone[:drafts])]
    ends = [i for i, t in enumerate(alone) if t in task.end_ids]
    sampler = Sampler(VOCABULARY)
    sampler.open(0, task)

    [taken] = sampler.sample(logits, [(0, guesses)])

    wanted = min(min(right, drafts) + 1, ends[0] + 1 if ends else drafts + 1)
    assert [s.token for s in taken] == alone[:wanted]


def test_rows_with_and_without_drafts_stand_in_one_batch() -> None:
    """Each row reads its own 1 + drafts logits, in the order of the rows."""
    logits = np.zeros((5, 8), np.float32)
    for at, token in enumerate([3, 4, 6, 2, 1]):
        logits[at, token] = 9.0
    sampler = Sampler(8)
    for row in (7, 2, 0):
        sampler.open(row, job())

    taken = sampler.sample(logits, [(7, ()), (2, (4, 5)), (0, ())])

    assert [[s.token for s in row] for row in taken] == [[3], [4, 6], [1]]


chance = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=150)
@given(
    samplings.filter(lambda s: s.temperature > 0),
    st.integers(0, 1000),
    st.sampled_from([0.01, 1.0, 6.0]),
    st.sampled_from([VOCABULARY, 5 * LOOK + 100]),
    st.tuples(chance, chance, chance),
)
def test_a_draw_is_the_one_a_whole_sort_gives(sampling: Sampling, seed: int, spread: float, vocabulary: int, chances: Chances) -> None:
    """Finding candidates by blocks and bins chooses the same token as sorting the vocabulary; at a boundary rounding may choose its neighbour."""
    [logits] = noise(seed, 1, spread, vocabulary)

    token = draw(logits, sampling, chances)

    near = [[min(max(chance + nudge, 0.0), 1 - 2**-53) for nudge in (0.0, -1e-5, 1e-5)] for chance in chances]
    assert any(token == reference(logits, sampling, nudged) for nudged in itertools.product(*near))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(samplings.filter(lambda s: s.temperature > 0), chance, chance), min_size=2, max_size=2 * ROWS + 1),
    st.integers(0, 1000),
)
def test_rows_that_are_drawn_at_once_are_drawn_as_each_alone(rows: list[tuple[Sampling, float, float]], seed: int) -> None:
    """However many rows there are, and whatever the memory held before."""
    logits = noise(seed, len(rows), 2.0, 2 * LOOK)
    kinds = [sampling for sampling, _, _ in rows]
    chances = [(first, second, first) for _, first, second in rows]
    drawer = Drawer(2 * LOOK)

    together = [drawer.draw(list(logits), kinds, chances) for _ in range(2)]

    alone = [draw(own, sampling, fall) for own, sampling, fall in zip(logits, kinds, chances, strict=True)]
    assert together == [alone, alone]


def test_a_nucleus_of_equal_tokens_is_its_share_of_them() -> None:
    """With a flat distribution top_p keeps its share of the vocabulary, the first of it by id; what falls beyond is drawn again, and then from there."""
    logits = np.zeros(16 * BLOCK, np.float32)
    sampling = Sampling(temperature=1.0, top_p=0.5)

    drawn = [draw(logits, sampling, (first, 0.25, 0.5)) for first in (0.0, 0.25, 0.499999, 0.5, 0.999999)]
    again = [draw(logits, sampling, (0.75, second, 0.5)) for second in (0.0, 0.25, 0.499999, 0.5, 0.999999)]
    within = [draw(logits, sampling, (0.75, 0.75, third)) for third in (0.0, 0.25, 0.5, 0.999999)]

    assert drawn == [0, 1024, 2047, 1024, 1024]
    assert again == [0, 1024, 2047, 1024, 1024]
    assert within == [0, 512, 1024, 2047]


@pytest.mark.parametrize(("equal", "top_p", "kept"), [(10, 0.9, 9), (5, 0.8, 4), (10, 0.8, 8), (20, 0.95, 19), (4, 0.5, 2), (10, 0.3, 3)])
def test_a_nucleus_ends_with_the_token_that_fills_it(equal: int, top_p: float, kept: int) -> None:
    """However a token is drawn: by the first chance, by the second, or from the nucleus."""
    logits = np.full(300, -np.inf, np.float32)
    logits[:equal] = 1.0
    beyond, steps = 1 - 2**-53, [(step + 0.5) / 64 for step in range(64)]
    ways = [lambda fall: (fall, 0.0, 0.0), lambda fall: (beyond, fall, 0.0), lambda fall: (beyond, beyond, fall)]

    drawn = [{draw(logits, Sampling(temperature=1.0, top_p=top_p), way(step)) for step in steps} for way in ways]

    assert drawn == [set(range(kept))] * 3


def test_an_impossible_token_is_never_drawn() -> None:
    """One of no weight, or of less than a chance can tell apart, is not chosen by the smallest chance and not by the largest."""
    logits = np.full(3 * BLOCK, -np.inf, np.float32)
    logits[[1, 2 * BLOCK + 9]] = -60.0
    logits[[BLOCK + 5, BLOCK + 7]] = 0.0

    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=1.0, top_k=9)):
        assert [draw(logits, sampling, (fall, fall, fall)) for fall in (0.0, 1 - 2**-53)] == [BLOCK + 5, BLOCK + 7]


def test_equal_logits_stand_in_order_of_id() -> None:
    """Ties are broken by id, for the greedy token, for top-k and in the listing."""
    logits = np.array([0.0, 2.0, 1.0, 2.0, 2.0], np.float32)

    assert tokens(job(), logits[None]) == [1]
    assert [draw(logits, Sampling(top_k=2), (c, 0.5, 0.5)) for c in (0.1, 0.9)] == [1, 3]
    assert [i for i, _ in logprobs(logits, 0, 4)[1]] == [1, 3, 4, 2]


@pytest.mark.parametrize("narrow", [Sampling(top_p=0.0), Sampling(top_k=1), Sampling(min_p=1.0), Sampling(temperature=1e-30)])
def test_the_narrowest_choice_is_the_likeliest_token(narrow: Sampling) -> None:
    """Every filter leaves at least the likeliest token, and a tiny temperature overflows to nothing else."""
    [logits] = noise(3)

    assert draw(logits, narrow, (0.99, 0.99, 0.99)) == int(logits.argmax())


def test_a_draw_depends_on_seed_choice_and_position_alone() -> None:
    """The same three numbers give the same chances, and each of them matters. The values are part of the promise: a release may not change them."""
    assert [chances(*of)[0][0] for of in ((7, 0, 0), (7, 0, 1), (7, 1, 0), (-7, 0, 0))] == [
        0.8720734548204873,
        0.0828426870273763,
        0.8824668302545412,
        0.9673266516288485,
    ]
    assert chances(7, 0, 0)[0][1:] == (0.29536538151378355, 0.4200976785072422)


@given(st.integers(-(1 << 70), 1 << 70), st.integers(0, 200), st.integers(0, 1 << 40), st.integers(1, 40))
def test_chances_of_many_positions_are_those_of_each(seed: int, choice: int, position: int, count: int) -> None:
    """Made at once or one by one."""
    assert chances(seed, choice, position, count) == [chances(seed, choice, at)[0] for at in range(position, position + count)]


def test_chances_are_even() -> None:
    """Chances of one seed fill [0, 1) evenly."""
    for place in range(3):
        counts, _ = np.histogram([those[place] for those in chances(1, 0, 0, 4000)], bins=10, range=(0, 1))
        assert counts.min() > 330
        assert counts.max() < 470


def test_draws_follow_the_distribution() -> None:
    """Over many seeds each token comes as often as its probability says."""
    logits = np.log(np.array([0.05, 0.3, 0.15, 0.5], np.float32))

    def shares(sampling: Sampling) -> list[float]:
        return (np.bincount([draw(logits, sampling, chances(seed, 0, 0)[0]) for seed in range(4000)], minlength=4) / 4000).tolist()

    assert shares(Sampling(temperature=1.0)) == pytest.approx([0.05, 0.3, 0.15, 0.5], abs=0.03)
    assert shares(Sampling(temperature=1.0, top_p=0.6)) == pytest.approx([0, 3 / 8, 0, 5 / 8], abs=0.03)


def test_jobs_without_a_seed_differ() -> None:
    """No seed given: each job draws its own."""
    logits = np.zeros((8, VOCABULARY), np.float32)
    free = job(Sampling(temperature=1.0))

    assert tokens(free, logits) != tokens(free, logits)


def test_choices_of_one_seed_differ() -> None:
    """n choices of one request are different answers, each repeatable."""
    logits = np.zeros((8, VOCABULARY), np.float32)
    first, second = (job(Sampling(seed=1), index=i) for i in (0, 1))

    assert tokens(first, logits) != tokens(second, logits)
    assert tokens(second, logits) == tokens(second, logits)


def test_repetition_counts_prompt_and_answer() -> None:
    """A token of the prompt or the answer is divided by the penalty when likely and multiplied when not."""
    logits = np.array([[0.0, 2.0, -1.0, 0.0, 1.5, 1.2]], np.float32).repeat(2, axis=0)
    task = job(Sampling(temperature=0.0, repetition_penalty=2.0), prompt=(1, 2), logprobs=6)

    first, second = answer(task, logits)

    assert first.token == 4
    assert second.token == 5
    values = dict(second.top)
    assert values[5] - values[1] == pytest.approx(0.2)
    assert values[5] - values[2] == pytest.approx(3.2)
    assert values[5] - values[4] == pytest.approx(0.45)


def test_presence_and_frequency_count_the_answer_only() -> None:
    """Presence takes its share once, frequency for each time; the prompt is not counted."""
    logits = np.array([[0.0, 3.0, 2.0]], np.float32)
    penalised = Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25)

    [sampled] = answer(job(penalised, prompt=(1, 1, 1), logprobs=3), logits, [1, 1, 2])

    values = dict(sampled.top)
    assert values[1] - values[0] == pytest.approx(3.0 - 0.5 - 0.5)
    assert values[2] - values[0] == pytest.approx(2.0 - 0.5 - 0.25)


def test_a_bias_is_added() -> None:
    """logit_bias moves a token's logit by its value."""
    [logits] = noise(1)

    assert tokens(job(Sampling(temperature=0.0, logit_bias=((42, 100.0),))), logits[None]) == [42]


def test_a_bias_for_no_token_is_refused() -> None:
    """An id outside the vocabulary is refused by name."""
    with pytest.raises(InvalidRequest, match="logit_bias: 400 is not a token id of this model; ids are 0 to 399") as refusal:
        Sampler(VOCABULARY).open(0, job(Sampling(logit_bias=((400, 1.0),))))
    assert refusal.value.field == "logit_bias"


def test_an_answer_does_not_end_before_its_least_length() -> None:
    """End tokens are impossible for min_tokens tokens, then free."""
    logits = np.array([[0.0, 9.0, 8.0, 1.0]], np.float32).repeat(3, axis=0)

    assert tokens(job(min_tokens=2, end_ids=frozenset({1, 2, 99})), logits) == [3, 3, 1]


def test_padding_is_never_chosen() -> None:
    """Logits beyond the vocabulary belong to no token."""
    logits = np.arange(10, dtype=np.float32)[None]
    sampler = Sampler(7)
    sampler.open(0, job())

    assert sampler.sample(logits, [(0, ())]) == [[Sampled(6)]]


def test_a_model_may_know_fewer_tokens_than_its_tokenizer() -> None:
    """Its logits, which an engine's first answer shows, are all there is to choose from; a bias for a token beyond them is refused by name."""
    sampler = Sampler(9)
    logits = np.arange(7, dtype=np.float32)[None]
    sampler.open(0, job())
    assert sampler.sample(logits, [(0, ())]) == [[Sampled(6)]]

    sampler.open(1, job(Sampling(temperature=1.0, frequency_penalty=2.0, seed=1)))
    assert sampler.sample(logits, [(1, ())])[0][0].token < 7
    with pytest.raises(InvalidRequest, match="logit_bias: 7 is not a token id of this model; ids are 0 to 6"):
        sampler.open(2, job(Sampling(logit_bias=((7, 1.0),))))


def test_logprobs_are_natural_and_of_the_whole_distribution() -> None:
    """Probabilities are those before temperature and filters, best first, and come only when asked for."""
    logits = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    cold = Sampling(temperature=0.01, top_k=1, seed=1)

    assert answer(job(cold), logits) == [Sampled(1, None, ())]
    assert answer(job(cold, logprobs=0), logits)[0].logprob == pytest.approx(math.log(0.6), abs=1e-6)
    [sampled] = answer(job(cold, logprobs=2), logits)
    assert [i for i, _ in sampled.top] == [1, 2]
    assert [p for _, p in sampled.top] == pytest.approx([math.log(0.6), math.log(0.3)], abs=1e-6)


def test_impossible_tokens_are_not_listed() -> None:
    """A masked token has no log-probability: the listing is shorter instead."""
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)

    [sampled] = answer(job(min_tokens=1, end_ids=frozenset({2}), logprobs=3), logits)

    assert [i for i, _ in sampled.top] == [1, 0]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1)])
def test_logits_that_are_not_numbers_fail(broken: float, sampling: Sampling) -> None:
    """An engine that answers NaN or infinity has failed; no token is made of it."""
    logits = noise(1)
    logits[0, 17] = broken

    with pytest.raises(EngineFailed):
        tokens(job(sampling), logits)


def test_logits_are_left_as_they_came() -> None:
    """Shaping a row works on a copy: the engine's array is not written to."""
    logits = noise(1)
    before = logits.copy()
    logits.flags.writeable = False

    tokens(
        job(Sampling(repetition_penalty=1.2, presence_penalty=1.0, logit_bias=((1, 1.0),)), min_tokens=1, end_ids=frozenset({2})), logits
    )

    assert (logits == before).all()


def test_a_guide_without_guidance_is_refused() -> None:
    """An engine without guidance says so instead of answering free text."""
    with pytest.raises(Unsupported, match="response_format") as refusal:
        Sampler(VOCABULARY).open(0, job(guide=Guide("json_object")))
    assert refusal.value.field == "response_format"


def test_closing_a_row_forgets_it() -> None:
    """A row's number is free again after close, and closing twice does nothing."""
    sampler = Sampler(4)
    sampler.open(0, job(Sampling(temperature=0.0, frequency_penalty=2.0)))
    logits = np.array([[0.0, 1.0, 0.5, 0.0]], np.float32)
    assert sampler.sample(logits, [(0, ())])[0][0].token == 1
    sampler.close(0)
    sampler.close(0)
    sampler.open(0, job(Sampling(temperature=0.0, frequency_penalty=2.0)))

    assert sampler.sample(logits, [(0, ())])[0][0].token == 1
