"""One entry of the record: what was tried, and what each host did, word for word."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from record.sides import Side

Seen = dict[str, str]
"""What was tried -> what happened, in words that do not change from run to run: no times, no ids."""

Observe = Callable[["Side"], Awaitable[Seen]]


@dataclass(frozen=True)
class Case:
    """`stock` and `ours` have the same keys. `good`: the entry records what the host does well, so the two may be equal."""

    id: str
    title: str
    observe: Observe
    stock: Seen
    ours: Seen
    good: bool = False

    @property
    def differs(self) -> list[str]:
        """What was tried and came out differently."""
        return [tried for tried in self.stock if self.stock[tried] != self.ours[tried]]


CASES: list[Case] = []


def case(entry: str, title: str, looks: dict[str, tuple[str, str]], *, good: bool = False) -> Callable[[Observe], Observe]:
    """Enter an observer into the record. `looks`: what is tried -> (what stock does, what ours does)."""

    def enter(observe: Observe) -> Observe:
        stock, ours = ({tried: said[side] for tried, said in looks.items()} for side in (0, 1))
        CASES.append(Case(entry, title, observe, stock, ours, good))
        return observe

    return enter
