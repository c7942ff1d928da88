"""checkov reads the rendered manifests; every skip has its reason."""

import subprocess

import pytest

from support.chart import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_checkov_finds_nothing() -> None:
    """No failed check, in an environment of its own (its dependencies fit nobody else's)."""
    done = subprocess.run([ROOT / "scripts/checkov"], capture_output=True, text=True, timeout=580)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_skip_has_a_reason() -> None:
    """A skipped check without a comment above it is not allowed."""
    lines = (ROOT / "manifests/checkov.yaml").read_text().splitlines()
    skips = lines[lines.index("skip-check:") + 1 :]

    assert all(skips[i - 1].lstrip().startswith("# ") for i, line in enumerate(skips) if line.lstrip().startswith("- "))
