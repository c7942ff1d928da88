"""The library's own Engine behind our loop: real answers and real failures on a CPU, where it batches statically; dynamic batching on a GPU."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.base import Job
from pilothouse.engines.genai_batching import GenaiBatching
from pilothouse.engines.loop import Loop
from pilothouse.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ModelError, Overloaded, PilothouseError
from pilothouse.messages import Chunk, FinishReason, Guide, Sampling, Usage
from pilothouse.models import pocket
from pilothouse.server.health import Health
from support import pocket_text

QUESTION, ANSWER = pocket_text.KNOWN[0]
PROMPT = pocket_text.question(QUESTION)
TOKENS = pocket_text.answer(ANSWER)
ENDS = frozenset({2, TOKENS[-1]})
GREEDY = Sampling(temperature=0.0)
WAIT = 60.0


@contextmanager
def started(
    make: Callable[[], GenaiBatching] | None = None, **options: Any
) -> Iterator[tuple[Loop, list[GenaiBatching], list[BaseException]]]:
    """A loop over the pocket model, the engines it made and the failures it told of."""
    made: list[GenaiBatching] = []
    failures: list[BaseException] = []

    def build() -> GenaiBatching:
        made.append(GenaiBatching(pocket.FOLDER, threads=2, context=256, **options) if make is None else make())
        return made[-1]

    loop = Loop(build, Tokenizer.from_folder(pocket.FOLDER, end_ids=ENDS), on_failure=failures.append)
    loop.start()
    try:
        yield loop, made, failures
    finally:
        loop.stop()


def job(prompt: tuple[int, ...] = PROMPT, most: int = 150, **options: Any) -> Job:
    return Job("job", prompt, options.pop("sampling", GREEDY), most, **{"end_ids": ENDS, **options})


async def answer(loop: Loop, asked: Job) -> tuple[str, FinishReason | None, Usage | None]:
    async with asyncio.timeout(WAIT):
        chunks = [chunk async for chunk in loop.generate(asked)]
    return "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason, chunks[-1].usage


async def first(chunks: AsyncIterator[Chunk]) -> Chunk:
    async with asyncio.timeout(WAIT):
        return await anext(chunks)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition` holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  # state of a thread that sends no event
            await asyncio.sleep(0.001)


async def test_known_answers_are_word_for_word_in_any_number() -> None:
    """Alone, and seven at once on four rows: text, reason and usage are those of our own engines; the end token is counted, not shown."""
    with started() as (loop, _, failures):
        for question, known in pocket_text.KNOWN:
            prompt = pocket_text.question(question)
            tokens = len(pocket_text.answer(known))
            assert await answer(loop, job(prompt)) == (known, FinishReason.STOP, Usage(len(prompt), tokens))
        together = await asyncio.gather(*(answer(loop, job()) for _ in range(7)))
        assert [text for text, _, _ in together] == [ANSWER] * 7
        assert (loop.name, loop.device, loop.stats().rows, failures) == ("genai", "cpu", 4, [])
        assert loop.stats().idle


async def test_lengths_stops_and_a_requests_own_end_tokens() -> None:
    """max_tokens is the library's, stop strings and stop tokens are ours: the row is closed within the step."""
    with started() as (loop, _, _failures):
        assert (await answer(loop, job(most=5)))[1:] == (FinishReason.LENGTH, Usage(len(PROMPT), 5))
        assert (await answer(loop, job(stop=("Madrid",))))[:2] == ("The capital of Spain is ", FinishReason.STOP)
        text, reason, usage = await answer(loop, job(end_ids=ENDS | {TOKENS[4]}))
        assert (text, reason, usage) == (pocket_text.text(TOKENS[:4]), FinishReason.STOP, Usage(len(PROMPT), 5))
        longer = await answer(loop, job(most=140, min_tokens=120))
        assert longer[2] is not None
        assert longer[2].completion_tokens >= 120


