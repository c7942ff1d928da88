"""What a part of a benchmark is: arms that are measured in turn on the same load, and the ratios that are promised of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from results import Figure

Numbers = dict[str, float]
Run = Callable[[str, int], Numbers]  # an arm and a seed that no other block, and no other turn, has


@dataclass
class Opened:
    """A part that is ready. Every arm is loaded and warm, within `anew` where a block begins with it. `facts` say what each arm is, once a block is
    through. A block has so many `turns` of all arms; of what they tell, medians count."""

    arms: tuple[str, ...]
    run: Run
    facts: dict[str, Any] = field(default_factory=dict)
    anew: Callable[[], AbstractContextManager[Any]] = nullcontext
    turns: int = 1


@dataclass(frozen=True)
class Part:
    name: str
    about: str
    open: Callable[[], AbstractContextManager[Opened]]
    figures: list[Figure]
    seconds: int  # of one block, about
