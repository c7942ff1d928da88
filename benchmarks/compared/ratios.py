"""Ratios of Pilothouse over everyone else, of one block and one point each, summed up over blocks; and what changed since another time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from client.answer import Answer
from client.summary import Numbers
from results import Range, spread

from compared.kept import Measured
from compared.scenarios import Point, Scenario

CHANGED = 0.05


@dataclass(frozen=True)
class Value:
    """A metric of one arm at one point in one block."""

    point: str
    arm: str
    block: int
    numbers: Numbers


def reader(scenario: Scenario, label: str) -> Callable[[Sequence[Answer]], Numbers]:
    points: Iterable[Point] = (*scenario.quick, *scenario.full)
    return next(point.read for point in points if point.label == label)


def values(scenario: Scenario, runs: Sequence[Measured]) -> list[Value]:
    """Of the runs that count."""
    return [Value(run.point, run.arm, run.block, reader(scenario, run.point)(run.answers)) for run in runs if not run.failed]


def of(found: Sequence[Value], point: str, arm: str, metric: str) -> dict[int, float]:
    """By block. Points that were measured twice in a block (for other arms) are the same point."""
    return {one.block: one.numbers[metric] for one in found if (one.point, one.arm) == (point, arm) and metric in one.numbers}


def ratio(over: Mapping[int, float], under: Mapping[int, float]) -> Range | None:
    """Of the blocks that have both."""
    both = [over[block] / under[block] for block in over if under.get(block)]
    return spread(both) if both else None


def all_of(found: Sequence[Value], metrics: Sequence[str], ours: str = "pilothouse") -> dict[str, float]:
    """Every kept ratio, by a name that stays: `point / metric / ours over ARM`."""
    told = {}
    for point in dict.fromkeys(one.point for one in found):
        for arm in dict.fromkeys(one.arm for one in found if one.point == point and one.arm != ours):
            for metric in metrics:
                both = ratio(of(found, point, ours, metric), of(found, point, arm, metric))
                if both is not None:
                    told[f"{point} / {metric} / {ours} over {arm}"] = both.median
    return told


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Every ratio that moved by more than 5%, and which way; one that is gone is named as well."""
    told = []
    for name, old in sorted(before.items()):
        new = after.get(name)
        if new is None:
            told.append(f"gone: {name} (was {old:.3f})")
        elif old and abs(new / old - 1) > CHANGED:
            better = (new > old) == (not any(word in name for word in ("ttft", "tpot", "itl")))
            told.append(f"{'better' if better else 'WORSE'}: {name}: {old:.3f} -> {new:.3f} ({new / old - 1:+.0%})")
    return told
