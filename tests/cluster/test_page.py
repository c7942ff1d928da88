"""docs/deploy.md takes a reader's own folder to a cluster, as it stands there: its commands, one after the other."""

import os
import subprocess
from pathlib import Path

import pytest

from pilothouse.models import pocket
from pilothouse.models.pocket import answers
from pilothouse.smoke import checks
from support.chart import ROOT
from support.cluster import CONTEXT, ENVIRONMENT, KUBECONFIG, Release
from support.reader import blocks

PAGE = ROOT / "docs/deploy.md"
MINE = "/models/my-phi"
WAYS = {"an image of its files": "model.source=imageVolume", "a volume": "model.source=pvc"}


@pytest.mark.parametrize("way", WAYS)
def test_own_folder_gets_onto_the_cluster_as_the_page_says(release: Release, tmp_path: Path, way: str) -> None:
    """The pocket model's folder plays the reader's. The image of the model is taken away again."""
    config = tmp_path / "kubeconfig"
    config.write_bytes(KUBECONFIG.read_bytes())
    config.chmod(0o600)
    shell = {**ENVIRONMENT, "KUBECONFIG": str(config), "PATH": f"{ROOT / '.venv/bin'}:{ENVIRONMENT['PATH']}", "HOME": os.environ["HOME"]}
    subprocess.run(
        ["kubectl", "config", "set-context", CONTEXT, f"--namespace={release.space.name}"], env=shell, check=True, capture_output=True
    )
    (block,) = [block for block in blocks(PAGE) if WAYS[way] in block.text]
    try:
        for command in block.commands:
            typed = command.replace(MINE, str(pocket.FOLDER))
            done = subprocess.run(["bash", "-c", typed], env=shell, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
            assert done.returncode == 0, f"{typed}: {done.stderr[-2000:]}"
        release.space.kubectl("rollout", "status", f"deployment/{release.full}", "--timeout=150s", seconds=180)
        with release.forward() as (rest, _):
            assert checks.find_model(rest) == "phi3"
            assert checks.REST["OpenAI stream"](rest, "phi3", checks.SPAIN).text == answers.SPAIN[1]
    finally:
        subprocess.run(["docker", "rmi", "my-phi:1"], capture_output=True, check=False)