async def test_what_is_not_asked_for_is_not_the_builds_own() -> None:
    """The folder's genai_config.json has a top_k of 50 and do_sample off; a request for all tokens at a high temperature gets them."""
    hot = Sampling(temperature=5.0, top_p=1.0, top_k=0)
    with started() as (loop, _, _failures):
        answers = [await answer(loop, job(most=40, sampling=hot)) for _ in range(3)]
        assert len({text for text, _, _ in answers}) == 3
        one = Sampling(temperature=5.0, top_k=1)
        assert (await answer(loop, job(sampling=one)))[0] == ANSWER
        punished = await answer(loop, job(sampling=Sampling(temperature=0.0, repetition_penalty=3.0)))
        assert punished[0] != ANSWER


async def test_guided_answers_fit_and_are_compact() -> None:
    """The library's own grammars; one that it can't read is that request's error alone."""
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
    with started() as (loop, _, failures):
        text, reason, _ = await answer(loop, job(guide=Guide("json_schema", json.dumps(schema))))
        assert (text in ('{"on":true}', '{"on":false}'), reason) == (True, FinishReason.STOP)
        with pytest.raises(InvalidRequest, match=r"^response_format: no answer can be guided"):
            await answer(loop, job(guide=Guide("json_schema", '{"type": "nonsense"}')))
        assert (await answer(loop, job()))[0] == ANSWER
        assert failures == []


async def test_a_request_that_can_never_be_served_is_refused_alone() -> None:
    """Tokens that the model doesn't know would break the library for everybody; so they never get there."""
    with started() as (loop, _, failures):
        for prompt in ((5, 2048), (5, -1)):
            with pytest.raises(InvalidRequest, match=r"^prompt: token ids must be below 2048$"):
                await answer(loop, job(prompt))
        with pytest.raises(ContextLengthExceeded):
            await answer(loop, job((5,) * 256))
        assert (await answer(loop, job()))[0] == ANSWER
        assert failures == []


async def test_a_reader_that_leaves_frees_its_row() -> None:
    """The others go on to their own ends."""
    with started() as (loop, made, failures):
        left, stays = loop.generate(job()), loop.generate(job())
        await first(left)
        rest = asyncio.create_task(collected(stays))
        await left.aclose()
        assert await rest == ANSWER
        assert (made[0].usage(), loop.stats().idle, failures) == (0.0, True, [])


async def collected(chunks: AsyncIterator[Chunk]) -> str:
    async with asyncio.timeout(WAIT):
        return "".join([chunk.text async for chunk in chunks])


async def test_a_broken_engine_is_told_from_a_broken_request() -> None:
    """The library says that its engine is broken: the rows end with a server error, those who wait are served by the next engine."""
    with started() as (loop, made, failures):
        made[0]._vocabulary = 1 << 20  # so that a token gets through that breaks the library
        with pytest.raises(EngineFailed):
            await answer(loop, job((5, 5000)))
        await until(lambda: loop.stats().alive)
        assert (await answer(loop, job()))[0] == ANSWER
        assert len(made) == 2
        assert [str(failure) for failure in failures] == ["onnxruntime-genai's engine is broken: ENGINE_EXECUTION_FAILURE"]


async def test_an_engine_that_stays_broken_fails_liveness() -> None:
    """The next one can't be built: nobody is served any more, and only a new process helps."""
    made: list[GenaiBatching] = []

    def once() -> GenaiBatching:
        if made:
            raise ModelError("no GPU answered")
        made.append(GenaiBatching(pocket.FOLDER, threads=2, context=256))
        return made[0]

    with started(once) as (loop, _, failures):
        model = SimpleNamespace(name="m", ready=True, stats=loop.stats)
        health = Health(lambda: [model], stall_seconds=60)
        assert health.stalled() is None
        made[0]._vocabulary = 1 << 20
        with pytest.raises(PilothouseError):
            await answer(loop, job((5, 5000)))
        await until(lambda: loop.stats().broken)
        assert health.stalled() == "the engine of m failed and could not be built again"
        assert len(failures) == 2


