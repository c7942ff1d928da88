"""The ledger's decisions, with the scripted engine as the oracle: whatever is decided, each job's tokens are those of its run alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines.entry import NOWHERE, Entry
from pilothouse.engines.ledger import Ledger
from pilothouse.engines.plan import Limits, Plan
from pilothouse.engines.portions import LEAST_CHUNK, LEAST_PASSING
from pilothouse.engines.scripted import END, Formula, ScriptedStep, echoing, following, script
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, Overloaded
from pilothouse.messages import FinishReason
from support.scripted_loop import job

SIZE = 41


@dataclass
class Bench:
    """The scripted engine and a greedy choice: all that the ledger needs of the world."""

    engine: ScriptedStep
    refuse: Sequence[int] = ()  # first tokens of prompts that are the request's own fault
    preempted: list[int] = field(default_factory=list)

    def admit(self, row: int, entry: Entry) -> int | None:
        if entry.tokens[0] in self.refuse:
            raise InvalidRequest("refused")
        return self.engine.admit(row, entry.tokens, entry.job.tenant)

    def extend(self, row: int, tokens: int) -> bool:
        return self.engine.extend(row, tokens)

    def rollback(self, row: int, tokens: int) -> None:
        self.engine.rollback(row, tokens)

    def withdraw(self, row: int) -> None:
        self.engine.withdraw(row)

    def compute(self, plan: Plan) -> list[list[int]]:
        logits = self.engine.step([share.work() for share in plan.shares])
        likeliest, at, sampled = logits.argmax(-1).tolist(), 0, []
        for share in plan.shares:
            if share.wanted:
                count = 1 + len(share.drafts)
                kept = next((n for n, draft in enumerate(share.drafts, 1) if likeliest[at + n - 1] != draft), count)
                sampled.append(likeliest[at : at + kept])
                at += count
        return sampled


class World:
    """A ledger on a scripted engine, and what became of each job."""

    def __init__(
        self, *, drafts: bool = False, lone_drafts: bool = False, refuse: Sequence[int] = (), queue_seconds: float = 60.0, **engine: Any
    ) -> None:
        self.engine = ScriptedStep(SIZE, **engine)
        sizes = self.engine.rows, self.engine.context, self.engine.tokens_per_step
        limits = Limits(
            *sizes, drafts, self.engine.capabilities.prefix_cache, queue_seconds, 600.0, lone_drafts=lone_drafts, turn=self.engine.turn,
            stages=self.engine.stages, tokens_alone=self.engine.tokens_alone,
        )  # fmt: skip
        self.bench = Bench(self.engine, refuse)
        self.ledger = Ledger(self.bench, Waiting(), limits)
        self.ends: dict[Entry, object] = {}
        self.order: list[Entry] = []  # of admission
        self.now = 0.0

    def add(self, prompt: Sequence[int], max_tokens: int = 8, **options: Any) -> Entry:
        entry = Entry(job(tuple(prompt), max_tokens, **options), self.now)
        self.ledger.waiting.add(entry)
        return entry

    def step(self) -> Plan:
        plan = self.ledger.plan(self.now)
        self.order += plan.admitted
        self.ends.update(plan.ended)
        if plan.shares:
            for outcome in self.ledger.account(plan, self.bench.compute(plan)):
                if outcome.reason is not None:
                    self.ends[outcome.entry] = outcome.reason
        return plan

    def run(self, most: int = 3_000) -> None:
        """Until nobody is left. Somebody always gets on, so this ends."""
        for _ in range(most):
            if not self.ledger.running and not len(self.ledger.waiting):
                return
            self.step()
        raise AssertionError(f"not done after {most} steps: {self.ledger!r}")


def answer(entry: Entry) -> list[int]:
    return entry.tokens[len(entry.job.prompt) :]


def alone(entry: Entry, formula: Formula = following) -> list[int]:
    """The job's answer by the formula."""
    tokens = script(entry.job.prompt, entry.job.max_tokens, SIZE, formula)
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


COMMON = [*range(1, SIZE), *range(1, SIZE)]
PROMPTS = st.one_of(
    st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=40),
    st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=5).map(lambda tokens: COMMON + tokens),
)
ARRIVALS = st.lists(st.tuples(st.integers(0, 30), PROMPTS, st.integers(1, 30), st.sampled_from("xyz")), min_size=1, max_size=10)


