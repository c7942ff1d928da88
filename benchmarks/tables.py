"""The tables of docs/engines.md, made of what is kept: a figure on the page is one of a file beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
import results
from parts import Part

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
MARKS = "<!-- bench: {} -->\n", "<!-- bench end -->"


def section(name: str, told: dict[str, Any], parts: Mapping[str, Part]) -> list[str]:
    """One part for the page."""
    if name == "chats":
        return _chats(told)
    others = results.spread([arm["others"] for block in told["blocks"] for arm in block.values()])
    return [
        f"`scripts/bench-engines {name}`: {told['about']}. {machine.line(told['machine'])}. {len(told['blocks'])} blocks; medians",
        f"(least to most); others had {others.median:.0%} (at most {others.most:.0%}) of the machine.",
        "",
        *results.figures_table(parts[name].figures, told),
        "",
        *results.arms_table(told),
    ]


def _chats(told: dict[str, Any]) -> list[str]:
    ways = {name: row["chats"] for name, row in told.items() if isinstance(row, dict) and "chats" in row}
    least = ways["og.Engine, fp32"]
    lines = [
        f"`scripts/bench-engines chats`: chats of 512 tokens in the {told['memory_mib']:.0f} MiB that og.Engine sets aside by default"
        f" ({least} sessions of the whole window). {machine.line(told['machine'])}.",
        "",
        "| | chats | of og.Engine's |",
        "|---|---|---|",
        *(f"| {name} | {count} | {count / least:g} |" for name, count in ways.items()),
        "",
        "A load in a fresh process, files in the page cache, with 1 GiB set aside for keys and values; others had"
        f" {told['others']:.0%} of the machine:",
        "",
        "| | files, MiB | loaded, s | ready, s | resident, MiB | of it not shared, MiB | at its peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, row in told["loads"].items():
        values = [row[key] for key in ("files_mib", "load_seconds", "ready_seconds", "resident_mib", "held_mib", "peak_mib")]
        lines.append(f"| {engine} | {' | '.join(f'{value:.1f}' if value < 100 else f'{value:.0f}' for value in values)} |")
    return lines


def write(kept: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Part]) -> None:
    """Put every part's tables between its marks, one machine's after the other's; a part without marks is not shown."""
    text = PAGE.read_text()
    for name in dict.fromkeys(name for told in kept.values() for name in told):
        begin, end = MARKS[0].format(name), MARKS[1]
        told = [f"**{kind}**: " + "\n".join(section(name, known[name], parts)) for kind, known in kept.items() if name in known]
        body = "\n\n".join(told)
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _, b=begin, t=body, e=end: f"{b}{t}\n{e}", text, flags=re.DOTALL)
    PAGE.write_text(text)
