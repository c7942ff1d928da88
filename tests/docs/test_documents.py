"""What the pages say is there is there, and what is there is on a page."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from pilothouse.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/README.md")]


def test_every_script_has_a_line_in_contributing() -> None:
    """A script that nobody can find is not there."""
    tracked = subprocess.run(["git", "ls-files", "scripts"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    scripts = [path for path in tracked if path.count("/") == 1 and os.access(ROOT / path, os.X_OK)]
    page = (ROOT / "CONTRIBUTING.md").read_text()

    assert [script for script in scripts if f"`{script}" not in page] == []


def test_every_script_says_what_it_does_in_its_second_line() -> None:
    """The first thing a reader sees of a script is its purpose."""
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK)]

    assert [path.name for path in scripts if not re.match(r"#!.*\n# \S", path.read_text())] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def headings(page: Path) -> set[str]:
    """The anchors that its headings make, as the usual viewers spell them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_lead_to_a_heading(page: Path) -> None:
    """Of the page itself, or of another one of ours."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text())

    assert [f"{path}#{anchor}" for path, anchor in links if anchor not in headings(page.parent / path if path else page)] == []


def test_every_page_is_reached_from_the_readme() -> None:
    """By links from page to page; a page that nobody finds is not read."""
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in found or page.suffix != ".md" or not page.is_file():
            continue
        found.add(page)
        waiting += [page.parent / link for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())]

    assert [str(page.relative_to(ROOT)) for page in PAGES if page.resolve() not in found and page.parent.name != "decisions"] == []


def test_every_command_is_named_in_the_readme() -> None:
    """A newcomer reads of every command before trying --help."""
    page = (ROOT / "README.md").read_text()

    assert [command for command in COMMANDS if f"pilothouse {command}" not in page] == []
