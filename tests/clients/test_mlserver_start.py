"""A plain `mlserver start` on a folder with our model-settings.json."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.models import pocket
from pilothouse.models.pocket.answers import SPAIN
from pilothouse.smoke.client import Client


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, held together while they are chosen."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module", params=["beside the model", "the embedded model"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """MLServer itself, once with the model named by its uri and once with none named."""
    folder = tmp_path_factory.mktemp("plain")
    rest, grpc, metrics = free_ports(3)
    ports = {"http_port": rest, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "host": "127.0.0.1", "debug": False, **ports}))
    model = {"name": "phi3", "implementation": "pilothouse.ChatRuntime"}
    if request.param == "beside the model":
        model["parameters"] = {"uri": str(pocket.FOLDER), "extra": {"rows": 2}}  # type: ignore[assignment]
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(Path(sys.executable).with_name("mlserver")), "start", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:  # ends with the process
        said.append(line)
        if "Loaded model 'phi3' successfully" in line:
            break
    else:
        pytest.fail("".join(said)[-3000:])
    yield Client(f"http://127.0.0.1:{rest}")
    process.terminate()
    process.communicate(timeout=60)


def test_every_protocol_answers_under_the_stock_server(client: Client) -> None:
    """OpenAI, MLflow and V2 give the known answer: the runtime brings its own routes."""
    messages = {"messages": [{"role": "user", "content": SPAIN[0]}], "temperature": 0}
    tensor = {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [json.dumps(messages["messages"])]}

    chat = client.post("/v1/chat/completions", messages).json
    scored = client.post("/invocations", messages).json
    inferred = client.post("/v2/models/phi3/infer", {"inputs": [tensor], "parameters": {"temperature": 0}}).json

    assert chat["choices"][0]["message"]["content"] == SPAIN[1]
    assert scored["choices"][0]["message"]["content"] == SPAIN[1]
    assert inferred["outputs"][0]["data"] == [SPAIN[1]]


def test_streams_stream_under_the_stock_server(client: Client) -> None:
    """Deltas of /v1/chat/completions and of V2's infer_stream join to the known answer."""
    messages = [{"role": "user", "content": SPAIN[0]}]
    tensor = {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [json.dumps(messages)]}

    chat = [e.json for e in client.events("/v1/chat/completions", {"messages": messages, "temperature": 0, "stream": True}) if not e.done]
    v2 = [e.json for e in client.events("/v2/models/phi3/infer_stream", {"inputs": [tensor], "parameters": {"temperature": 0}})]

    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chat) == SPAIN[1]
    assert "".join(c["outputs"][0]["data"][0] for c in v2) == SPAIN[1]


def test_errors_of_our_routes_keep_their_shape(client: Client) -> None:
    """A refusal on an OpenAI route is OpenAI's object also there."""
    reply = client.post("/v1/chat/completions", {"messages": []})

    assert reply.status == 400
    assert reply.json["error"]["param"] == "messages"
