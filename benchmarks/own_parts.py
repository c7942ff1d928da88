"""Our engines against themselves, in this process: what a feature gains and what it costs."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import makers
import numpy as np
import uvloop
from dictated import Dictated
from parts import Numbers, Opened, Part
from peers import ours
from peers.loads import Request, Told, even, mixed, words
from raw_batch import RawBatch
from results import Figure, spread

from pilothouse.engines.base import Capabilities, StepEngine, Work
from pilothouse.engines.loop import Loop
from pilothouse.engines.paged import PagedStep
from pilothouse.engines.paged_rows import Rows
from pilothouse.messages import Sampling
from pilothouse.settings import Settings

GREEDY = Sampling(temperature=0.0)
KINDS = ("paged", "slots")
KV = 3 << 30


def _settings(engine: str, **changes: Any) -> Settings:
    plain = {"engine": engine, "rows": 16, "context_tokens": 4096, "kv_memory_bytes": KV, "speculation": False}
    return Settings(**{**plain, **changes})


class Lent:
    """An engine that several arms use in turn. Two of one kind differ by 5 % and more, by where their memory happens to lie."""

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        """Who made the engine closes it."""


@contextmanager
def _engines() -> Iterator[dict[str, Any]]:
    """One engine of each kind, lent. Memory that it keeps was written to once, as all of it is some time after a start: whoever writes first waits until
    the system gives it, and arms would have more and less of that."""
    engines = {name: ours.engine_of(makers.model("onnx"), _settings(name))() for name in KINDS}
    engines["slots"]._store._arrays[:] = 0
    for tensor in engines["paged"]._kv._tensors:
        tensor.data[:] = 0
    try:
        yield {name: Lent(engine) for name, engine in engines.items()}
    finally:
        for engine in engines.values():
            engine.close()


@contextmanager
def _loops(wanted: dict[str, Settings], engines: Mapping[str, Any] | None = None, **options: Any) -> Iterator[dict[str, Loop]]:
    """A loop for each of `wanted`, warm; on the engine of its name where `engines` has one."""
    loops: dict[str, Loop] = {}
    try:
        for name, settings in wanted.items():
            make = (lambda engine=engines[name]: engine) if engines else None
            loops[name] = ours.loop_of(makers.model("onnx"), settings, make, **options)
            _ask(loops[name], even(-1, 16, 24, 4))
        yield loops
    finally:
        for loop in loops.values():
            loop.stop()


def _ask(loop: Loop, requests: list[Request], sampling: Sampling = GREEDY) -> Told:
    return uvloop.run(ours.run(loop, requests, sampling))


# -- overhead ------------------------------------------------------------------------------------------------------------------


def bare(engine: StepEngine, requests: list[Request]) -> float:
    """Tokens a second of the bare steps of full batches: no sampling, no text, the same tokens fed over and over."""
    for row, request in enumerate(requests):
        engine.admit(row, request.prompt, "bare")
        engine.extend(row, len(request.prompt))
        engine.step([Work(row, request.prompt, 1)])
    work, steps = [Work(row, [requests[row].prompt[0]], 1) for row in range(len(requests))], requests[0].tokens - 1
    began = time.perf_counter()
    for _ in range(steps):
        for item in work:
            engine.extend(item.row, 1)
        engine.step(work)
    seconds = time.perf_counter() - began
    for item in work:
        engine.withdraw(item.row)
    return len(work) * steps / seconds


@contextmanager
def overhead() -> Iterator[Opened]:
    """The bare step, our loop with sampling and text over it, and the same drawing with temperature and top-p."""
    drawn = Sampling(temperature=0.8, top_p=0.95, seed=1)
    with _engines() as engines, _loops({name: _settings(name) for name in KINDS}, engines) as loops:
        raw = RawBatch(makers.model("onnx"), rows=16, context=256)

        def run(arm: str, seed: int) -> Numbers:
            requests = even(seed, 16, 24, 32)
            if arm == "raw onnxruntime batch":
                return {"tokens_per_second": raw.rate(24, 32)}
            name, _, way = arm.partition(" ")
            if way == "bare step":
                return {"tokens_per_second": bare(engines[name], requests)}
            return {"tokens_per_second": _ask(loops[name], requests, GREEDY if way == "served" else drawn).steady}

        arms = [f"{name} {way}" for name in KINDS for way in ("bare step", "served", "served, drawn")]
        yield Opened((*arms, "raw onnxruntime batch"), run, turns=6)


def _over(name: str, way: str, under: str, text: str, goal: float) -> Figure:
    return Figure(text, (f"{name} {way}", "tokens_per_second"), (under, "tokens_per_second"), goal)


OVERHEAD = [
    _over("paged", "served", "paged bare step", "paged: loop, sampling and text over the bare step", 0.97),
    _over("slots", "served", "slots bare step", "slots: the same", 0.97),
    _over("slots", "bare step", "raw onnxruntime batch", "slots' step over the raw batched step", 0.95),
    _over("slots", "served", "raw onnxruntime batch", "slots, served, over the raw batched step", 0.95),
    _over("paged", "served, drawn", "paged served", "paged: temperature 0.8 and top-p 0.95 over greedy", 0.97),
]


# -- prefixes ------------------------------------------------------------------------------------------------------------------


class Forgetful(Lent):
    """An engine that keeps no prefixes, in the loop's eyes."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._engine.capabilities, prefix_cache=False)


