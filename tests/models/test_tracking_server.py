"""A real MLflow server between the two ends: a model goes up over HTTP and comes down again, digests and all."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pilothouse.errors import ModelError
from pilothouse.models import manifest, packaging, registry, source
from pilothouse.models.packaging import Target
from support import tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` on a free port, files behind its own artifact route."""
    with tracking.server(tmp_path_factory.mktemp("server")) as running:
        yield running.url


def test_a_model_goes_up_and_comes_down_whole(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packaged to the server, fetched from it by alias, resolved through the cache, and checked against the registry's digest each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = packaging.package_onnx(target=Target(tracking_uri=server, register="remote", alias="champion"))
    assert (made.folder, made.uri) == (None, "models:/remote@champion")

    fetched = registry.fetch(made.uri, tmp_path / "model", tracking_uri=server)
    assert (fetched.name, fetched.version, fetched.digest, fetched.model_id) == ("remote", "1", made.digest, made.model_id)
    found = manifest.verify(fetched.folder, expected=fetched.digest)
    assert found is not None
    assert {path: entry.sha256 for path, entry in found.files.items()} == made.files

    for uri in (made.uri, made.model_uri, f"runs:/{made.run_id}/phi3-mini-onnx"):
        resolved = registry.resolve(uri, tracking_uri=server)
        assert resolved.folder.is_relative_to(tmp_path / "cache")
        assert source.describe(resolved.folder).kind == "onnx"

    with pytest.raises(ModelError, match=r"^model 'remote' has no alias 'old' in http://127\.0\.0\.1:\d+ \(it has champion\)"):
        registry.resolve("models:/remote@old", tracking_uri=server)
    with pytest.raises(ModelError, match=r"^no model 'other' is registered in http://"):
        registry.resolve("models:/other/1", tracking_uri=server)


def test_json_is_alone_on_standard_output(server: str) -> None:
    """The steps go to standard error, so that a script can read the rest: the model's address, and where a server shows the run."""
    command = [sys.executable, "-m", "pilothouse.cli", "package", "onnx", "--tracking-uri", server, "--register", "read", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)

    told = json.loads(done.stdout)
    assert told["uri"] == "models:/read/1"
    assert told["page"].startswith(f"{server}/#/experiments/")
    assert done.stdout.count("\n") == 1


def test_a_file_changed_on_the_server_never_arrives(server: str, tmp_path: Path) -> None:
    """Somebody with access to the artifact store alone."""
    made = packaging.package_onnx(target=Target(tracking_uri=server, register="changed"))
    changed = tmp_path / "genai_config.json"
    changed.write_text("{}")
    client = mlflow.MlflowClient(tracking_uri=server)
    location = client.get_logged_model(made.model_id).artifact_location
    path = next(path for path in made.files if path.endswith("genai_config.json"))
    mlflow.set_tracking_uri(server)
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(location).log_artifact(str(changed), str(Path(path).parent))
    finally:
        mlflow.set_tracking_uri(None)
    with pytest.raises(ModelError) as refused:
        registry.fetch(made.uri, tmp_path / "model", tracking_uri=server)
    assert str(refused.value) == f"{path} is not the file that was packaged (its SHA-256 differs); fetch the model again"
    assert not (tmp_path / "model").exists()


def test_a_server_that_takes_connections_and_says_nothing_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded by the environment's patience, or ours where it says nothing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(ModelError, match=r"^the MLflow store http://127\.0\.0\.1:\d+ did not answer"):
            registry.resolve("models:/pocket/1", tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 15
