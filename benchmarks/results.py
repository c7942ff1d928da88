"""What was measured, kept as JSON: parts of blocks of arms. Ratios are made within a block and summed up over blocks."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINES = Path(__file__).parent / "results" / "engines"  # what bench-engines keeps, a file for each kind of machine
Block = dict[str, dict[str, float]]  # arm -> metric -> value


@dataclass(frozen=True)
class Figure:
    """A ratio that has a goal. `over` and `under` are (arm, metric); arm "auto" is the engine that auto takes, "better" the better of ours."""

    text: str
    over: tuple[str, str]
    under: tuple[str, str] | None
    goal: float
    at_least: bool = True
    needs: str | None = None  # "int8": only promised with int8 dot products, "no int8": only without


@dataclass(frozen=True)
class Range:
    median: float
    least: float
    most: float
    count: int

    def __str__(self) -> str:
        return _short(self.median) + (f" ({_short(self.least)} to {_short(self.most)})" if self.count > 1 else "")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def spread(values: list[float]) -> Range:
    return Range(statistics.median(values), min(values), max(values), len(values))


def value_of(block: Block, what: tuple[str, str], auto: str) -> float | None:
    arm, metric = what
    if arm == "better":
        found = [block[one][metric] for one in ("paged", "slots") if metric in block.get(one, {})]
        return max(found) if found else None
    return block.get(auto if arm == "auto" else arm, {}).get(metric)


def ratio(figure: Figure, blocks: list[Block], auto: str) -> Range | None:
    """Over blocks that have both sides; None without one."""
    found = []
    for block in blocks:
        over = value_of(block, figure.over, auto)
        under = value_of(block, figure.under, auto) if figure.under else 1.0
        if over is not None and under:
            found.append(over / under)
    return spread(found) if found else None


def verdict(figure: Figure, told: Range, features: list[str]) -> str:
    int8 = bool({"vnni", "amx"} & set(features))
    if figure.needs and (figure.needs == "int8") != int8:
        return "not promised here"
    good = told.median >= figure.goal if figure.at_least else told.median <= figure.goal
    return "yes" if good else "NO"


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def save(file: Path, kept: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def arms_table(part: dict[str, Any]) -> list[str]:
    """Every arm's own numbers, medians with ranges over blocks."""
    blocks: list[Block] = part["blocks"]
    arms = list(dict.fromkeys(arm for block in blocks for arm in block))
    metrics = list(dict.fromkeys(name for block in blocks for arm in block.values() for name in arm if name != "others"))
    lines = [f"| | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
    for arm in arms:
        cells = []
        for metric in metrics:
            values = [block[arm][metric] for block in blocks if metric in block.get(arm, {})]
            cells.append(str(spread(values)) if values else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def figures_table(figures: list[Figure], part: dict[str, Any]) -> list[str]:
    """Each promised ratio, what it is here, and whether that is enough."""
    lines = ["| figure | here | goal | met |", "|---|---|---|---|"]
    for figure in figures:
        told = ratio(figure, part["blocks"], part["auto"])
        if told is not None:
            sign = "at least" if figure.at_least else "at most"
            lines.append(f"| {figure.text} | {told} | {sign} {figure.goal:g} | {verdict(figure, told, part['machine']['features'])} |")
    return lines


def engines() -> dict[str, dict[str, Any]]:
    """All that is kept in `ENGINES`, by the machines' kind."""
    return {file.stem: load(file) for file in sorted(ENGINES.glob("*.json"))}
