"""The promised device: a server that no GPU answers says so in one line and ends, whichever engine it would have been."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilothouse.errors import ModelError
from pilothouse.models import pocket
from pilothouse.models.choosing import Choice
from pilothouse.settings import Settings

NO_GPU = pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="there is a GPU here")


def choice(folder: Path, kind: str = "onnx", **settings: Any) -> Choice:
    return Choice(Settings(context_tokens=64, rows=2, kv_memory_bytes=1 << 24, **settings), kind, folder, 4096)


def cuda_build(*, paged: bool) -> Path:
    from support.pocket_cuda import pocket_cuda

    return pocket_cuda(paged=paged)


@pytest.mark.parametrize("engine", ["auto", "genai"])
def test_a_build_for_cpus_can_not_keep_the_promise_of_a_gpu(engine: str) -> None:
    """Not even where there is a GPU: its kernels would run on the CPU without a word."""
    with pytest.raises(ModelError) as refused:
        choice(pocket.FOLDER, device="cuda", engine=engine)()
    assert str(refused.value) == (
        f"no GPU answered: device is cuda and the model in {pocket.FOLDER} is a build for cpu; "
        "export it for CUDA (model builder, -e cuda), or set device to cpu"
    )


@pytest.mark.parametrize("engine", ["paged", "slots"])
def test_an_engine_for_cpus_can_not_either(engine: str) -> None:
    """Asked for by name beside cuda: one of the two settings is wrong."""
    with pytest.raises(
        ModelError, match=f"^no GPU answered: device is cuda and the {engine} engine computes on the cpu; set engine to auto"
    ):
        choice(pocket.FOLDER, device="cuda", engine=engine)()


@NO_GPU
@pytest.mark.transformers
@pytest.mark.parametrize("paged", [True, False])
def test_a_build_for_cuda_without_a_gpu_says_so(paged: bool) -> None:
    """With PagedAttention or plain: the library's own reason stands in brackets."""
    with pytest.raises(
        ModelError, match=r"^no GPU answered: device is cuda, and the model would run on the cpu or not at all; give the pod a GPU \(Cuda"
    ):
        choice(cuda_build(paged=paged), device="cuda")()


@NO_GPU
@pytest.mark.transformers
@pytest.mark.parametrize("paged", [True, False])
def test_without_a_promise_a_cuda_build_is_refused_by_each_engine_in_its_own_words(paged: bool) -> None:
    """Half floats and PagedAttention are for a GPU; all that could take it elsewhere is asked, and no path of this machine is told."""
    with pytest.raises(ModelError, match=r"no GPU answered \(.*\); the paged engine can't .*; the slots engine can't ") as refused:
        choice(cuda_build(paged=paged))()
    assert "site-packages" not in str(refused.value)


@NO_GPU
@pytest.mark.transformers
def test_transformers_without_a_gpu_says_so() -> None:
    """torch is asked before anything is loaded."""
    from support.pocket_hf import pocket_hf

    with pytest.raises(
        ModelError, match=r"^no GPU answered: device is cuda and torch sees none; give the pod a GPU, or set device to cpu$"
    ):
        choice(pocket_hf(), "transformers", device="cuda")()


def hf() -> Path:
    from support.pocket_hf import pocket_hf

    return pocket_hf()


@NO_GPU
@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(lambda: pocket.FOLDER, id="onnx"),
        pytest.param(lambda: cuda_build(paged=True), id="onnx for cuda", marks=pytest.mark.transformers),
        pytest.param(hf, id="transformers", marks=pytest.mark.transformers),
    ],
)
def test_the_server_ends_with_code_2_and_one_line(folder: Callable[[], Path]) -> None:
    """No "ready", no traceback, no 503 for ever: a pod's status shows this line, and the kubelet its restarts."""
    command = [sys.executable, "-m", "pilothouse.cli", "serve", str(folder()), "--device", "cuda", "--log-format", "text"]
    ports = {f"PILOTHOUSE_{name}_PORT": "0" for name in ("REST", "GRPC", "METRICS")}
    done = subprocess.run(command, env={**os.environ, **ports}, capture_output=True, text=True, timeout=100)

    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert " error   no GPU answered: device is cuda" in line