@contextmanager
def _forgetting(engine: Any) -> Iterator[None]:
    """An engine, idle now, as `prefix_cache: false` has it: the very one, and not another whose memory lies elsewhere."""
    if isinstance(engine, PagedStep):
        told, rows = engine._table, engine._rows
        engine._table = {**told, "prefix_cache": False}
        engine._rows = Rows(**engine._table)
        yield
        engine._table, engine._rows = told, rows
    else:
        store, engine._store = engine._store, None
        yield
        engine._store = store


@contextmanager
def prefix() -> Iterator[Opened]:
    """512 tokens that were computed before and 32 new ones, against 544 new ones; and what looking for prefixes costs where there are none."""
    turns = count()  # an arm that is measured again asks for other words: it would find those of before
    with _engines() as engines:
        lent = {f"{name} {way}": kind(engines[name]._engine) for name in KINDS for way, kind in (("on", Lent), ("off", Forgetful))}
        with _loops({arm: _settings(arm.split()[0]) for arm in lent}, lent) as loops:

            def run(arm: str, seed: int) -> Numbers:
                chance, loop = random.Random(f"{seed} {next(turns)}"), loops[arm]
                if arm.endswith("off"):
                    with _forgetting(lent[arm]._engine):
                        return {"mixed": _ask(loop, mixed(seed, 16)).tokens_per_second}
                numbers = {"mixed": _ask(loop, mixed(seed, 16)).tokens_per_second}
                shared = words(chance, 512)
                cold = [_ask(loop, [Request(words(chance, 544), 1)]).ttft_p50 for _ in range(2)]
                _ask(loop, [Request(shared + words(chance, 32), 1)])
                hits = [_ask(loop, [Request(shared + words(chance, 32), 1)]).ttft_p50 for _ in range(6)]
                return numbers | {"ttft_cold": spread(cold).median, "ttft_hit": spread(hits).median}

            yield Opened(tuple(lent), run, turns=3)


PREFIX = [
    figure
    for name in KINDS
    for figure in (
        Figure(f"{name}: TTFT of a hit over cold", (f"{name} on", "ttft_hit"), (f"{name} on", "ttft_cold"), 0.1, at_least=False),
        Figure(f"{name}: tokens/s without hits, cache on over off", (f"{name} on", "mixed"), (f"{name} off", "mixed"), 0.99),
    )
]


# -- a long prompt beside answers -------------------------------------------------------------------------------------------


@contextmanager
def stall() -> Iterator[Opened]:
    """8 answers, and then a prompt of 2048 tokens: gaps between their tokens while it is computed, and in the three seconds before and after it:
    answers grow meanwhile, and each of their tokens costs more."""
    turns = count()  # as above
    with _loops({name: _settings(name) for name in KINDS}) as loops:

        async def beside(loop: Loop, seed: int) -> Numbers:
            chance, began = random.Random(f"{seed} {next(turns)}"), time.perf_counter()
            stop, going = asyncio.Event(), asyncio.Event()
            times: list[list[float]] = [[] for _ in range(8)]

            async def stream(index: int) -> None:
                request = Request(words(chance, 16), 3000)
                async with _closing(loop, index, request) as chunks:
                    async for chunk in chunks:
                        times[index].extend([time.perf_counter() - began] * len(chunk.tokens))
                        if min(map(len, times)) >= 8:
                            going.set()
                        if stop.is_set():
                            return

            tasks = [asyncio.create_task(stream(index)) for index in range(8)]
            await going.wait()
            quiet_from = time.perf_counter() - began
            await asyncio.sleep(3.0)
            sent = time.perf_counter() - began
            async for _ in loop.generate(ours.job(99, Request(words(chance, 2048), 1), GREEDY)):
                pass
            first = time.perf_counter() - began
            await asyncio.sleep(3.0)
            until = time.perf_counter() - began
            stop.set()
            await asyncio.gather(*tasks)
            told = Told(times, first)
            quiet, loud = [*told.gaps(quiet_from, sent), *told.gaps(first, until)], told.gaps(sent, first)
            return {
                "quiet_p95": float(np.percentile(quiet, 95)), "beside_p95": float(np.percentile(loud, 95)),
                "quiet_p50": float(np.median(quiet)), "beside_p50": float(np.median(loud)), "ttft_long": first - sent,
            }  # fmt: skip

        yield Opened(KINDS, lambda arm, seed: uvloop.run(beside(loops[arm], seed)))


@contextlib.asynccontextmanager
async def _closing(loop: Loop, number: int, request: Request) -> AsyncIterator[Any]:
    chunks = loop.generate(ours.job(number, request, GREEDY))
    try:
        yield chunks
    finally:
        await chunks.aclose()