@settings(deadline=None, max_examples=150)
@given(
    arrivals=ARRIVALS,
    rows=st.integers(1, 4),
    tokens_per_step=st.sampled_from([4, 5, 16, 64, 512]),
    larger_alone=st.booleans(),
    kv_tokens=st.sampled_from([116, 150, 2_000]),
    prefix_cache=st.booleans(),
    formula=st.sampled_from([following, echoing(3), echoing(1)]),
    drafts=st.booleans(),
    turn=st.sampled_from([None, 5, 12, 30]),
    stages=st.sampled_from([1, 2, 8]),
    cancelled=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=4),
)
def test_every_job_answers_what_it_would_answer_alone(
    arrivals: list[tuple[int, list[int], int, str]],
    rows: int,
    tokens_per_step: int,
    larger_alone: bool,
    kv_tokens: int,
    prefix_cache: bool,
    formula: Formula,
    drafts: bool,
    turn: int | None,
    stages: int,
    cancelled: list[tuple[int, int]],
) -> None:
    """Over any arrivals, chunks, stages, shortages, drafts and cancellations: exact tokens, no step over its size (or its double, with a piece that
    rests or for a prompt that is alone), and nothing is left behind."""
    world = World(
        rows=rows,
        tokens_per_step=tokens_per_step,
        tokens_alone=2 * tokens_per_step if larger_alone else 0,
        kv_tokens=kv_tokens,
        prefix_cache=prefix_cache,
        formula=formula,
        drafts=drafts,
        turn=turn,
        stages=stages,
    )
    entries: list[Entry] = []
    gone: set[Entry] = set()
    for step in range(42):
        entries += [world.add(prompt, most, tenant=tenant) for at, prompt, most, tenant in arrivals if at == step]
        for at, which in cancelled:
            if at == step and which < len(entries) and world.ledger.withdraw(entries[which]):
                gone.add(entries[which])
        world.step()
    world.run()

    assert max(world.engine.fed, default=0) <= tokens_per_step * (2 if larger_alone else min(2, stages))
    assert world.engine.open == {}
    assert len(world.ends) + len(gone) == len(entries)
    for entry in entries:
        expected = alone(entry, formula)
        if entry in gone:
            assert answer(entry) == expected[: len(answer(entry))]
        else:
            assert answer(entry) == expected
            assert world.ends[entry] == (FinishReason.STOP if expected[-1] == END else FinishReason.LENGTH)


@pytest.mark.parametrize("drafts", [False, True])
def test_a_row_that_outgrows_its_window_comes_back_as_a_prompt(drafts: bool) -> None:
    """What has to be computed anew is fed piece by piece: the others get a token in every step, and no step grows by it."""
    world = World(rows=4, tokens_per_step=64, context=256, turn=100, drafts=drafts)
    others = [world.add((n, n, n), 200, end_ids=frozenset()) for n in (5, 6, 7)]
    grows = world.add(tuple(range(1, 41)) * 2, 60, end_ids=frozenset())
    while answer(grows) == [] or grows.fed < 99:
        world.step()
    before = len(grows.tokens)
    sizes = []
    while len(grows.tokens) < before + 3:
        counts = [len(other.tokens) for other in others]
        world.step()
        sizes.append(world.engine.fed[-1])
        assert all(len(other.tokens) > count for other, count in zip(others, counts, strict=True))
    assert grows.opened == 101
    assert max(sizes) <= 64
    assert len(sizes) > 5  # three tokens, and about a hundred again in pieces
    world.run()
    assert answer(grows) == script(grows.job.prompt, 60, SIZE)


def test_tenants_take_turns_and_each_is_served_in_order() -> None:
    """Six jobs of one tenant do not stand before the two of another."""
    world = World(rows=1)
    first = [world.add([1, n], 1, tenant="many") for n in range(1, 7)]
    second = [world.add([2, n], 1, tenant="few") for n in range(1, 3)]
    world.run()

    assert world.order == [first[0], second[0], first[1], second[1], *first[2:]]


