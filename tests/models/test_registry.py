"""From a model's address to its folder, asked of a real SQLite store and of a server that is not there."""

import shutil
import time
from pathlib import Path

import mlflow
import pytest

from pilothouse.errors import ModelError
from pilothouse.models import manifest, placing, pocket, registry
from pilothouse.models.packaging import Packaged

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.mark.parametrize("form", ["models:/pocket@champion", "models:/pocket/1", "models:///pocket/1", "models:/pocket/latest"])
def test_a_registered_model_is_found_by_alias_version_and_latest(packaged: Packaged, store: str, form: str) -> None:
    """The local store's own folder is used in place, with what the registry says of it."""
    resolved = registry.resolve(form, tracking_uri=store)
    assert resolved == registry.Resolved(
        uri=form,
        folder=packaged.folder or Path(),
        name="pocket",
        version="1",
        digest=packaged.digest,
        run_id=packaged.run_id,
        model_id=packaged.model_id,
    )


def test_a_logged_model_is_found_by_its_id_and_by_its_run(packaged: Packaged, store: str) -> None:
    """Registered or not; the name is the one it was logged under."""
    by_id = registry.resolve(packaged.model_uri, tracking_uri=store)
    by_run = registry.resolve(f"runs:/{packaged.run_id}/phi3-mini-onnx", tracking_uri=store)
    for resolved in (by_id, by_run):
        assert (resolved.folder, resolved.name, resolved.version) == (packaged.folder, "phi3-mini-onnx", None)
        assert (resolved.digest, resolved.run_id, resolved.model_id) == (packaged.digest, packaged.run_id, packaged.model_id)


