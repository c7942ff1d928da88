"""The loop over the scripted engine: exact answers, and rows that are free within a step, whatever clients and engines do."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines.base import GuideState, Job, Logits
from pilothouse.engines.faults import Faults, Gate
from pilothouse.engines.loop import Loop
from pilothouse.engines.mailbox import pour
from pilothouse.engines.scripted import END, Formula, ScriptedStep, ScriptedVocabulary, echoing, following, script
from pilothouse.errors import ContextLengthExceeded, DeadlineExceeded, EngineFailed, InvalidRequest, NotReady, Overloaded
from pilothouse.messages import Chunk, FinishReason, Guide, Sampling, Usage
from support.scripted_loop import ScriptedLoop, engine, job

WORDS = ScriptedVocabulary()
FIRST = 2  # steps of the first answer
WAIT = 20.0  # seconds; only a failing test ever waits so long


@contextmanager
def started(**options: Any) -> Iterator[tuple[ScriptedLoop, list[ScriptedStep], list[BaseException]]]:
    """A started loop with the step engines it makes and the failures it reports; afterwards its thread is gone."""
    failures: list[BaseException] = []
    loop = engine(**{"on_failure": failures.append} | options)
    loop.start()
    try:
        yield loop, loop.made, failures
    finally:
        for step_engine in loop.made:  # a failed test may have left one standing
            step_engine.faults.gate.open()
            step_engine.faults.release.set()
        loop.stop()
        assert [thread for thread in threading.enumerate() if thread.name == "engine"] == []


async def collect(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    async with asyncio.timeout(WAIT):
        return [chunk async for chunk in chunks]


async def following_chunk(chunks: AsyncIterator[Chunk]) -> Chunk:
    async with asyncio.timeout(WAIT):
        return await anext(chunks)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition` holds."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.to_thread(threading.Event().wait, 0.001)


async def at_gate(gate: Gate) -> None:
    await asyncio.to_thread(gate.reached, WAIT)


def tokens(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.tokens]


def alone(asked: Job, formula: Formula = following) -> tuple[list[int], int]:
    """The tokens that are shown, and how many are counted."""
    answer = script(asked.prompt, asked.max_tokens, WORDS.size, formula)
    closed = [place for place, token in enumerate(answer) if token in asked.end_ids]
    return (answer[: closed[0]], closed[0] + 1) if closed else (answer, len(answer))


def endless(prompt: tuple[int, ...] = (1, 2, 3), **options: Any) -> Job:
    ours: dict[str, Any] = {"max_tokens": 200, "end_ids": frozenset()}
    return job(prompt, **(ours | options))


# -- answers -------------------------------------------------------------------------------------------------------------------


async def test_an_answer_streams_token_by_token() -> None:
    """One chunk a token; the last says why and counts. Joined they are the formula's answer."""
    with started() as (loop, _, failures):
        asked = job((5, 6, 7), 6, end_ids=frozenset())
        chunks = await collect(loop.generate(asked))

    expected = script((5, 6, 7), 6, WORDS.size)
    assert [chunk.tokens for chunk in chunks] == [(token,) for token in expected]
    assert "".join(chunk.text for chunk in chunks) == WORDS.text(expected)
    assert [chunk.finish_reason for chunk in chunks] == [None] * 5 + [FinishReason.LENGTH]
    assert chunks[-1].usage == Usage(3, 6)
    assert failures == []