@pytest.mark.parametrize(
    ("code", "retryable", "kind"),
    [
        ("CAPACITY_DEFERRED", True, Overloaded),
        ("EXECUTION_CAPACITY_EXCEEDED", False, Overloaded),
        ("RETRYABLE_EXECUTION", False, Overloaded),
        ("REQUEST_UNSERVICEABLE", False, ContextLengthExceeded),
        ("NONE", False, EngineFailed),
        ("ENGINE_CONTRACT_FAILURE", False, RuntimeError),
        ("ENGINE_EXECUTION_FAILURE", True, RuntimeError),
    ],
)
def test_the_librarys_error_codes(code: str, retryable: bool, kind: type[Exception]) -> None:
    """Capacity is worth another try, a prompt that never fits is the client's, and only the engine's own failures are everybody's."""
    import onnxruntime_genai as og

    engine = GenaiBatching(pocket.FOLDER, threads=1, context=64)
    event = SimpleNamespace(error_code=getattr(og.EngineErrorCode, code))
    if kind is RuntimeError:
        with pytest.raises(RuntimeError, match=code):
            engine._failure(event, retryable=retryable)
    else:
        assert type(engine._failure(event, retryable=retryable)) is kind
    engine.close()


def test_warm_up_runs_every_size_of_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs are captured by size: 1, 2, 4 and so on, up to all rows; nothing of it stays."""
    engine = GenaiBatching(pocket.FOLDER, threads=1, context=64, rows=6)
    sizes: list[int] = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda: (sizes.append(len(engine._requests)), run())[1])
    engine.warm_up()

    assert sorted(set(sizes)) == [1, 2, 4, 6]
    assert engine.usage() == 0.0
    engine.close()


def test_it_says_what_it_can_and_what_it_is() -> None:
    """Capabilities are found by asking the library where it can say: a static batch can't be seeded."""
    engine = GenaiBatching(pocket.FOLDER, threads=1, context=64)
    can, facts = engine.capabilities, engine.describe()

    assert (can.seed, can.logprobs, can.penalties, can.min_p, can.logit_bias, can.own_ends, can.prefix_cache) == (False,) * 7
    assert (can.repetition_penalty, can.guidance, can.batched) == (True, True, True)
    assert (facts["device"], facts["rows"], facts["context_tokens"]) == ("cpu", 4, 64)
    assert facts["kernels"].endswith("Engine, static batching")
    engine.close()


# -- with a GPU ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cuda() -> Callable[..., GenaiBatching]:
    from support.pocket_cuda import pocket_cuda

    folder = pocket_cuda()
    return lambda **options: GenaiBatching(folder, threads=2, **{"context": 256, "device": "cuda", **options})


@pytest.mark.gpu
@pytest.mark.transformers
async def test_dynamic_batches_answer_word_for_word_on_a_gpu(cuda: Callable[..., GenaiBatching]) -> None:
    """Rows come and go within a batch of sixteen; the device is the one that was promised, graphs are captured."""
    with started(lambda: cuda(rows=16)) as (loop, made, failures):
        together = await asyncio.gather(*(answer(loop, job()) for _ in range(40)))
        assert [text for text, _, _ in together] == [ANSWER] * 40
        assert made[0].describe()["kernels"].endswith("Engine, dynamic batching")
        assert (loop.device.startswith("cuda"), made[0].describe()["cuda_graphs"], failures) == (True, True, [])


@pytest.mark.gpu
@pytest.mark.transformers
async def test_seeds_repeat_on_a_gpu(cuda: Callable[..., GenaiBatching]) -> None:
    """The same seed gives the same text, another one another."""
    with started(lambda: cuda()) as (loop, _, _failures):
        assert loop.capabilities.seed
        texts = [(await answer(loop, job(most=40, sampling=Sampling(temperature=2.0, seed=seed))))[0] for seed in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]


@pytest.mark.gpu
@pytest.mark.transformers
async def test_prefixes_are_shared_only_where_isolation_is_off(cuda: Callable[..., GenaiBatching]) -> None:
    """The library shares between all callers or none."""
    long = (PROMPT * 60)[:600]  # two of the build's blocks and some
    with started(lambda: cuda(context=1024, prefix_isolation=False)) as (loop, _, _failures):
        usages = [(await answer(loop, job(long, 3)))[2] for _ in range(2)]
        assert [usage and usage.cached_tokens for usage in usages] == [0, 512]
    with started(lambda: cuda(context=1024)) as (loop, _, _failures):
        usages = [(await answer(loop, job(long, 3)))[2] for _ in range(2)]
        assert [usage and usage.cached_tokens for usage in usages] == [0, 0]
