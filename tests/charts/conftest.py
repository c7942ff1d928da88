"""Helm, once for all chart tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.chart import ROOT, Chart


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart under the Helm that scripts/kind-node/tools finds, or builds on a machine that has Go."""
    done = subprocess.run([ROOT / "scripts/kind-node/tools", "helm"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    helm = shutil.which("helm", path=f"{cache}/pilothouse/kind/bin:{os.environ['PATH']}")
    assert helm
    return Chart(helm)
