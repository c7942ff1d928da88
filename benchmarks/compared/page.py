"""One kind of machine's page and its plots, made from what is kept: no figure is on the page that is not in a file beside it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import makers
from results import spread

from compared import kept, ratios
from compared.goals import GOALS, IRRELEVANT, MET, Found
from compared.kept import Measured
from compared.part_tables import TABLES
from compared.parts import PARTS
from compared.plots import Plot, write
from compared.ratios import Value
from compared.scenarios import SCENARIOS, Scenario

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "pictures" / "benchmarks"
MILLISECONDS = ("ttft", "tpot", "itl", "e2e")
NAMES = {
    "tokens_per_second": "tokens/s", "requests_per_second": "requests/s", "goodput_1000_50": "goodput 1 s/50 ms",
    "goodput_2000_100": "goodput 2 s/100 ms", "hit_cached": "of a hit cached", "itl_p95_ratio": "beside over quiet",
    "survivors_per_second": "tokens/s of those who stay",
}  # fmt: skip
PLOTS = {
    "S2": ("clients", (("tokens_per_second", "tokens/s"), ("ttft_p50", "TTFT p50, s"), ("tpot_p50", "TPOT p50, s"))),
    "S3": ("requests offered, of Pilothouse's best rate", (("goodput_2000_100", "requests/s within 2 s and 100 ms"),)),
}


def _name(metric: str) -> str:
    if metric in NAMES:
        return NAMES[metric]
    words = metric.replace("_", " ")
    for short in MILLISECONDS:
        words = words.replace(short, short.upper())
    return f"{words}, ms"


def _cell(metric: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    timed = any(word in metric for word in MILLISECONDS) and "ratio" not in metric
    return str(spread([value * 1000 for value in values] if timed else list(values)))


def table(scenario: Scenario, runs: Sequence[Measured]) -> list[str]:
    """Medians over blocks with their ranges; failed points say so."""
    found = ratios.values(scenario, runs)
    lines = [
        f"| | | {' | '.join(_name(metric) for metric in scenario.shown)} | {_name(_first(scenario))}, of Pilothouse's |",
        f"|---|---|{'---|' * len(scenario.shown)}---|",
    ]
    for point in dict.fromkeys(run.point for run in runs):
        for arm in dict.fromkeys(run.arm for run in runs if run.point == point):
            per = [list(ratios.of(found, point, arm, metric).values()) for metric in scenario.shown]
            if not any(per):
                why = next(run.failed for run in runs if (run.point, run.arm) == (point, arm))
                lines.append(f"| {point} | {arm} | failed: {why[:100].replace('|', '/').splitlines()[0]} {'| ' * len(scenario.shown)}|")
                continue
            share = ratios.ratio(ratios.of(found, point, arm, _first(scenario)), ratios.of(found, point, "pilothouse", _first(scenario)))
            cells = [_cell(metric, values) for metric, values in zip(scenario.shown, per, strict=True)]
            lines.append(f"| {point} | {arm} | {' | '.join(cells)} | {'' if arm == 'pilothouse' or share is None else share} |")
    return lines


def _first(scenario: Scenario) -> str:
    """The metric that the last column compares."""
    return "goodput_2000_100" if scenario.id == "S3" else scenario.shown[0]


def quality(runs: Sequence[Measured]) -> str:
    """What stands beside a table: when it was measured, in how many blocks, what neighbours had, what the client used, what was late."""
    others = spread([run.others for run in runs])
    client = max(run.client_cpu for run in runs)
    late = sum(one.sent - one.due > 0.005 for run in runs for one in run.answers)
    count, blocks = sum(len(run.answers) for run in runs), len({run.block for run in runs})
    return (
        f"{_when(run.date for run in runs)}{blocks} block{'s' if blocks > 1 else ''}, {count} requests; others had {others.median:.0%} of the machine (at most {others.most:.0%}), "
        f"the client at most {client:.1%} of a core; {late} requests were sent late."
    )


def _when(dates: Iterable[str]) -> str:
    """The days of what stands together, to begin a line with; nothing where none is known."""
    days = sorted({date for date in dates if date})
    return f"{' and '.join(dict.fromkeys((days[0], days[-1])))}: " if days else ""


def goals(found: Found, parts: Mapping[str, Any], features: Sequence[str], reasons: Mapping[str, str]) -> list[str]:
    lines = ["| | goal | wanted | here | met | why not |", "|---|---|---|---|---|---|"]
    for goal in GOALS:
        told, word = goal.judge(found, parts, features)
        why = "" if word in (MET, IRRELEVANT) else reasons.get(goal.text, "")
        if word != IRRELEVANT:
            lines.append(f"| {goal.id} | {goal.text} | {goal.wanted} | {told or ''} | {word} | {why} |")
    return lines


def arms(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, told in facts.get("arms", {}).items():
        bits = f", {told['bits_per_weight']} bits a weight" if "bits_per_weight" in told else ""
        lines += [f"- **{name}**: {told['name']} ({told['version']}{bits}). Tuning: {told['tuning']}."]
        if told["command"] != "in process":
            lines += ["  ```text", f"  {told['command']}", "  ```"]
    lines += [f"- **{name}**: not measured: {why}" for name, why in facts.get("missing", {}).items()]
    return lines


def plot(scenario: Scenario, found: Sequence[Value], folder: Path, write_plot: Callable[[Path, Plot], None] = write) -> list[str]:
    """The scenario's pictures, and where the page shows them."""
    told, ticks = [], list(dict.fromkeys(one.point for one in found))
    axis, metrics = PLOTS.get(scenario.id, ("", ()))
    for metric, text in metrics:
        lines = {}
        for arm in dict.fromkeys(one.arm for one in found):
            at = [(tick, ratios.of(found, tick, arm, metric)) for tick in ticks]
            points = [(tick, spread(list(values.values())).median) for tick, values in at if values]
            if len(points) > 1:
                lines[arm] = points
        file = folder / f"{scenario.id}-{metric}.svg"
        write_plot(file, Plot(f"{scenario.id}: {text}", axis, text, ticks, lines))
        told += [f"![{scenario.title}: {text}]({file.relative_to(DOCS)})", ""]
    return told


