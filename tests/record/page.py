"""docs/record.md, made of what a run saw."""

import re
from collections.abc import Mapping
from pathlib import Path

from record.case import CASES, Case, Seen

PAGE = Path(__file__).parents[2] / "docs" / "record.md"
START, END = "<!-- the run -->", "<!-- the run's end -->"
HEAD = """# The record

What was found wrong, or right, with stock MLServer 1.7.1 and its MLflow runtime, and what Pilothouse does instead: every line below is what
`tests/record` saw when it ran both. Stock runs unmodified in an environment of its own, as pip resolves it
([requirements/stock.txt](../tests/record/requirements/stock.txt)), where a case needs its workers with the older uvloop on which they start. A
test fails when stock no longer does what is written here, so that a mended host is noticed, or when ours does not.

`scripts/record` runs it (minutes), prints the two columns and writes this page; the stage `record` of `scripts/test` holds the page to
its own run.
"""


def ordered(entry: Case) -> tuple[str, int]:
    return entry.id[0], int(entry.id[1:])


def verdict(entry: Case) -> str:
    """What an entry comes to."""
    if not entry.good:
        return "Stock fails, ours passes."
    return "Stock does this well, and ours too" + (f", but for: {', '.join(entry.differs)}." if entry.differs else ".")


def written(runs: Mapping[str, tuple[Seen, Seen]]) -> str:
    """The run as a page's part, of what each entry's two sides were seen to do."""
    entries = sorted(CASES, key=ordered)
    failing = sum(not entry.good for entry in entries)
    lines = [
        f"{len(entries)} entries: {failing} on which stock fails and ours passes, {len(entries) - failing} of what stock does well and ours too.",
    ]
    for entry in entries:
        stock, ours = runs[entry.id]
        lines += ["", f"### {entry.id}. {entry.title}", "", verdict(entry), "", "| tried | stock | Pilothouse |", "|---|---|---|"]
        lines += [f"| {_cell(tried)} | {_cell(stock[tried])} | {_cell(ours[tried])} |" for tried in stock]
    return "\n".join(lines) + "\n"


def whole(run: str, rest: str) -> str:
    """The page: the run between its marks, and whatever follows it by hand."""
    return f"{HEAD}\n{START}\n{run}{END}\n{rest}"


def read() -> tuple[str, str]:
    """The run and the rest, as the page has them."""
    found = re.search(f"{START}\n(.*){END}\n(.*)", PAGE.read_text() if PAGE.exists() else f"{START}\n{END}\n", re.DOTALL)
    assert found is not None, f"{PAGE} has lost its marks {START} and {END}"
    return found.group(1), found.group(2)


def columns(runs: Mapping[str, tuple[Seen, Seen]]) -> list[str]:
    """The run for a terminal."""
    lines = []
    for entry in sorted(CASES, key=ordered):
        if entry.id in runs:
            stock, ours = runs[entry.id]
            lines += ["", f"{entry.id:4} {entry.title}"]
            lines += [f"     {tried[:44]:44}  {stock[tried][:46]:46}  {ours.get(tried, '')}" for tried in stock]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("<", "&lt;")
