"""The pages about where it runs and what is seen: what they name is there, and nothing of it is missing."""

import re
from pathlib import Path

import pytest

from pilothouse.metrics import Metrics
from pilothouse.settings import Settings
from support.chart import ROOT

PAGES = [ROOT / "docs" / name for name in ("deploy.md", "monitoring.md")]


def test_every_metric_is_on_the_page() -> None:
    """And the page names no other."""
    page = (ROOT / "docs/monitoring.md").read_text()
    families = {line.split()[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE pilothouse_")}
    told = set(re.findall(r"pilothouse_[a-z_]+", page))
    assert told == {name for name in families if not name.endswith("_created")}


def test_every_setting_of_traces_is_on_the_page_with_its_default() -> None:
    """The table is the settings' own."""
    rows = dict(re.findall(r"^\| `(trace\w*)` \| ([^|]+) \|", (ROOT / "docs/monitoring.md").read_text(), re.M))
    words = {False: "off", None: "none", 1.0: "1"}
    assert rows == {name: words[field.default] for name, field in Settings.model_fields.items() if name.startswith("trace")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_speaks_of_are_there(page: Path) -> None:
    """Every path in code marks that looks like one of ours."""
    named = re.findall(r"(?<![\w/])((?:manifests|charts|scripts|tests|runtime)/[\w./-]+)", page.read_text())
    assert [path for path in named if not (ROOT / path.rstrip(".")).exists() and path != "manifests/azureml/model"] == []
