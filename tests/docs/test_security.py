"""docs/security.md promises only what a test holds, and names only settings that are there."""

import re
from pathlib import Path

from pilothouse.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
PROMISES = PAGE.partition("## What is promised")[2].partition("## Turning it on")[0]


def test_every_promise_names_a_test_that_is_there() -> None:
    """Each row of the promises' tables."""
    rows = [line for line in PROMISES.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "|---"))]
    tests = {row: re.findall(r"`((?:tests|scripts)/[\w./-]+)`", row.rpartition(" | ")[2]) for row in rows}

    assert len(rows) > 20
    assert [row for row, named in tests.items() if not named] == []
    assert [path for named in tests.values() for path in named if not (ROOT / path).exists()] == []


def test_every_setting_of_the_page_is_there() -> None:
    """Names in the settings' table and in the commands."""
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+|traces)`", PAGE.rpartition("## Turning it on")[2])) - {"auto_map"}
    named |= {name.lower() for name in re.findall(r"PILOTHOUSE_([A-Z_]+)=", PAGE)}

    assert named - set(Settings.model_fields) == set()
    assert {"api_keys_file", "tls_certificate", "tls_key", "tls_client_ca", "traces"} <= named
