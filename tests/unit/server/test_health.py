"""Liveness and readiness, by hand-set numbers and a hand-set clock."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pilothouse.engines.base import Stats
from pilothouse.server.health import Health, Phase

IDLE = Stats(waiting=0, running=0, rows=4, kv_used=0.0, alive=True, steps=5, idle=True)
BUSY = replace(IDLE, running=1, idle=False)


@dataclass
class Model:
    """A model whose engine's numbers the test sets."""

    name: str = "m"
    ready: bool = True
    numbers: Stats = IDLE
    facts: dict[str, Any] = field(default_factory=lambda: {"device": "cpu"})

    def stats(self) -> Stats:
        return self.numbers

    def describe(self) -> dict[str, Any]:
        return self.facts


@dataclass
class Plain:
    """A foreign MLServer model: it has neither stats nor facts."""

    name: str = "p"
    ready: bool = True


def serving(*models: Any, **options: Any) -> Health:
    health = Health(lambda: models, **{"stall_seconds": 10.0, **options})
    health.phase = Phase.SERVING
    return health


def test_no_model_is_not_ready() -> None:
    """An empty registry takes no traffic, before the start is over and after."""
    health = Health(list, stall_seconds=1)
    assert health.unready() == "the model is loading"
    health.phase = Phase.SERVING
    assert health.unready() == "no model is loaded"


def test_every_model_must_be_ready() -> None:
    """One that loads, or whose engine died, is named."""
    first, second = Model(), Model("n", ready=False)
    health = serving(first, second)
    assert health.unready() == "model n is loading"
    second.ready, second.numbers = True, replace(IDLE, alive=False)
    assert health.unready() == "the engine of model n is not alive"
    second.numbers = IDLE
    assert health.unready() is None


@pytest.mark.parametrize(
    ("found", "promised", "fits"), [("cpu", "cuda", False), ("cuda:0", "cuda", True), ("cuda", "auto", True), ("cpu", "cpu", True)]
)
def test_the_promised_device_is_a_condition(found: str, promised: str, fits: bool) -> None:
    """With cuda promised, a model on the CPU is not ready."""
    health = serving(Model(facts={"device": found}), device=promised)
    assert (health.unready() is None) == fits


def test_a_model_that_loads_is_not_asked_for_facts() -> None:
    """Stats and facts exist once a model is loaded."""
    model = Model(ready=False)
    model.describe = model.stats = lambda: pytest.fail("asked too early")  # type: ignore[method-assign]
    health = serving(model, device="cuda")
    assert health.unready() == "model m is loading"
    assert health.stalled() is None


def test_a_foreign_model_is_judged_by_its_own_word() -> None:
    """A plain MLServer runtime is ready when it says so, on whatever device, and never stalled."""
    health = serving(Plain(), device="cuda")
    assert (health.unready(), health.stalled()) == (None, None)


def test_leaving_is_not_ready_and_still_live() -> None:
    """A server on its way out says so; its model could still answer."""
    model = Model()
    health = serving(model)
    for phase in (Phase.LEAVING, Phase.CLOSED):
        health.phase = phase
        assert (health.unready(), health.unfit(model), health.stalled()) == (f"the server is {phase.value}", None, None)
        assert health.leaving


def test_work_without_progress_is_a_stall() -> None:
    """Not before the time is over, counted from when the work was first seen to stand still."""
    model = Model(numbers=BUSY)
    health = serving(model)
    assert [health.stalled(now) for now in (0.0, 9.9)] == [None, None]
    assert health.stalled(10.0) == "the engine of m has made no progress for 10 s with work to do"


def test_progress_and_idleness_are_no_stall() -> None:
    """A step, or nothing to do, starts the clock anew; a long rest before the work does not count."""
    model = Model()
    health = serving(model)
    assert health.stalled(0.0) is None
    model.numbers = BUSY
    assert [health.stalled(now) for now in (100.0, 109.0)] == [None, None]
    model.numbers = replace(BUSY, steps=6)
    assert [health.stalled(now) for now in (115.0, 116.0, 125.0)] == [None, None, None]
    model.numbers = replace(IDLE, steps=6)
    assert health.stalled(200.0) is None


async def test_a_watcher_sees_each_change_once_and_the_end() -> None:
    """Phases wake it; an engine's death, which sends no event, is seen by looking."""
    model = Model(ready=False)
    health = serving(model)
    seen: list[str | None] = []

    async def watch() -> None:
        async for reason in health.watch():
            seen.append(reason)
            match len(seen):
                case 1:
                    model.ready = True
                case 2:
                    model.numbers = replace(IDLE, alive=False)
                case 3:
                    health.phase = Phase.LEAVING
                case 4:
                    health.phase = Phase.CLOSED

    await asyncio.wait_for(watch(), 10)
    assert seen == ["model m is loading", None, "the engine of model m is not alive", "the server is draining", "the server is stopped"]
