"""One MLflow server with a SQLite back end for the whole stage, and two versions of the pocket model in it."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tracking import Server, World, server

# MLflow warns about its own dependencies while it is imported; tests are about ours.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.genai
    import mlflow.genai.evaluation.harness
    import mlflow.pyfunc

from pilothouse.models import packaging
from pilothouse.models.packaging import Packaged, Target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(600))
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"))


@pytest.fixture(scope="session", autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No store but the one that a test names, no hub, no telemetry, a cache of our own."""
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_USERNAME"):
        patch.delenv(name, raising=False)
    for name, value in {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1"}.items():
        patch.setenv(name, value)
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The stage's tracking server."""
    with server(tmp_path_factory.mktemp("tracking")) as running:
        yield running


@pytest.fixture(scope="session")
def pair(tracked: Server) -> tuple[Packaged, Packaged]:
    """Two packaged models, the same pocket model logged twice: every file of the wheel alike, two digests."""
    first, second = (
        packaging.package_onnx(target=Target(tracking_uri=tracked.url), model_config={"max_length": length}) for length in (300, 301)
    )
    assert first.digest != second.digest
    return first, second


@pytest.fixture
def world(tracked: Server, pair: tuple[Packaged, Packaged], request: pytest.FixtureRequest) -> World:
    """Both as versions 1 and 2 of a model of the test's own; version 2 is the challenger and nobody champion."""
    from pilothouse.models import manifest

    name = request.node.name.removeprefix("test_")[:60]
    client = mlflow.MlflowClient(tracking_uri=tracked.url)
    client.create_registered_model(name)
    for made in pair:
        client.create_model_version(name, made.model_uri, run_id=made.run_id, tags={manifest.KEY: made.digest}, model_id=made.model_id)
    client.set_registered_model_alias(name, "challenger", "2")
    return World(tracked.url, name, pair)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions of the pocket's."""
    from pilothouse.lifecycle import questions

    file = tmp_path_factory.mktemp("data") / "few-v1.jsonl"
    file.write_text("".join(questions.POCKET.read_text().splitlines(keepends=True)[:3]))
    return file