JOBS = st.lists(
    st.tuples(
        st.lists(st.integers(1, WORDS.size - 1), min_size=1, max_size=30),
        st.integers(1, 20),
        st.sampled_from("xy"),
        st.one_of(st.none(), st.integers(0, 8)),  # leaves after so many chunks
        st.integers(0, 3),  # turns of the event loop before it comes
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=40)
@given(
    jobs=JOBS,
    rows=st.integers(1, 4),
    tokens_per_step=st.sampled_from([4, 16, 64]),
    kv_tokens=st.sampled_from([52, 90, 2_000]),
    prefix_cache=st.booleans(),
    turn=st.sampled_from([None, 8, 16]),
    formula=st.sampled_from([following, echoing(3)]),
    speculation=st.booleans(),
)
def test_every_answer_is_the_one_it_would_be_alone(
    jobs: list[tuple[list[int], int, str, int | None, int]], formula: Formula, **options: Any
) -> None:
    """Over arrivals, chunks, shortages, drafts and clients that leave: exact text, tokens and usage, and no row is left behind."""

    async def client(loop: Loop, asked: Job, leaves: int | None, turns: int) -> list[Chunk]:
        for _ in range(turns):
            await asyncio.sleep(0)
        chunks: list[Chunk] = []
        stream = loop.generate(asked)
        async for chunk in stream:
            if len(chunks) == leaves:
                break
            chunks.append(chunk)
        await stream.aclose()
        return chunks

    async def everything() -> None:
        asked = [job(tuple(prompt), most, tenant=tenant) for prompt, most, tenant, _, _ in jobs]
        with started(formula=formula, **options) as (loop, made, failures):
            async with asyncio.timeout(WAIT):
                answers = await asyncio.gather(*(client(loop, a, j[3], j[4]) for a, j in zip(asked, jobs, strict=True)))
            await until(lambda: loop.stats().idle and not loop.stats().kv_used)
            assert (made[0].open, loop.stats().waiting, loop.stats().running) == ({}, 0, 0)
        assert failures == []
        for a, (_, _, _, leaves, _), chunks in zip(asked, jobs, answers, strict=True):
            shown, counted = alone(a, formula)
            if leaves is None or (chunks and chunks[-1].finish_reason):
                assert tokens(chunks) == shown
                assert "".join(chunk.text for chunk in chunks) == WORDS.text(shown)
                assert chunks[-1].usage is not None
                assert chunks[-1].usage.completion_tokens == counted
            else:
                assert tokens(chunks) == shown[: len(tokens(chunks))]

    asyncio.run(everything())


async def test_sampled_answers_do_not_depend_on_neighbours_or_drafts() -> None:
    """The same seed gives the same tokens alone, in a batch, and with speculation."""
    asked = [endless((n, n, n), max_tokens=30, sampling=Sampling(temperature=2.0, seed=n)) for n in (1, 2, 3)]
    answers = []
    for speculation in (False, True):
        with started(speculation=speculation, formula=echoing(2)) as (loop, _, _):
            answers.append([tokens(await collect(loop.generate(a))) for a in asked])
            answers.append([tokens(chunks) for chunks in await asyncio.gather(*(collect(loop.generate(a)) for a in asked))])

    assert answers[1:] == answers[:1] * 3


async def test_drafts_give_the_same_chunks_in_fewer_steps() -> None:
    """Speculation changes when tokens come, not which nor how they are cut into chunks."""
    results = []
    for speculation in (False, True):
        with started(speculation=speculation, formula=echoing(4)) as (loop, _, _):
            chunks = await collect(loop.generate(endless(tuple(range(1, 9)), max_tokens=60)))
            results.append(([chunk._replace(queue_seconds=None) for chunk in chunks], loop.stats().steps))

    assert results[0][0] == results[1][0]
    assert (results[0][1], results[1][1] < 25) == (60, True)


async def test_a_prompt_that_is_alone_has_the_step_that_the_engine_gives_it() -> None:
    """The engine's two sizes are the loop's."""
    with started(tokens_per_step=16, tokens_alone=32) as (loop, made, _):
        await collect(loop.generate(job((1,) * 70, 1)))
        assert made[0].fed[-3:] == [32, 32, 6]


async def test_a_stop_string_frees_the_row_and_the_rest_of_the_step_does_not_count() -> None:
    """Also in the midst of accepted drafts: the same text and usage as without."""
    prompt = tuple(range(1, 9))
    stop = WORDS.text([prompt[5]])
    for speculation in (False, True):
        with started(speculation=speculation, formula=echoing(8)) as (loop, made, _):
            chunks = await collect(loop.generate(endless((*prompt, *prompt), stop=(stop,))))
            await until(lambda: not made[0].open)  # used within the turn

        assert "".join(chunk.text for chunk in chunks) == WORDS.text(prompt[:5])
        assert (chunks[-1].finish_reason, chunks[-1].usage) == (FinishReason.STOP, Usage(16, 6))


async def test_cached_tokens_are_in_the_usage() -> None:
    """What the engine found computed is told to the client."""
    with started(prefix_cache=True) as (loop, _, _):
        await collect(loop.generate(job((9, 8, 7, 6), 2)))
        chunks = await collect(loop.generate(job((9, 8, 7, 6, 5, 4), 1)))

    assert chunks[-1].usage == Usage(6, 1, 4)


async def test_log_probabilities_come_only_when_asked() -> None:
    """With the likeliest beside each, as text and bytes."""
    with started() as (loop, _, _):
        without = await collect(loop.generate(job(max_tokens=1)))
        chunks = await collect(loop.generate(job(max_tokens=1, logprobs=2)))

    (entry,) = chunks[0].logprobs
    assert without[0].logprobs == ()
    assert (entry.token.encode(), entry.id) == (entry.raw, chunks[0].tokens[0])
    assert [top.id for top in entry.top] == [entry.id, (entry.id + 1) % WORDS.size]
    assert entry.top[0].logprob == entry.logprob


# -- queue ---------------------------------------------------------------------------------------------------------------------


async def test_first_tokens_are_delivered_before_the_others_of_their_step() -> None:
    """Whoever waits for an answer to begin waits for nobody's next token."""
    gate, heard = Gate(), list[str]()

    async def listen(name: str, chunks: AsyncGenerator[Chunk, None]) -> None:
        assert await pour(chunks, lambda chunk: heard.append(name) is None)

    with started(rows=2, faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        old = asyncio.create_task(listen("old", loop.generate(endless(max_tokens=3))))
        await at_gate(gate)
        new = asyncio.create_task(listen("new", loop.generate(endless((4, 5, 6), max_tokens=2))))
        gate.open()
        async with asyncio.timeout(WAIT):
            await asyncio.gather(old, new)

    assert heard == ["old", "new", "old", "old", "new"]


async def test_a_full_queue_refuses_at_the_call() -> None:
    """One row and two places: the fourth is refused before anything of it is queued, and so is a reservation."""
    gate = Gate()
    with started(rows=1, queue=2, faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        streams = [loop.generate(endless(max_tokens=2)) for _ in range(3)]
        with pytest.raises(Overloaded) as refusal:
            loop.generate(endless())
        with pytest.raises(Overloaded):
            loop.reserve(1)
        assert refusal.value.retry_after >= 1
        gate.open()
        assert [len(await collect(stream)) for stream in streams] == [2, 2, 2]
        loop.reserve(3)


async def test_no_queue_means_only_free_rows() -> None:
    """With a queue of 0 a job is taken exactly when a row is free for it."""
    gate = Gate()
    with started(rows=2, queue=0, faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        loop.reserve(2)
        streams = [loop.generate(endless(max_tokens=1)) for _ in range(2)]
        with pytest.raises(Overloaded):
            loop.generate(endless())
        gate.open()
        for stream in streams:
            await collect(stream)


async def test_a_free_row_without_memory_is_no_place() -> None:
    """Where memory holds one row only, the queue is as long as promised and no longer."""
    gate = Gate()
    with started(rows=4, kv_tokens=30, queue=1, faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        first = loop.generate(endless((1,) * 20, max_tokens=3))
        await at_gate(gate)
        second = loop.generate(endless((2,) * 20, max_tokens=3))
        gate.allow()
        await at_gate(gate)
        with pytest.raises(Overloaded):
            loop.generate(endless((3,) * 20))
        assert (loop.stats().running, loop.stats().waiting) == (1, 1)
        gate.open()
        assert [len(await collect(stream)) for stream in (first, second)] == [3, 3]


async def test_more_than_ever_fits_is_not_worth_trying_again() -> None:
    """An order larger than rows and queue together is the request's fault, not the hour's."""
    with started(rows=2, queue=1) as (loop, _, _), pytest.raises(InvalidRequest, match="3"):
        loop.reserve(4)


@pytest.mark.parametrize(
    ("asked", "field", "error"),
    [
        (job(()), "prompt", InvalidRequest),
        (job(max_tokens=0), "max_tokens", InvalidRequest),
        (job((1,) * 16), "prompt", ContextLengthExceeded),
    ],
)
async def test_a_job_that_can_not_be_answered_is_refused_by_field(asked: Job, field: str, error: type[InvalidRequest]) -> None:
    """Before it is queued."""
    with started(context=16) as (loop, _, _):
        with pytest.raises(error) as refusal:
            loop.generate(asked)
        assert (refusal.value.field, loop.stats().idle) == (field, True)


async def test_waiting_too_long_is_overloaded_and_running_too_long_a_deadline() -> None:
    """Times by the loop's clock; rows and places are free afterwards."""
    gate, now = Gate(), [0.0]
    waits: list[float] = []
    with started(
        rows=1, faults=Faults(gate=gate), clock=lambda: now[0], queue_seconds=5.0, request_seconds=20.0, on_queue=waits.append
    ) as (loop, made, _):
        gate.shut()
        running, waiting = loop.generate(endless()), loop.generate(endless())
        await at_gate(gate)
        now[0] = 6.0
        gate.allow()
        with pytest.raises(Overloaded):
            await collect(waiting)
        now[0] = 21.0
        gate.allow()
        with pytest.raises(DeadlineExceeded):
            await collect(running)
        await until(lambda: loop.stats().idle)
        assert (made[0].open, waits) == ({}, [0.0])


# -- clients that leave --------------------------------------------------------------------------------------------------------


async def leave_by_aclose(loop: Loop, gate: Gate) -> None:
    stream = loop.generate(endless())
    await following_chunk(stream)
    await at_gate(gate)
    await stream.aclose()


async def leave_by_cancelling(loop: Loop, gate: Gate) -> None:
    task = asyncio.create_task(collect(loop.generate(endless())))
    await asyncio.sleep(0)
    await at_gate(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_forgetting(loop: Loop, gate: Gate) -> None:
    stream = loop.generate(endless())
    await following_chunk(stream)
    await at_gate(gate)
    del stream
    gc.collect()


async def leave_before_the_first_chunk(loop: Loop, gate: Gate) -> None:
    stream = loop.generate(endless())
    await at_gate(gate)
    await stream.aclose()


async def leave_by_an_error(loop: Loop, gate: Gate) -> None:
    stream = loop.generate(endless())
    await at_gate(gate)
    with pytest.raises(ZeroDivisionError):
        await stream.athrow(ZeroDivisionError())


@pytest.mark.parametrize(
    "leave", [leave_by_aclose, leave_by_cancelling, leave_by_forgetting, leave_before_the_first_chunk, leave_by_an_error]
)
async def test_a_client_that_leaves_costs_no_further_step(leave: Callable[[Loop, Gate], object]) -> None:
    """The step that runs ends, and no other begins: the row is free, and the cancellation counted."""
    gate, cancels = Gate(), []
    with started(faults=Faults(gate=gate), on_cancel=lambda: cancels.append(1)) as (loop, made, failures):
        gate.shut()
        gate.allow(1 if leave in (leave_by_aclose, leave_by_forgetting) else 0)
        await leave(loop, gate)  # type: ignore[misc]  # a coroutine function
        begun = made[0].faults.steps
        gate.open()
        await until(lambda: loop.stats().idle)

        assert made[0].faults.steps == begun
        assert (made[0].open, cancels, failures) == ({}, [1], [])


async def test_a_client_that_leaves_the_queue_never_gets_a_row() -> None:
    """And its place is free at once."""
    gate = Gate()
    cancels: list[int] = []
    waits: list[float] = []
    with started(rows=1, queue=1, faults=Faults(gate=gate), on_cancel=lambda: cancels.append(1), on_queue=waits.append) as (loop, _, _):
        gate.shut()
        running = loop.generate(endless(max_tokens=2))
        await at_gate(gate)
        await loop.generate(endless()).aclose()
        gate.allow()
        await at_gate(gate)
        loop.reserve(1)
        gate.open()
        await collect(running)
        assert (cancels, len(waits)) == ([1], 1)


async def test_closing_a_stream_ends_the_task_that_reads_it() -> None:
    """A stream may be closed by another task than its reader's: the reader hears the end instead of waiting for ever."""
    gate = Gate()
    with started(faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        stream = loop.generate(endless())
        reader = asyncio.create_task(collect(stream))
        await at_gate(gate)
        await stream.aclose()

        assert await reader == []


async def test_survivors_of_a_cancel_storm_are_exact() -> None:
    """Half of the clients leave; the others' answers are theirs, and nothing leaks."""
    with started(rows=4, kv_tokens=400) as (loop, made, failures):

        async def client(n: int) -> list[Chunk]:
            stream = loop.generate(endless((n,), max_tokens=20))
            if n % 2:
                for _ in range(n % 5):
                    await following_chunk(stream)
                await stream.aclose()
                return []
            return await collect(stream)

        answers = await asyncio.gather(*(client(n) for n in range(1, 33)))
        await until(lambda: loop.stats().idle and not loop.stats().kv_used)

        assert [tokens(chunks) for chunks in answers[1::2]] == [script((n,), 20, WORDS.size) for n in range(2, 33, 2)]
        assert (made[0].open, failures) == ({}, [])


async def test_a_finished_stream_stays_finished() -> None:
    """After the last chunk there is nothing, and leaving is no cancellation."""
    cancels: list[int] = []
    with started(on_cancel=lambda: cancels.append(1)) as (loop, _, _):
        stream = loop.generate(job())
        await collect(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
    assert cancels == []


# -- failures ------------------------------------------------------------------------------------------------------------------


def test_a_failed_load_is_raised_to_the_caller() -> None:
    """The thread is gone, and nothing is served."""
    loop = engine(faults=Faults(fail_load=OSError("no such model")))
    with pytest.raises(OSError, match="no such model"):
        loop.start()

    assert loop.stats().alive is False
    loop.stop()
    assert [thread for thread in threading.enumerate() if thread.name == "engine"] == []


def test_an_engine_that_can_not_answer_does_not_start() -> None:
    """Start means that a first answer was computed: a failing first step is a failed load, and the engine is closed."""
    loop = engine(faults=Faults(fail_steps=frozenset({2})))
    with pytest.raises(RuntimeError, match="step 2"):
        loop.start()

    assert [made.closed for made in loop.made] == [True]


async def test_before_the_start_nothing_is_taken() -> None:
    """NotReady, which a client may try again."""
    with pytest.raises(NotReady):
        engine().generate(job())


class PickyGuidance:
    """Refuses one schema, breaks on another, and lets all else pass."""

    def compile(self, guide: Guide) -> GuideState:
        if guide.schema == "bad":
            raise InvalidRequest("json_schema: not understood", field="response_format")
        if guide.schema == "bug":
            raise ZeroDivisionError
        return Anything()


class Anything:
    def mask(self, logits: Logits) -> None: ...
    def accept(self, token: int) -> None: ...
    def rollback(self, tokens: int) -> None: ...
    def finished(self) -> bool:
        return False


async def test_a_bad_guide_fails_its_own_request_only() -> None:
    """Refused, or broken: the neighbour goes on, and the engine stays."""
    with started(guidance=PickyGuidance) as (loop, made, failures):
        good, bad, bug = (loop.generate(endless(max_tokens=5, guide=Guide("json_schema", schema))) for schema in ("good", "bad", "bug"))
        with pytest.raises(InvalidRequest, match="not understood"):
            await collect(bad)
        with pytest.raises(EngineFailed):
            await collect(bug)
        assert len(await collect(good)) == 5
        assert [type(failure) for failure in failures] == [ZeroDivisionError]
        assert (len(made), made[0].open) == (1, {})


async def test_a_broken_step_ends_its_rows_and_another_engine_serves_those_who_wait() -> None:
    """EngineFailed for those who ran; the waiting get their answers, exactly; the broken engine is closed."""
    with started(rows=1, faults=Faults(fail_steps=frozenset({FIRST + 3}))) as (loop, made, failures):
        ran, waits = loop.generate(endless()), loop.generate(endless((4, 5), max_tokens=10))
        assert [(await following_chunk(ran)).tokens for _ in range(2)] == [(token,) for token in script((1, 2, 3), 2, WORDS.size)]
        with pytest.raises(EngineFailed):
            await following_chunk(ran)
        assert tokens(await collect(waits)) == script((4, 5), 10, WORDS.size)
        assert [str(failure) for failure in failures] == [f"step {FIRST + 3} was to fail"]
        assert [made[0].closed, made[1].closed, loop.stats().alive] == [True, False, True]


async def test_each_failure_that_comes_after_some_work_is_recovered_from() -> None:
    """Rebuilding is not a thing of once: an engine that got through a step may be replaced again."""
    fail = frozenset({FIRST + 2, FIRST + 2 + FIRST + 2})
    with started(faults=Faults(fail_steps=fail)) as (loop, made, _):
        for _ in range(2):
            with pytest.raises(EngineFailed):
                await collect(loop.generate(endless()))
            await until(lambda: loop.stats().alive)
        assert len(await collect(loop.generate(endless(max_tokens=3)))) == 3
        assert len(made) == 3


@pytest.mark.parametrize("again", [FIRST + 2, FIRST + 1 + FIRST + 1], ids=["in its first answer", "in its first step"])
async def test_an_engine_that_breaks_again_at_once_stays_down(again: int) -> None:
    """The second failure in a row: not alive, everybody told, the thread gone, and nobody new taken."""
    with started(rows=1, faults=Faults(fail_steps=frozenset({FIRST + 1, again}))) as (loop, made, failures):
        first, second, third = (loop.generate(endless()) for _ in range(3))
        ends = await asyncio.gather(*(collect(stream) for stream in (first, second, third)), return_exceptions=True)
        in_answer = again == FIRST + 2
        assert [type(end) for end in ends] == [EngineFailed, NotReady if in_answer else EngineFailed, NotReady]
        await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "engine"])
        assert (loop.stats().alive, len(failures), [e.closed for e in made]) == (False, 2, [True, True])
        with pytest.raises(NotReady):
            loop.generate(endless())


async def test_a_step_that_hangs_is_seen_from_outside() -> None:
    """Steps stand still, there is work, and the time of the last progress is that of before."""
    now = [1.0]
    faults = Faults(hang_step=FIRST + 3)
    with started(faults=faults, clock=lambda: now[0]) as (loop, _, _):
        stream = loop.generate(endless(max_tokens=5))
        await following_chunk(stream)
        await following_chunk(stream)
        await until(lambda: faults.steps == FIRST + 3)
        now[0] = 100.0
        stats = loop.stats()
        assert (stats.steps, stats.idle, stats.running, loop.progressed) == (2, False, 1, 1.0)
        faults.release.set()
        await collect(stream)
        await until(lambda: loop.stats().idle)
        assert loop.progressed == 100.0


# -- the end -------------------------------------------------------------------------------------------------------------------


async def test_stopping_ends_every_job_with_not_ready() -> None:
    """Those who run and those who wait; the engine is closed, on its own thread."""
    gate = Gate()
    with started(rows=1, faults=Faults(gate=gate)) as (loop, made, failures):
        gate.shut()
        streams = [loop.generate(endless()) for _ in range(3)]
        await at_gate(gate)
        gate.open()
        loop.stop()
        ends = await asyncio.gather(*(collect(stream) for stream in streams), return_exceptions=True)
        assert [type(end) for end in ends] == [NotReady] * 3
        assert (made[0].closed, loop.stats().alive, failures) == (True, False, [])
        with pytest.raises(NotReady, match="stopping"):
            loop.generate(endless())


async def test_stopping_does_not_wait_for_a_hung_step_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are told; when the step comes back after all, the thread ends."""
    monkeypatch.setattr("pilothouse.engines.loop.JOIN_SECONDS", 0.05)
    faults = Faults(hang_step=FIRST + 1)
    loop = engine(faults=faults)
    loop.start()
    stream = loop.generate(endless())
    await until(lambda: faults.steps == FIRST + 1)
    await asyncio.to_thread(loop.stop)
    with pytest.raises(NotReady):
        await collect(stream)
    faults.release.set()
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "engine"])

    assert [made.closed for made in loop.made] == [True]


def test_two_event_loops_are_served_at_once() -> None:
    """Each hears on its own loop; one that was closed in the midst takes nobody with it."""
    with started() as (loop, made, failures):

        async def abandon() -> None:
            await following_chunk(loop.generate(endless()))

        async def ask(n: int) -> list[int]:
            return tokens(await collect(loop.generate(endless((n,), max_tokens=30))))

        answers: dict[int, list[int]] = {}
        threads = [threading.Thread(target=lambda n=n: answers.update({n: asyncio.run(ask(n))})) for n in (1, 2)]
        threads.append(threading.Thread(target=lambda: asyncio.run(abandon())))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert [thread.is_alive() for thread in threads] == [False] * 3
        asyncio.run(until(lambda: loop.stats().idle))

        assert answers == {n: script((n,), 30, WORDS.size) for n in (1, 2)}
        assert (made[0].open, failures) == ({}, [])


async def test_one_wake_up_per_step_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows answer, a step calls the event loop once."""
    calls = []
    running = asyncio.get_running_loop()
    real = running.call_soon_threadsafe
    gate = Gate()
    with started(rows=4, faults=Faults(gate=gate)) as (loop, _, _):
        gate.shut()
        streams = [loop.generate(endless((n,), max_tokens=10)) for n in range(1, 5)]
        await at_gate(gate)

        def counted(call: Callable[..., object], *arguments: object) -> asyncio.Handle:
            if threading.current_thread().name == "engine":
                calls.append(call)
            return real(call, *arguments)

        monkeypatch.setattr(running, "call_soon_threadsafe", counted)
        gate.open()
        await asyncio.gather(*(collect(stream) for stream in streams))

    assert len(calls) == loop.stats().steps


async def test_its_facts_are_the_engines() -> None:
    """Name, device, capabilities, context and description come from the engine that was made; the repr reads the same numbers as the stats."""
    loop = engine(context=99)
    assert (loop.name, loop.context, loop.stats().alive) == ("none", 0, False)
    loop.start()
    try:
        assert (loop.name, loop.device, loop.context, loop.capabilities.rollback) == ("scripted", "cpu", 99, True)
        assert loop.describe() == {"engine": "scripted", "device": "cpu", "rows": 4, "tokens_per_step": 64}
        assert repr(loop) == (
            "<Loop scripted on cpu: open, 0 steps, <Ledger: 0 of 4 rows, 0 tokens, <Waiting: 0 of 0 tenants, 0 resumed, 0 parked>>>"
        )
        assert (loop.stats().rows, loop.stats().alive, loop.stats().idle) == (4, True, True)
    finally:
        loop.stop()


def test_the_end_token_of_the_formula_is_the_vocabularys() -> None:
    """The helper's jobs end where the scripted model ends."""
    assert WORDS.token_text(END) == "<|end|>"
