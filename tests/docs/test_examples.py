"""The examples run as they stand, and what they log can be served."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.models import registry, source
from pilothouse.models.pocket.answers import ATOM, SPAIN

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(example: str, folder: Path) -> list[str]:
    """The lines that an example prints, run in an empty folder."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_onnx_walk_through(tmp_path: Path) -> None:
    """It tells the joke, and the model it registered is one that we serve."""
    *told, serve = run("onnx_pyfunc.py", tmp_path)
    assert "\n".join(told) == ATOM[1]
    assert serve == "pilothouse serve models:/phi3-onnx/1"
    resolved = registry.resolve("models:/phi3-onnx/1", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    described = source.describe(resolved.folder, name=resolved.name)
    assert (described.kind, described.model_name, described.defaults.max_length) == ("onnx", "phi3-onnx", 300)


@pytest.mark.transformers
def test_the_chat_walk_through(tmp_path: Path) -> None:
    """It names the capital, and the model it registered is one that we serve."""
    *told, serve = run("transformers_chat.py", tmp_path)
    assert "\n".join(told) == SPAIN[1]
    assert serve == "pilothouse serve models:/phi3-chat/1"
    resolved = registry.resolve("models:/phi3-chat/1", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    described = source.describe(resolved.folder, name=resolved.name)
    assert (described.kind, described.model_name, described.defaults.max_tokens) == ("transformers", "phi3-chat", 256)


def test_every_example_is_run() -> None:
    """A new one needs a test here."""
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == ["onnx_pyfunc.py", "transformers_chat.py"]
