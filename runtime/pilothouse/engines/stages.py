"""Which places of a graph part it into stages, between which a piece of a prompt can rest (`paged_stages`, `slots_stages`)."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

LEAST = 2  # places: with fewer a piece would be small, and nearly all it costs in one stage
MOST = 16  # stages: each costs some copies of small tensors a step

Place = TypeVar("Place")


def choose(places: Sequence[Place], behind: Mapping[str, int], *, every: int = 1) -> tuple[list[Place], dict[str, int]]:
    """The places that are used, evenly chosen, and each attention's stage. `behind` says for each attention how many places are before it; a stage
    is `every` so many halves of a layer at least."""
    last = max(behind.values(), default=0)
    useful = list(places[: last + 1])  # behind the last attention's own half there is only the head
    if len(useful) < LEAST:
        useful = []
    every = max(every, -(-(len(useful) + 1) // MOST))
    return useful[every - 1 :: every], {name: count // every if useful else 0 for name, count in behind.items()}
