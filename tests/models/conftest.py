"""MLflow's stores for tests: made once a session, since making a SQLite store takes seconds."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# MLflow and MLServer warn about their own dependencies while they are imported; tests are about ours.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc


@pytest.fixture(scope="session", autouse=True)
def quiet() -> Iterator[None]:
    """No tracking store but the one that a test names, no hub, no telemetry."""
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.setenv("ORT_DISABLE_TELEMETRY", "1")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty SQLite store with its files beside it."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    mlflow.MlflowClient(tracking_uri=uri).search_experiments()
    return uri


@pytest.fixture(scope="session")
def packaged(store: str) -> Any:
    """The pocket model, packaged as an ONNX pyfunc and registered as `pocket@champion`."""
    from pilothouse.models import packaging

    return packaging.package_onnx(target=packaging.Target(tracking_uri=store, register="pocket", alias="champion"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
