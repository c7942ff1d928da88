"""What was measured, on disk: a folder for each kind of machine, in it for each scenario one compressed file of JSON lines, a line for each run
and one for each of its requests."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.answer import Answer

FOLDER = Path(__file__).parents[1] / "results" / "bench"


@dataclass
class Measured:
    """One run of one arm at one point. `others`: the share of the machine that was not ours; `failed`: why it does not count;
    `date`: of its start, as 2026-11-29."""

    point: str
    arm: str
    block: int
    seed: int
    others: float
    client_cpu: float
    failed: str = ""
    answers: list[Answer] = field(default_factory=list)
    date: str = ""


def save(folder: Path, scenario: str, runs: list[Measured]) -> None:
    """The same runs are the same bytes; none, as where a run was stopped before its first, are no file."""
    if not runs:
        return
    lines = []
    for run in runs:
        facts = asdict(run)
        del facts["answers"]
        lines += [json.dumps({"run": facts}), *(answer.line() for answer in run.answers)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{scenario}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))


def load(folder: Path, scenario: str) -> list[Measured]:
    """Nothing where nothing is kept."""
    return list(_read(folder / f"{scenario}.jsonl.gz"))


def _read(file: Path) -> Iterator[Measured]:
    run = None
    if file.is_file():
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            told: dict[str, Any] = json.loads(line)
            if "run" in told:
                if run is not None:
                    yield run
                run = Measured(**told["run"])
            else:
                assert run is not None
                run.answers.append(Answer.of(told))
    if run is not None:
        yield run


def facts(folder: Path) -> dict[str, Any]:
    """Machine, versions, arms, and the parts that are no loads, by scenario."""
    file = folder / "facts.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def save_facts(folder: Path, told: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
