"""MLflow's own command line runs what we package: `mlflow models predict` and `mlflow models serve`."""

import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.models import packaging
from pilothouse.models.packaging import ONNX_EXAMPLE, Packaged
from pilothouse.models.pocket.answers import ATOM, SPAIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CAPITAL = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
UP = "Application startup complete"


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("mlflow")), "models", *arguments, "--env-manager", "local"]


def environment(store: str) -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@contextmanager
def served(uri: str, store: str) -> Iterator[str]:
    """MLflow's scoring server on a free port, up; its process group is ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        command("serve", "-m", uri, "-p", str(port), "-h", "127.0.0.1"),
        env=environment(store),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:  # until it says that it is up, or ends
            said.append(line)
            if UP in line:
                break
        else:
            pytest.fail("".join(said))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


def test_mlflow_models_predict_gives_the_known_answer(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """A file in, a file out, from the registry's address."""
    asked, told = tmp_path / "in.json", tmp_path / "out.json"
    asked.write_text(json.dumps({"inputs": ONNX_EXAMPLE}))
    subprocess.run(
        command("predict", "-m", packaged.uri, "-i", str(asked), "-o", str(told), "-t", "json"),
        env=environment(store),
        check=True,
        capture_output=True,
    )
    assert json.loads(told.read_text()) == {"predictions": [ATOM[1]]}


def test_mlflow_models_serve_gives_the_known_answers(packaged: Packaged, store: str) -> None:
    """Every form of /invocations that MLflow has for a column, and 400 for what is wrong."""
    bodies: list[tuple[dict[str, Any], list[str]]] = [
        ({"inputs": {"prompt": CAPITAL}}, [SPAIN[1]]),
        ({"inputs": {"prompt": [CAPITAL, ONNX_EXAMPLE["prompt"]]}}, [SPAIN[1], ATOM[1]]),
        ({"instances": [{"prompt": CAPITAL}]}, [SPAIN[1]]),
        ({"dataframe_records": [{"prompt": CAPITAL}, {"prompt": CAPITAL}]}, [SPAIN[1], SPAIN[1]]),
        ({"dataframe_split": {"columns": ["prompt"], "data": [[CAPITAL]]}}, [SPAIN[1]]),
    ]
    with served(packaged.uri, store) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/ping").status_code == 200
        for body, answers in bodies:
            assert client.post("/invocations", json=body).json() == {"predictions": answers}
        refused = client.post("/invocations", json={"inputs": {"text": "x"}})
        assert refused.status_code == 400


@pytest.mark.transformers
def test_mlflow_models_serve_answers_a_chat(store: str) -> None:
    """The Transformers model over MLflow's own server: a list of answers there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' and torch's own
            made = packaging.package_chat(target=packaging.Target(tracking_uri=store, register="chat-served"))
        with served(made.uri, store) as url:
            body = {"messages": [{"role": "user", "content": SPAIN[0]}], "temperature": 0.2, "max_tokens": 200}
            answer = httpx.post(f"{url}/invocations", json=body, timeout=120).json()
    assert answer[0]["choices"][0]["message"] == {"role": "assistant", "content": SPAIN[1]}
