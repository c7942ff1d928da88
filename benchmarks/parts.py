"""What a part of a benchmark is: arms that are measured in turn on the same load, and the ratios that are promised of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from results import Figure

Numbers = dict[str, float]
Run = Callable[[str, int], Numbers]  # an arm and a seed that no other block has


@dataclass
class Opened:
    """A part that is ready: each arm is warm when it is measured. `facts` say what each arm is, once all have been."""

    arms: tuple[str, ...]
    run: Run
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    name: str
    about: str
    open: Callable[[], AbstractContextManager[Opened]]
    figures: list[Figure]
    seconds: int  # of one block, about