def test_a_short_request_does_not_wait_for_a_hog() -> None:
    """Behind an answer of a hundred tokens a short prompt is answered in the very step after it came."""
    world = World(rows=2)
    world.add([1, 2, 3], 100, end_ids=frozenset())
    for _ in range(10):
        world.step()
    short = world.add([5, 6, 7, 8, 9])
    world.step()

    assert len(answer(short)) == 1


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """Beside a prompt of thirty steps a short one is fed as a whole at once, and the long one still gets on."""
    world = World(rows=2, tokens_per_step=64, context=4_000)
    long = world.add([1] * 2_000)
    world.step()
    assert long.fed == 64
    short = world.add([2] * 8)
    world.step()

    assert len(answer(short)) == 1
    assert long.fed == 64 + 56


def test_a_prompt_with_nobody_beside_it_has_a_larger_step() -> None:
    """Until somebody comes: two prompts share a step, and beside an answer a prompt is fed as anywhere."""
    world = World(rows=3, tokens_per_step=64, tokens_alone=128, context=4_000)
    long = world.add([1] * 600)
    for fed in (128, 256):
        world.step()
        assert long.fed == fed
    short = world.add([2] * 70, 2, end_ids=frozenset())
    for _ in range(2):
        plan = world.step()
        assert sum(share.tokens for share in plan.shares) <= 64
    world.run()
    assert (len(answer(short)), len(answer(long))) == (2, 8)


def test_the_oldest_prompt_gets_half_of_what_prompts_have() -> None:
    """Shorter prompts that keep coming can't hold a long one up."""
    world = World(rows=3, tokens_per_step=64, context=4_000)
    long = world.add([1] * 2_000)
    for _ in range(3):
        world.add([2] * 100)
        before = long.fed
        world.step()
        assert long.fed - before >= 32


def test_a_long_prompt_hardly_delays_eight_answers() -> None:
    """Beside eight answering rows a long prompt gets a small piece of each step; alone it gets all of it."""
    world = World(rows=9, tokens_per_step=512, context=4_000)
    for n in range(8):
        world.add([1, n], 400, end_ids=frozenset())
    world.step()
    world.add([3] * 2_048)
    for _ in range(5):
        plan = world.step()
        assert [share.tokens for share in plan.shares] == [1] * 8 + [LEAST_CHUNK]


def staged(answers: int = 8, **engine: Any) -> World:
    """A world whose engine has eight stages, with rows that answer."""
    world = World(**{"rows": answers + 3, "tokens_per_step": 128, "context": 4_000, "stages": 8} | engine)
    for n in range(answers):
        world.add([1, n], 400, end_ids=frozenset())
    world.step()
    return world


def passing(plan: Plan) -> list[tuple[Entry, int, int, int]]:
    """Whose piece goes through which stages, and its tokens."""
    return [(share.entry, share.tokens, share.stages.begin, share.stages.end) for share in plan.shares if share.stages]


def test_a_long_prompt_beside_answers_goes_through_the_stages_in_large_pieces() -> None:
    """A stage a step, with as many tokens as make that cost what a small piece costs in all of them: every row gets on in every step, and none is longer."""
    world = staged()
    long = world.add([3] * 400)
    seen = []
    for _ in range(17):
        plan = world.step()
        assert [share.tokens for share in plan.shares[:8]] == [1] * 8
        seen += passing(plan)
    size = 8 * LEAST_PASSING

    assert seen == [(long, size, stage, stage + 1) for stage in [*range(8), *range(8), 0]]
    assert long.fed == 2 * size
    assert max(world.engine.fed[1:]) == 8 + LEAST_PASSING
    world.run()
    assert answer(long) == alone(long)


def test_a_piece_takes_several_stages_where_few_answer() -> None:
    """Beside one answer a prompt has a quarter of each step: 32 tokens, or two of eight stages for a step's 128."""
    world = staged(answers=1)
    long = world.add([3] * 400)

    assert [passing(world.step()) for _ in range(4)] == [[(long, 128, stage, stage + 2)] for stage in (0, 2, 4, 6)]


def test_a_prompt_alone_is_fed_whole_pieces_and_finishes_one_that_rests() -> None:
    """With nobody to wait for it nothing rests: what is between two stages goes through the others at once."""
    world = staged(answers=1)
    answering = next(iter(world.ledger.running.values()))
    long = world.add([3] * 400)
    world.step()
    world.ledger.withdraw(answering)

    assert passing(world.step()) == [(long, 128, 2, 8)]
    assert passing(world.step()) == []
    assert long.fed == 128 + 128