def test_the_environment_names_the_store_where_nothing_else_does(packaged: Packaged, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for MLflow itself; and MLflow points where it pointed before, afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    before = mlflow.get_tracking_uri()
    assert registry.resolve("models:/pocket@champion").folder == packaged.folder
    assert mlflow.get_tracking_uri() == before


UNKNOWN = {
    "models:/nobody@champion": "no model 'nobody' is registered in {store}; `pilothouse package onnx --register nobody` makes one",
    "models:/nobody/1": "no model 'nobody' is registered in {store}; `pilothouse package onnx --register nobody` makes one",
    "models:/nobody/latest": "no model 'nobody' is registered in {store}; `pilothouse package onnx --register nobody` makes one",
    "models:/pocket@prod": "model 'pocket' has no alias 'prod' in {store} (it has champion); set it or name a version",
    "models:/pocket/99": "model 'pocket' has no version 99 in {store}; name one that it has",
    "models:/pocket/Production": "models:/pocket/Production: 'Production' is no version number (stages are gone from MLflow); use models:/pocket@alias",
    "models:/m-00000000000000000000000000000000": "no logged model m-00000000000000000000000000000000 in {store}; name another, or package the model again",
    "runs:/00000000000000000000000000000000/model": "no run 00000000000000000000000000000000 in {store}; copy its id from the run's page",
    "runs:/{run}/other": "run {run} has no model 'other' in {store}; name one that it logged",
    "models:/pocket": "'models:/pocket' is not a model: no such folder here, and no model's address; "
    "give a folder, models:/name@alias, models:/name/version, models:/m-<id> or runs:/<run id>/<name>",
}


@pytest.mark.parametrize("uri", UNKNOWN)
def test_what_the_store_does_not_know_is_named(packaged: Packaged, store: str, uri: str) -> None:
    """Name, alias, version, id or run: which of them is unknown, and what to do."""
    filled = uri.replace("{run}", packaged.run_id)
    with pytest.raises(ModelError) as refused:
        registry.resolve(filled, tracking_uri=store)
    assert str(refused.value) == UNKNOWN[uri].replace("{store}", store).replace("{run}", packaged.run_id)


def test_a_sqlite_file_that_is_not_there_is_said_and_not_made(elsewhere: Path) -> None:
    """MLflow would make an empty store and then find nothing in it."""
    with pytest.raises(ModelError) as refused:
        registry.resolve("models:/pocket/1")
    assert (
        str(refused.value) == f"there is no MLflow store at {elsewhere / 'mlflow.db'}; name one with --tracking-uri or MLFLOW_TRACKING_URI"
    )
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_does_not_answer_is_said_within_seconds() -> None:
    """MLflow by itself tries for minutes; the password of its address is not repeated."""
    started = time.monotonic()
    with pytest.raises(ModelError) as refused:
        registry.resolve("models:/pocket/1", tracking_uri="http://user:secret@127.0.0.1:9")
    assert time.monotonic() - started < 20
    assert str(refused.value).startswith("the MLflow store http://127.0.0.1:9 did not answer (")
    assert "secret" not in str(refused.value)


def test_files_that_are_gone_from_the_store_are_said(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """A store whose files lie on another machine is a common mistake."""
    client = mlflow.MlflowClient(tracking_uri=store)
    client.create_registered_model("moved")
    folder = tmp_path / "moved"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    client.create_model_version("moved", folder.as_uri())
    shutil.rmtree(folder)
    with pytest.raises(ModelError) as refused:
        registry.resolve("models:/moved/1", tracking_uri=store)
    assert str(refused.value) == f"models:/moved/1: its files are not at {folder} on this machine; use a store that this machine reaches"


def test_fetching_copies_the_model_and_checks_it_against_the_registry(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """What an init container does; a second time nothing is copied."""
    wanted = tmp_path / "model"
    resolved = registry.fetch("models:/pocket@champion", wanted, tracking_uri=store)
    assert (resolved.folder, resolved.digest) == (wanted, packaged.digest)
    assert manifest.verify(wanted, expected=packaged.digest) is not None
    written = (wanted / "MLmodel").stat().st_ino
    registry.fetch("models:/pocket@champion", wanted, tracking_uri=store)
    assert (wanted / "MLmodel").stat().st_ino == written


def test_a_damaged_copy_is_fetched_again(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """A volume that outlived its pod may hold half a model."""
    wanted = tmp_path / "model"
    registry.fetch("models:/pocket@champion", wanted, tracking_uri=store)
    (wanted / "phi3_onnx.py").unlink()
    registry.fetch("models:/pocket@champion", wanted, tracking_uri=store)
    assert manifest.verify(wanted, expected=packaged.digest) is not None


def test_a_version_whose_digest_is_another_s_never_arrives(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """The registry's tag decides, whatever the files say of themselves."""
    assert packaged.folder is not None
    client = mlflow.MlflowClient(tracking_uri=store)
    client.create_registered_model("exchanged")
    client.create_model_version("exchanged", packaged.folder.as_uri(), tags={manifest.KEY: manifest.BLANK})
    with pytest.raises(ModelError, match=r"^pilothouse-manifest\.json is not the one that the registry names"):
        registry.fetch("models:/exchanged/1", tmp_path / "model", tracking_uri=store)
    assert not (tmp_path / "model").exists()


def test_a_run_s_artifact_folder_of_an_older_mlflow_is_found(store: str, tmp_path: Path) -> None:
    """Models used to lie among a run's artifacts, without an entry of their own."""
    mlflow.set_tracking_uri(store)
    try:
        with mlflow.start_run(experiment_id="0") as run:
            mlflow.log_artifacts(str(pocket.FOLDER), "old/model")
    finally:
        mlflow.set_tracking_uri(None)
    resolved = registry.resolve(f"runs:/{run.info.run_id}/old/model", tracking_uri=store)
    assert (resolved.name, resolved.version, resolved.digest) == ("model", None, None)
    assert (resolved.folder / "genai_config.json").is_file()


def test_a_model_that_must_be_downloaded_is_kept_in_the_cache(
    packaged: Packaged, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a server are copied once; a whole copy is used again, a damaged one replaced."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "local", lambda source: None)  # as if the store's files were a server's
    first = registry.resolve("models:/pocket/1", tracking_uri=store)
    assert first.folder.is_relative_to(tmp_path / "cache" / "pilothouse" / "models")
    assert manifest.verify(first.folder, expected=packaged.digest) is not None
    inode = (first.folder / "MLmodel").stat().st_ino
    assert registry.resolve("models:/pocket@champion", tracking_uri=store).folder == first.folder
    assert (first.folder / "MLmodel").stat().st_ino == inode
    (first.folder / "MLmodel").write_text("flavors: {}")
    assert registry.resolve("models:/pocket/1", tracking_uri=store).folder == first.folder
    assert placing.whole(first.folder, packaged.digest)


def test_without_mlflow_an_address_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """The ONNX image has no MLflow: folders work there, addresses don't."""
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    assert registry.resolve(str(pocket.FOLDER)).folder == pocket.FOLDER
    with pytest.raises(ModelError) as refused:
        registry.resolve("models:/pocket/1", tracking_uri=store)
    assert str(refused.value) == ("MLflow is not installed, and models:/, runs:/ and packaging need it; pip install 'pilothouse[mlflow]'")
