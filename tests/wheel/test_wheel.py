"""What is published works without the checkout: the wheel and the sdist, in an environment that has nothing else."""

import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.chart import ROOT
from support.environments import VERSION, uv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PILOTHOUSE_", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both archives."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([uv(), "build", "--quiet", "--out-dir", str(folder), str(ROOT)], check=True, env=CLEAN)
    return folder


@pytest.fixture(scope="module")
def scripts(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel and its onnx extra alone, resolved as any user's would be: without our overrides."""
    home = tmp_path_factory.mktemp("user")
    (wheel,) = built.glob("*.whl")
    subprocess.run([uv(), "venv", "--quiet", "--python", VERSION, str(home / "env")], check=True, env=CLEAN, cwd=home)
    install = [uv(), "pip", "install", "--quiet", "--python", str(home / "env/bin/python"), f"{wheel}[onnx]"]
    subprocess.run(install, check=True, env=CLEAN, cwd=home)
    return home / "env" / "bin"


def test_the_onnx_extra_alone_serves_the_pocket_model(scripts: Path, tmp_path: Path) -> None:
    """pip install pilothouse[onnx], serve, smoke: every promise held, no torch and no mlflow there, and a clean end."""
    ready = tmp_path / "ready.json"
    os.mkfifo(ready)
    ports = {f"PILOTHOUSE_{name}_PORT": "0" for name in ("REST", "GRPC", "METRICS")}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [scripts / "pilothouse", "serve", "--ready-file", ready], env=CLEAN | ports, cwd=tmp_path, stdout=log, stderr=log
        ) as server,
    ):
        try:
            told = json.loads(subprocess.run(["cat", ready], capture_output=True, timeout=120, check=True).stdout)
            smoke = [scripts / "pilothouse", "smoke", told["rest"], "--grpc", told["grpc"]]
            done = subprocess.run(smoke, env=CLEAN, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            server.terminate()
        assert server.wait(60) == 0
    listed = subprocess.run([scripts / "python", "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in listed.stderr


def test_the_doctor_knows_what_plain_pip_leaves_open(scripts: Path, tmp_path: Path) -> None:
    """MLServer's pin keeps an old Starlette there: doctor says so, with the command that lifts it."""
    done = subprocess.run(
        [scripts / "pilothouse", "doctor", "--json"], env=CLEAN, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    wrong = {one["subject"]: one["text"] for one in json.loads(done.stdout) if one["level"] == "wrong"}
    assert "pip install --no-deps 'fastapi>=" in wrong["starlette"]


def test_type_information_the_page_and_the_model_are_in_the_wheel(built: Path) -> None:
    """And neither tests nor anything that was trained with."""
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"pilothouse/py.typed", "pilothouse/page/index.html", "pilothouse/models/pocket/onnx/model.onnx"} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"pilothouse"}


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    """File for file."""
    (source,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    subprocess.run([uv(), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(folder)], check=True, env=CLEAN)
    (again,) = tmp_path.glob("*.whl")
    contents = [{i.filename: i.CRC for i in zipfile.ZipFile(one).infolist() if not i.filename.endswith("RECORD")} for one in (wheel, again)]
    assert contents[0] == contents[1]