def test_the_oldest_and_the_shortest_long_prompt_pass_in_turn() -> None:
    """One piece at a time: a very long prompt holds no other up for long, and is not held up by others."""
    world = staged()
    oldest, middle, shortest = (world.add([3 + n] * size) for n, size in enumerate((2_000, 1_000, 500)))
    order = [whose for _ in range(40) for whose, _, begin, _ in passing(world.step()) if begin == 0]

    assert order[:4] == [oldest, shortest, oldest, shortest]
    assert middle not in order


def test_a_short_prompt_does_not_wait_for_a_piece_that_passes() -> None:
    """It goes through all stages beside it, at once."""
    world = staged()
    world.add([3] * 400)
    world.step()
    short = world.add([4] * 12)
    plan = world.step()

    assert len(answer(short)) == 1
    assert [begin for _, _, begin, _ in passing(plan)] == [1]


def test_shorter_prompts_that_keep_coming_do_not_hold_a_usual_one_up_beside_a_piece() -> None:
    """The oldest of the usual prompts has half of what the piece leaves them, whatever comes after it."""
    world = staged(rows=16)
    long = [world.add([3 + n] * 3_900) for n in range(2)]
    usual = world.add([5] * 64)
    steps = 0
    while not answer(usual):
        for n in range(8):
            world.add([6 + n] * 8, 1)
        before = usual.fed
        world.step()
        steps += 1
        assert usual.fed > before
    assert steps < 20
    assert 0 < sum(entry.fed for entry in long) < 3_900


def test_a_row_whose_piece_rests_can_be_withdrawn() -> None:
    """Nothing of it is left: the next piece, of another row, begins at the first stage."""
    world = staged()
    first, second = world.add([3] * 400), world.add([5] * 500)
    world.step()
    assert world.ledger.withdraw(first)

    assert passing(world.step()) == [(second, 8 * LEAST_PASSING, 0, 1)]
    world.run()
    assert answer(second) == alone(second)
    assert world.engine.open == {}


def test_a_row_whose_piece_rests_can_give_way() -> None:
    """Memory that answers need is taken from it, too; it begins again later, and answers what it would have answered."""
    world = staged(answers=2, kv_tokens=414)
    long = world.add([3] * 400, 2)
    ends = [0]
    while not long.begun or long.row != NOWHERE:
        ends += [end for _, _, _, end in passing(world.step())]
    assert ends[-1] not in (0, 8)
    world.run()

    assert answer(long) == alone(long)
    assert world.engine.open == {}


def test_usual_prompts_are_fed_within_a_few_steps() -> None:
    """Beside twelve answers four prompts of up to half a step have all answered after eight steps: a row that waits for its first token is empty."""
    world = World(rows=16, tokens_per_step=512, context=4_000)
    for n in range(12):
        world.add([1, n], 400, end_ids=frozenset())
    world.step()
    usual = [world.add([2 + n] * 200) for n in range(4)]
    for _ in range(8):
        plan = world.step()
        assert sum(share.tokens for share in plan.shares) <= 12 + 4 * 200 // 4 + 512 * 4**2 // 16**2

    assert [len(answer(entry)) > 0 for entry in usual] == [True] * 4


def test_short_prompts_that_come_together_are_fed_together() -> None:
    """An eighth of a step is theirs, whatever number of them shares it: none waits for a step that another one's prompt has to itself."""
    world = World(rows=16, tokens_per_step=512, context=4_000)
    for n in range(12):
        world.add([1, n], 400, end_ids=frozenset())
    world.step()
    short = [world.add([2 + n] * 16) for n in range(4)]
    world.step()

    assert [len(answer(entry)) for entry in short] == [1] * 4


def test_rows_that_answer_are_in_every_step() -> None:
    """No prompt, however long, makes an answering row miss a step."""
    world = World(rows=4, tokens_per_step=16)
    rows = [world.add([1, n], 30, end_ids=frozenset()) for n in range(3)]
    world.step()
    world.add([2] * 200)
    for count in range(2, 12):
        world.step()
        assert [len(answer(entry)) for entry in rows] == [count] * 3


