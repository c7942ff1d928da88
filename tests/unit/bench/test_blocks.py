"""A block of a part: what it starts, in which order it asks, and what of the answers counts."""

from collections.abc import Iterator
from contextlib import contextmanager

import machine
import pytest
from parts import Numbers, Opened

import engines


class Quiet:
    """A machine that nobody else uses."""

    others = 0.0

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "Watch", Quiet)


def test_a_block_starts_its_arms_once_and_asks_them_there_and_back() -> None:
    """The next block begins with the other end. No two turns have a seed in common, of any two blocks."""
    said: list[str] = []
    seeds: list[int] = []

    @contextmanager
    def anew() -> Iterator[None]:
        said.append("start")
        yield
        said.append("stop")

    def run(arm: str, seed: int) -> Numbers:
        said.append(arm)
        seeds.append(seed)
        return {"rate": 1.0}

    opened = Opened(("a", "b"), run, anew=anew, turns=3)
    engines.block(opened, 0, 70)
    engines.block(opened, 1, 71)

    assert said == ["start", *"abbaab", "stop", "start", *"baabba", "stop"]
    assert seeds == [seed for seed in range(210, 216) for _ in range(2)]


def test_of_a_blocks_turns_medians_count() -> None:
    """Of each figure by itself; one turn in which the machine did something else does not show."""
    rates = {"a": iter([1.0, 50.0, 3.0]), "b": iter([7.0, 8.0, 0.1])}
    opened = Opened(("a", "b"), lambda arm, seed: {"rate": next(rates[arm]), "seed": float(seed)}, turns=3)
    told = engines.block(opened, 0, 10)

    assert {arm: (one["rate"], one["seed"]) for arm, one in told.items()} == {"a": (3.0, 31.0), "b": (7.0, 31.0)}


@pytest.mark.parametrize(("seen", "tries", "told"), [([0.1, 0.0], 2, 0.1), ([0.5, 0.2, 0.3, 0.1], 4, 0.2), ([0.5, 0.0, 0.12], 3, 0.12)])
def test_a_disturbed_run_is_made_again_and_the_worst_that_counts_is_told(
    monkeypatch: pytest.MonkeyPatch, seen: list[float], tries: int, told: float
) -> None:
    """Up to twice; of its tries the quietest counts, and of a block's turns the one in which others had most of the machine is named."""
    shares, runs = iter(seen), []

    class Watched(Quiet):
        def __enter__(self) -> "Watched":
            self.others = next(shares)
            return self

    def run(arm: str, seed: int) -> Numbers:
        runs.append(seed)
        return {"rate": 1.0}

    monkeypatch.setattr(machine, "Watch", Watched)
    found = engines.block(Opened(("a",), run, turns=2), 0, 5)

    assert (len(runs), found["a"]["others"]) == (tries, told)
