"""The scoreboard of docs/record.md names tests and scripts that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOARD = (ROOT / "docs/record.md").read_text().partition("# The scoreboard")[2]
LINES = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", BOARD, re.MULTILINE)


def missing(name: str) -> bool:
    """Whether a `path`, or a `path::test`, is not there."""
    path, _, test = name.partition("::")
    if not (ROOT / path).is_file():
        return True
    return bool(test) and not re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_line_is_there_once() -> None:
    """Thirty lines, in order."""
    assert [int(number) for number, _ in LINES] == list(range(1, 31))


def test_every_proof_is_there() -> None:
    """What a line names can be run, and every line names something."""
    named = [(number, re.findall(r"`([^`]+)`", proofs)) for number, proofs in LINES]

    assert [(number, name) for number, names in named for name in names if missing(name)] == []
    assert [number for number, names in named if not names] == []