def test_the_youngest_row_gives_way_and_goes_on_where_it_was() -> None:
    """When memory ends, the last that came waits before all others; its tokens are those it would have had."""
    world = World(rows=3, kv_tokens=40)
    old, young = (world.add([n] * 10, 20, end_ids=frozenset()) for n in (1, 2))
    for _ in range(12):
        world.step()
    later = world.add([3] * 5, 2, end_ids=frozenset())
    assert young.row < 0
    assert list(world.ledger.waiting) == [young, later]
    assert answer(young) == alone(young)[:11]
    world.run()

    assert [answer(entry) for entry in (old, young, later)] == [alone(old), alone(young), alone(later)]
    assert world.order == [old, young, later]


def test_nobody_is_admitted_after_a_shortage_until_a_row_ends() -> None:
    """A row that gave way is not computed anew only to give way again."""
    world = World(rows=3, kv_tokens=40)
    old, young = (world.add([n] * 10, 20, end_ids=frozenset()) for n in (1, 2))
    for _ in range(12):
        world.step()
    steps = 0
    while old not in world.ends:
        assert young in world.ledger.waiting
        assert world.ledger.blocked
        world.step()
        steps += 1
    world.step()

    assert steps == 8
    assert list(world.ledger.running.values()) == [young]


def test_the_first_that_does_not_fit_is_not_overtaken() -> None:
    """A large prompt waits for memory, and small ones behind it wait with it: else it would wait for ever."""
    world = World(rows=3, kv_tokens=60)
    world.add([1] * 30, 10, end_ids=frozenset())
    world.step()
    large, small = world.add([2] * 50, 5), world.add([3] * 2, 5)
    world.run()

    assert world.order[1:] == [large, small]


def test_a_prompt_that_fits_into_no_memory_is_refused() -> None:
    """More prompt than the whole memory is the request's fault, said by name; others are served."""
    world = World(kv_tokens=20)
    big, small = world.add([1] * 21), world.add([2] * 3)
    world.run()

    refusal = world.ends[big]
    assert isinstance(refusal, ContextLengthExceeded)
    assert refusal.field == "prompt"
    assert answer(small) == alone(small)


def test_an_answer_that_outgrows_the_memory_alone_ends_with_length() -> None:
    """Nothing can give way to it, so it ends with what it has."""
    world = World(kv_tokens=20)
    entry = world.add([1] * 10, 50, end_ids=frozenset())
    world.run()

    assert world.ends[entry] is FinishReason.LENGTH
    assert answer(entry) == alone(entry)[:11]  # the last token need not be fed


def test_the_context_bounds_prompt_and_answer() -> None:
    """An answer ends where the row is full."""
    world = World(context=16)
    entry = world.add([1] * 10, 50, end_ids=frozenset())
    world.run()

    assert world.ends[entry] is FinishReason.LENGTH
    assert answer(entry) == alone(entry)[:6]


def test_an_end_token_stops_and_what_was_guessed_behind_it_does_not_count() -> None:
    """`stop` at the first end token of a step, even among accepted drafts."""
    world = World(drafts=True, formula=echoing(3))
    entry = world.add([9, 8, 7] * 4, 50, end_ids=frozenset({8}))
    world.run()

    assert (answer(entry), world.ends[entry]) == ([9, 8], FinishReason.STOP)


def test_drafts_that_come_true_save_steps() -> None:
    """A text that repeats itself is answered in far fewer steps than it has tokens."""
    steps = []
    for drafts in (False, True):
        world = World(drafts=drafts, formula=echoing(5))
        world.add(range(1, 11), 60, end_ids=frozenset())
        world.run()
        steps.append(len(world.engine.fed))

    assert steps[0] == 60
    assert steps[1] <= 20


def test_wide_batches_guess_nothing() -> None:
    """Beyond four answering rows a draft costs the others more than it gains."""
    world = World(rows=5, drafts=True, formula=echoing(2))
    for n in range(5):
        world.add([1, 2, n] * 4, 20, end_ids=frozenset())
    world.run()

    assert max(world.engine.fed[1:]) == 5