STALL = [
    Figure(f"{name}: gap p95 beside a 2048-token prompt over quiet", (name, "beside_p95"), (name, "quiet_p95"), 1.5, at_least=False)
    for name in KINDS
]


# -- clients that leave ------------------------------------------------------------------------------------------------------


def _note_steps(loops: dict[str, Loop], name: str, left: list[int]) -> None:
    left.append(loops[name].stats().steps)


@contextmanager
def cancel() -> Iterator[Opened]:
    """16 answers of which 8 are left after 0 to 10 tokens, against 8 answers alone: the others' rate, and steps until a row is free."""
    left: list[int] = []
    loops: dict[str, Loop] = {}
    with ExitStack() as stack:
        for name in KINDS:
            hear = partial(_note_steps, loops, name, left)
            loops |= stack.enter_context(_loops({name: _settings(name)}, on_cancel=hear))

        async def storm(loop: Loop, seed: int) -> Numbers:
            chance, began = random.Random(seed), time.perf_counter()
            said: list[int] = []
            left.clear()

            async def stay(number: int) -> list[float]:
                times: list[float] = []
                async for chunk in loop.generate(ours.job(number, Request(words(chance, 16), 96), GREEDY)):
                    times.extend([time.perf_counter() - began] * len(chunk.tokens))
                return times

            async def leave(number: int, after: int) -> float:
                async with _closing(loop, number, Request(words(chance, 16), 96)) as chunks:
                    while after > 0:
                        after -= len((await anext(chunks)).tokens)
                    said.append(loop.stats().steps)
                return time.perf_counter() - began

            staying = [stay(number) for number in range(8)]
            leaving = [leave(100 + number, chance.randint(1, 10)) for number in range(8)]
            *stayed, ends = await asyncio.gather(*staying, asyncio.gather(*leaving))
            told = Told(list(stayed), time.perf_counter() - began)
            begin, end = max(ends), min(times[-1] for times in told.times)
            after = sum(begin < at <= end for times in told.times for at in times) / (end - begin)
            late = [gone - asked for asked, gone in zip(sorted(said), sorted(left), strict=True)]
            return {"tokens_per_second": after, "steps_until_free": float(max(late)), "leaked_rows": float(loop.stats().running)}

        def run(arm: str, seed: int) -> Numbers:
            name, _, way = arm.partition(" ")
            if way == "storm":
                return uvloop.run(storm(loops[name], seed))
            return {"tokens_per_second": _ask(loops[name], even(seed, 8, 16, 96)).steady}

        yield Opened(tuple(f"{name} {way}" for name in KINDS for way in ("alone", "storm")), run)


CANCEL = [
    figure
    for name in KINDS
    for figure in (
        Figure(f"{name}: those who stay, tokens/s over alone", (f"{name} storm", "tokens_per_second"), (f"{name} alone", "tokens_per_second"), 0.95),
        Figure(f"{name}: steps until a left row is free", (f"{name} storm", "steps_until_free"), None, 1, at_least=False),
    )
]  # fmt: skip


# -- guessing ahead ------------------------------------------------------------------------------------------------------------


@contextmanager
def lookup() -> Iterator[Opened]:
    """One row whose text is dictated: an answer that quotes its prompt, and one of random words; drafts on and off."""
    script: dict[tuple[int, ...], list[int]] = {}
    wanted = {f"{name} {way}": _settings(name, speculation=way == "drafts") for name in KINDS for way in ("drafts", "plain")}
    with _engines() as engines, _loops(wanted, {arm: Dictated(engines[arm.split()[0]], script) for arm in wanted}) as loops:

        def run(arm: str, seed: int) -> Numbers:
            numbers = {}
            for kind in ("repeating", "fresh"):
                chance = random.Random(f"{seed} {kind}")
                prompt = words(chance, 160)
                text = prompt[:128] if kind == "repeating" else words(chance, 128)
                script[tuple(prompt)] = text
                numbers[kind] = _ask(loops[arm], [Request(prompt, len(text))]).steady
                script.clear()
            return numbers

        yield Opened(tuple(wanted), run, turns=4)


LOOKUP = [
    Figure(f"{name}: drafts on over off, {text}", (f"{name} drafts", kind), (f"{name} plain", kind), goal)
    for name in KINDS
    for kind, text, goal in (("repeating", "an answer that quotes its prompt", 1.5), ("fresh", "an answer that repeats nothing", 0.97))
]


PARTS = [
    Part("overhead", "16 rows, 32 tokens each, six times in turn: the bare step, and what is around it", overhead, OVERHEAD, 140),
    Part("prefix", "512 shared tokens and 32 new ones; mixed load without anything shared", prefix, PREFIX, 85),
    Part("stall", "8 answers beside a prompt of 2048 tokens; seconds; quiet is before it and after it", stall, STALL, 66),
    Part("cancel", "16 answers of which 8 are left after 1 to 10 tokens", cancel, CANCEL, 35),
    Part("lookup", "one row, drafts by prompt lookup on and off; tokens a second", lookup, LOOKUP, 75),
]
