"""How malloc is asked for memory is said once for users, and done in four places."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("place", ["runtime/Dockerfile", "scripts/serve", "scripts/bench-engines", "benchmarks/peers/base.py"])
def test_every_place_sets_the_tunables_of_the_page(place: str) -> None:
    """Images, `scripts/serve` and the benchmarks have the tunables that docs/engines.md gives to users, no more and no fewer."""
    told = re.search(r"^GLIBC_TUNABLES=(\S+)$", (ROOT / "docs/engines.md").read_text(), re.MULTILINE)
    assert told is not None
    found = re.findall(r"glibc\.malloc\.\w+=\d+", (ROOT / place).read_text())

    assert found == told[1].split(":")
