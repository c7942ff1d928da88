"""docs/benchmarks.md: how it is measured, and every goal beside what each kind of machine showed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
import makers

from compared import kept, page, ratios
from compared.goals import GOALS
from compared.scenarios import SCENARIOS

PAGE = page.DOCS / "benchmarks.md"
HEAD = Path(__file__).with_name("head.md")


def folders(root: Path = kept.FOLDER) -> list[Path]:
    """One for each kind of machine that was measured, the best kind first; `KIND-what` is another machine or model of that kind."""
    kinds = (*machine.KINDS, "plain")
    found = {file.parent: file.parent.name.partition("-")[0] for file in root.glob("*/facts.json")}
    return sorted((folder for folder, kind in found.items() if kind in kinds), key=lambda folder: (kinds.index(found[folder]), folder.name))


def _column(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """What each goal came to there."""
    found = {name: ratios.values(scenario, kept.load(folder, name)) for name, scenario in SCENARIOS.items()}
    judged = [goal.judge(found, facts.get("parts", {}), facts["machine"]["features"]) for goal in GOALS]
    return [word if told is None else f"{told}: {word}" for told, word in judged]


def _depth(facts: Mapping[str, Any]) -> str:
    """How many of its layers the model has, where it is not the slice."""
    return "" if facts.get("layers", makers.SLICE) == makers.SLICE else f"; {facts['layers']} layers"


def make(root: Path = kept.FOLDER, out: Path = PAGE) -> None:
    """Write it."""
    kinds = folders(root)
    known = {folder.name: kept.facts(folder) for folder in kinds}
    told = [HEAD.read_text().rstrip(), "", "## Machines", ""]
    told += [f"- [{kind}](benchmarks-{kind}.md): {machine.line(facts['machine'])}{_depth(facts)}." for kind, facts in known.items()]
    told += ["", "## Goals", "", f"| | goal | wanted | {' | '.join(known)} |", f"|---|---|---|{'---|' * len(known)}"]
    columns = [_column(folder, known[folder.name]) for folder in kinds]
    for goal, *cells in zip(GOALS, *columns, strict=True):
        told.append(f"| {goal.id} | {goal.text} | {goal.wanted} | {' | '.join(cells)} |")
    told += ["", "Why a goal is missed stands on the machine's own page."]
    out.write_text("\n".join(told) + "\n")