def page_of(kind: str) -> Path:
    """Where a kind's page lies."""
    return DOCS / f"benchmarks-{kind}.md"


def make(folder: Path, page: Path, write_plot: Callable[[Path, Plot], None] = write) -> None:
    """Write it. `folder` is named as its kind; its about.md says what is not in the figures, its reasons.json why a goal is missed."""
    facts = kept.facts(folder)
    runs = {name: kept.load(folder, name) for name in SCENARIOS}
    found = {name: ratios.values(SCENARIOS[name], those) for name, those in runs.items()}
    parts = facts.get("parts", {})
    told = [
        f"# Benchmarks: {folder.name}",
        "",
        f"Words, scenarios' rules and the other machines: [benchmarks.md](benchmarks.md). Kept: benchmarks/results/bench/{folder.name}.",
        "",
        f"{machine.line(facts['machine'])}. Command: `{facts['command']}`; {facts['mode']} mode, {facts['threads']} threads, 16 rows, {facts.get('layers', makers.SLICE)} layers.",
        "",
        *([about.read_text().rstrip(), ""] if (about := folder / "about.md").is_file() else []),
    ]
    told += ["## Goals", "", *goals(found, parts, facts["machine"]["features"], reasons_of(folder)), ""]
    told += ["## Who is measured", "", *arms(facts), ""]
    for name, scenario in SCENARIOS.items():
        told += [f"## {name}. {scenario.title}", "", f"{scenario.about[0].upper()}{scenario.about[1:]}.", ""]
        if runs[name]:
            pictures = plot(scenario, found[name], PICTURES / folder.name, write_plot)
            told += [*pictures, *table(scenario, runs[name]), "", quality(runs[name]), ""]
        else:
            told += ["Not measured yet.", ""]
    for name, (title, _) in PARTS.items():
        told += [f"## {name}. {title}", ""]
        if name in parts:
            date, others = _when([parts[name].get("date", "")]), parts[name]["others"]
            told += [*TABLES[name](parts[name]), "", f"{date}others had {others:.0%} of the machine meanwhile.", ""]
        else:
            told += ["Not measured yet.", ""]
    page.write_text("\n".join(told).rstrip() + "\n")


def reasons_of(folder: Path) -> dict[str, str]:
    """Why a goal is missed, by the goal's text."""
    file = folder / "reasons.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}
