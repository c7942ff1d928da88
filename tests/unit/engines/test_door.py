"""The queue's bounds: by jobs, by prompt tokens, by tenant; and what becomes of it when a step hangs."""

import pytest

from pilothouse.engines.faults import Faults, Gate
from pilothouse.errors import EngineFailed, NotReady, Overloaded
from support.scripted_loop import ScriptedLoop, engine, job


def at_the_gate(**options: object) -> tuple[ScriptedLoop, Gate]:
    """A started loop whose steps need leave."""
    gate = Gate()
    loop = engine(faults=Faults(gate=gate), **options)
    loop.start()
    gate.shut()
    return loop, gate


async def test_waiting_prompts_are_bounded_by_their_tokens() -> None:
    """What has a row counts no more; one that waits alone may be of any length; a refusal costs nobody a place."""
    loop, gate = at_the_gate(rows=1, queue=8, queue_tokens=10)
    try:
        kept = [loop.generate(job((1,) * 20))]
        gate.reached()
        kept.append(loop.generate(job((1,) * 20)))
        with pytest.raises(Overloaded, match="10 prompt tokens"):
            loop.generate(job((1,)))
        await kept.pop().aclose()
        gate.allow()
        gate.reached()
        kept += [loop.generate(job((1,) * 5)) for _ in range(2)]
        with pytest.raises(Overloaded, match="10 prompt tokens"):
            loop.generate(job((1,)))
        with pytest.raises(Overloaded, match="10 prompt tokens"):
            loop.reserve(1)
        assert loop.stats().waiting == 2
    finally:
        gate.open()
        loop.stop()


async def test_a_tenant_leaves_places_to_others() -> None:
    """One that sends without end holds three quarters of the queue; each that comes then finds a place, down to the last."""
    loop, gate = at_the_gate(rows=1, queue=16)

    def fill(tenant: str) -> int:
        taken = 0
        try:
            while True:
                kept.append(loop.generate(job(tenant=tenant)))
                taken += 1
        except Overloaded as error:
            refusals.append(error.message)
        return taken

    kept = [loop.generate(job(tenant="first"))]
    refusals: list[str] = []
    try:
        gate.reached()
        assert [fill(tenant) for tenant in ("greedy", "second", "third", "fourth", "fifth")] == [12, 3, 1, 0, 0]
        assert refusals[:3] == ["this API key has its share of the queue; the rest is for others: try again later"] * 2 + [
            "the queue is full (16 may wait); try again later"
        ]
    finally:
        gate.open()
        loop.stop()


async def test_without_keys_the_queue_is_one() -> None:
    """Nobody is a tenant there, and the whole queue is everybody's."""
    loop, gate = at_the_gate(rows=1, queue=16)
    try:
        kept = [loop.generate(job())]
        gate.reached()
        kept += [loop.generate(job()) for _ in range(16)]
        with pytest.raises(Overloaded, match="16 may wait"):
            loop.generate(job())
    finally:
        gate.open()
        loop.stop()


async def test_a_step_that_is_given_up_ends_everybody() -> None:
    """Who ran hears that the engine failed, who waited that it is not running; nobody is let in; and it is not idle."""
    loop, gate = at_the_gate(rows=1)
    try:
        running = loop.generate(job())
        gate.reached()
        waiting = loop.generate(job())
        loop.give_up()
        with pytest.raises(EngineFailed):
            await anext(running)
        with pytest.raises(NotReady):
            await anext(waiting)
        with pytest.raises(NotReady):
            loop.generate(job())
        stats = loop.stats()
        assert (stats.alive, stats.idle, stats.waiting) == (False, False, 0)
    finally:
        gate.open()
        loop.stop()


async def test_a_step_that_comes_back_is_answered_with_a_new_engine() -> None:
    """And the next job is served as ever."""
    loop, gate = at_the_gate(rows=2)
    try:
        left = [loop.generate(job()) for _ in range(3)]
        gate.reached()
        loop.give_up()
        gate.open()
        for stream in left:
            with pytest.raises((EngineFailed, NotReady)):
                await anext(stream)
        while not loop.stats().alive:
            gate.allow()
        assert [chunk async for chunk in loop.generate(job(max_tokens=3))][-1].usage is not None
        assert [step.closed for step in loop.made] == [True, False]
        assert loop.stats().idle or loop.stats().running == 0
    finally:
        loop.stop()
