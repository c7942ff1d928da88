"""A model is found where other tools lay it: `mlflow models generate-dockerfile`'s folder, Azure ML's mount."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.models import manifest, registry, source
from pilothouse.models.packaging import Packaged


def built(uri: str, store: str, folder: Path) -> str:
    """What `mlflow models build-docker` would hand to Docker for the model `uri`: the folder is filled, the Dockerfile's text is the answer."""
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [
        str(mlflow),
        "models",
        "generate-dockerfile",
        "--model-uri",
        uri,
        "--output-directory",
        str(folder),
        "--env-manager",
        "local",
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "Dockerfile").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_generate_dockerfile_writes_is_served_as_it_lies(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """Beside its Dockerfile, and as /opt/ml/model, where that copies it: the very files, digests and all."""
    text = built(packaged.uri, store, tmp_path / "image")
    (copied,) = [line.split() for line in text.splitlines() if line.startswith("COPY") and line.split()[-1] == "/opt/ml/model"]

    found = registry.resolve(str(tmp_path / "image")).folder
    assert found == tmp_path / "image" / copied[1].rstrip("/")
    checked = manifest.verify(found, expected=packaged.digest)
    assert checked is not None
    assert source.describe(found).kind == "onnx"
    image = tmp_path / "opt/ml/model"
    shutil.copytree(found, image)
    assert registry.resolve(str(image)).folder == image


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("{}")
    return folder


def test_the_one_folder_below_is_the_model(tmp_path: Path) -> None:
    """Azure ML mounts <name>/<version>/<folder>; hidden folders and files beside it do not count."""
    wanted = model(tmp_path / "phi3" / "1" / "artifacts")
    (tmp_path / "phi3" / "1" / ".amlignore").touch()
    (tmp_path / "phi3" / ".git").mkdir()
    assert registry.inner(tmp_path / "phi3" / "1") == wanted
    assert registry.inner(tmp_path / "phi3") == wanted
    assert registry.inner(wanted) == wanted


def test_two_folders_or_none_are_left_as_they_are(tmp_path: Path) -> None:
    """No model is chosen for the user; what is too deep is not searched."""
    model(tmp_path / "a")
    assert registry.inner(tmp_path) == tmp_path / "a"
    model(tmp_path / "b")
    assert registry.inner(tmp_path) == tmp_path
    deep = tmp_path / "deep"
    model(deep / "1" / "2" / "3" / "4")
    assert registry.inner(deep) == deep
