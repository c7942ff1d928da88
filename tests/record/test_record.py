"""The record, run: stock MLServer still does what is written of it, and ours what is promised."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from record import errors, lifecycle, models, page, protocol, readiness, sharing, streams, surface  # noqa: F401  # each enters its cases
from record.case import CASES, Case, Seen
from record.sides import HERE, Ours, Stock
from support.environments import environment

ENTRIES = sorted(CASES, key=page.ordered)


def test_every_entry_is_here() -> None:
    """D1 to D25 and E1 to E11, each once, and stock fails each that records no good behaviour."""
    assert [entry.id for entry in ENTRIES] == [f"D{n}" for n in range(1, 26)] + [f"E{n}" for n in range(1, 12)]
    assert [entry.id for entry in ENTRIES if not entry.good and not entry.differs] == []
    assert [entry.id for entry in ENTRIES if entry.good] == ["E4", "E5", "E6"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # makes the environment
def test_stock_is_stock() -> None:
    """Its environment holds what pip resolves, with none of this project's overrides: the web framework that MLServer asks for."""
    python = environment(HERE / "requirements" / "stock.txt")
    names = ("mlserver", "mlserver-mlflow", "mlflow", "fastapi", "starlette", "uvloop")
    script = f"import importlib.metadata as m; print(*[f'{{n}}=={{m.version(n)}}' for n in {names}])"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)

    pinned = (HERE / "requirements" / "stock.txt").read_text().split()
    assert [line for line in done.stdout.split() if line not in pinned] == []
    assert "starlette==0.46.2" in pinned


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(600)  # on a busy machine
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
async def test_record(entry: Case, sides: tuple[Stock, Ours], runs: dict[str, tuple[Seen, Seen]]) -> None:
    """Each entry on both sides, word for word."""
    stock, ours = await asyncio.gather(*[entry.observe(side) for side in sides])

    runs[entry.id] = (stock, ours)
    assert stock == entry.stock, "stock no longer does what the record says"
    assert ours == entry.ours


@pytest.mark.slow
def test_page_says_what_was_seen(runs: dict[str, tuple[Seen, Seen]]) -> None:
    """docs/record.md is this run's; scripts/record writes it."""
    if len(runs) < len(ENTRIES):
        pytest.skip("only some entries ran")
    _, rest = page.read()
    if "RECORD_PAGE" in os.environ:
        Path(os.environ["RECORD_PAGE"]).write_text(page.whole(page.written(runs), rest))

    assert page.PAGE.read_text() == page.whole(page.written(runs), rest), "docs/record.md is not of this run: scripts/record writes it"
