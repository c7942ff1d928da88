"""A served version says what it is, and outlives whatever happens to the registry."""

import json
from pathlib import Path

import mlflow
import pytest

from pilothouse import cli
from pilothouse import settings as settings_room
from pilothouse.errors import ModelError
from pilothouse.models import loading, packaging
from pilothouse.models.packaging import Packaged, Target
from pilothouse.models.pocket.answers import SPAIN
from pilothouse.smoke import grpc_client
from pilothouse.smoke.client import Client
from support.server import Served, served
from support.tracking import World, server


def answer(served: Served) -> str:
    body = {"messages": [{"role": "user", "content": SPAIN[0]}], "temperature": 0}
    return str(served.client.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"])


def told(served: Served, uri: str, made: Packaged, version: str) -> None:
    """Everything that says what is served says the same."""
    card = served.client.get("/v1/models").json["data"][0]
    metadata = served.client.get(f"/v2/models/{served.model}").json
    metrics = Client(served.metrics.removesuffix("/metrics")).get("/metrics").body.decode()

    assert (card["pilothouse"]["uri"], card["pilothouse"]["version"], card["pilothouse"]["digest"]) == (uri, version, made.digest)
    assert (metadata["versions"], metadata["parameters"]) == ([version], {"uri": uri, "digest": made.digest})
    (info,) = [line for line in metrics.splitlines() if line.startswith("pilothouse_model_info{")]
    assert f'digest="{made.digest}"' in info
    assert f'version="{version}"' in info
    with grpc_client.connect(served.grpc) as calls:
        over_grpc = calls.call("ModelMetadata", {"name": served.model})
    assert (list(over_grpc.versions), grpc_client.plain(over_grpc.parameters)) == ([version], metadata["parameters"])


def test_an_alias_is_resolved_once(world: World) -> None:
    """Version and digest stand in /v1/models, the V2 metadata and the metrics; they stay while the alias moves and the model is deleted."""
    uri = f"models:/{world.name}@challenger"
    with served(uri, tracking_uri=world.uri) as running:
        assert running.model == world.name
        told(running, uri, world.versions[1], "2")

        world.client.set_registered_model_alias(world.name, "challenger", "1")
        told(running, uri, world.versions[1], "2")

        world.client.delete_registered_model(world.name)
        told(running, uri, world.versions[1], "2")
        assert answer(running) == SPAIN[1]


def test_a_fetched_folder_knows_what_it_is(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the chart does: an init container fetches, tells what an alias became, and the server shows it without asking a registry."""
    report = tmp_path / "termination-log"
    uri = f"models:/{world.name}@challenger"
    made = world.versions[1]
    fetch = ["fetch", uri, str(tmp_path / "model"), "--tracking-uri", world.uri]

    assert cli.main([*fetch, "--report", str(report), "--digest", made.digest]) == 0
    said = json.loads(report.read_text())
    assert (said["uri"], said["name"], said["version"], said["digest"]) == (uri, world.name, "2", made.digest)

    capsys.readouterr()
    assert cli.main([*fetch, "--digest", world.versions[0].digest]) == 2
    assert capsys.readouterr().err == (
        f"pilothouse fetch: {uri} is {made.digest} now, and {world.versions[0].digest} was asked for; resolve it again\n"
    )

    with served(str(tmp_path / "model")) as running:
        assert running.model == world.name
        told(running, f"models:/{world.name}/2", made, "2")


def test_the_registry_may_go_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A running server goes on; a new one, a promotion and an evaluation say in one line that the registry is not there."""
    with server(tmp_path) as registry:
        made = packaging.package_onnx(target=Target(tracking_uri=registry.url, register="phi3", alias="champion"))
        with served(made.uri, tracking_uri=registry.url) as running:
            registry.stop()
            told(running, made.uri, made, "1")
            assert answer(running) == SPAIN[1]
    capsys.readouterr()
    for command in (["promote", "phi3"], ["rollback", "phi3"], ["evaluate", made.uri], ["resolve", made.uri]):
        assert cli.main([*command, "--tracking-uri", registry.url]) == 2
        assert f"the MLflow store {registry.url} did not answer" in capsys.readouterr().err.splitlines()[-1]
    settings = settings_room.load(model=made.uri, tracking_uri=registry.url)
    with pytest.raises(ModelError, match=f"^the MLflow store {registry.url} did not answer"):
        loading.load(settings)
    assert mlflow.get_tracking_uri() != registry.url