def test_where_drafts_are_computed_apart_only_a_lone_row_guesses() -> None:
    """Two rows are one call of the kernels; with a draft they would be two. Once the other has ended, guessing begins."""
    world = World(rows=2, drafts=True, lone_drafts=True, formula=echoing(2))
    short, long = (world.add([1, 2, n] * 4, tokens, end_ids=frozenset()) for n, tokens in ((3, 10), (4, 40)))
    while short not in world.ends:
        world.step()
    together = len(world.engine.fed)
    world.run()

    assert world.engine.fed[1:together] == [2] * (together - 1)
    assert max(world.engine.fed[together:]) > 2
    assert answer(long) == script(long.job.prompt, 40, SIZE, echoing(2))


def test_a_job_waits_no_longer_than_the_queue_allows() -> None:
    """Overloaded, with a time to come back; nothing was computed for it."""
    world = World(rows=1, queue_seconds=5.0)
    world.add([1, 2], 100, end_ids=frozenset())
    world.step()
    late = world.add([3, 4])
    world.now = 5.1
    world.step()

    refusal = world.ends[late]
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after >= 1
    assert len(world.ledger.running) == 1


@pytest.mark.parametrize("preempted", [False, True])
def test_a_job_runs_no_longer_than_requests_may(preempted: bool) -> None:
    """DeadlineExceeded for a row, also for one that gave way; its row is free."""
    world = World(rows=2, kv_tokens=24 if preempted else 200)
    old, young = (world.add([n] * 10, 100, end_ids=frozenset()) for n in (1, 2))
    for _ in range(4):
        world.step()
    assert (young in world.ledger.waiting) is preempted
    world.now = 601.0
    world.step()

    assert [type(world.ends[entry]) for entry in (old, young)] == [DeadlineExceeded] * 2
    assert world.engine.open == {}


def test_a_request_at_fault_ends_alone() -> None:
    """An error of one request's own at admission ends that one; the next takes the row."""
    world = World(rows=1, refuse=[7])
    wrong, right = world.add([7, 1]), world.add([1, 2])
    world.run()

    assert isinstance(world.ends[wrong], InvalidRequest)
    assert answer(right) == alone(right)


def test_withdrawing_frees_the_row_at_once_and_once() -> None:
    """Cancelled in the row, in the queue, and after the end."""
    world = World(rows=1)
    running, waiting = world.add([1, 2], 50, end_ids=frozenset()), world.add([3, 4])
    world.step()

    assert [world.ledger.withdraw(running), world.ledger.withdraw(running)] == [True, False]
    assert world.engine.open == {}
    assert [world.ledger.withdraw(waiting), world.ledger.withdraw(waiting)] == [True, False]
    assert repr(world.ledger) == "<Ledger: 0 of 1 rows, 0 tokens, <Waiting: 0 of 0 tenants, 0 resumed, 0 parked>>"


def test_cached_tokens_are_those_of_the_first_admission() -> None:
    """What a row that gave way finds of itself is no prefix hit."""
    world = World(rows=2, kv_tokens=60, prefix_cache=True)
    old, young = (world.add([n] * 20, 20, end_ids=frozenset()) for n in (1, 2))
    world.run()
    again = world.add([1] * 10 + [5] * 5, 1)
    world.run()

    assert [entry.cached for entry in (old, young, again)] == [0, 0, 10]


def test_what_several_prompts_begin_with_is_computed_once() -> None:
    """Those that came with the first wait for it, then share it, and stand before who came later."""
    world = World(rows=4, tokens_per_step=64, prefix_cache=True)
    rows = [world.add([*COMMON, n], 4) for n in (1, 2, 3)]
    other = world.add([7, 7], 4)
    world.step()
    assert world.order == [rows[0], other]
    assert list(world.ledger.waiting) == rows[1:]
    world.add([8, 8], 4)
    world.run()

    assert [entry.cached for entry in rows] == [0, 62, 62]  # the rest is not worth another step's wait
    assert world.order[2:4] == rows[1:]
    assert [answer(entry) for entry in rows] == [alone(entry) for entry in rows]


def test_who_waits_for_a_prompt_goes_on_when_it_is_gone() -> None:
    """The first was cancelled: the second computes it."""
    world = World(rows=4, tokens_per_step=16, prefix_cache=True)
    first, second = (world.add([*COMMON, n], 4) for n in (1, 2))
    world.step()
    assert list(world.ledger.waiting) == [second]
    world.ledger.withdraw(first)
    world.run()

    assert (second.cached, answer(second)) == (16, alone(second))
