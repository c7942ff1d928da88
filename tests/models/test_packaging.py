"""Packaging the ONNX pyfunc: what is logged, that MLflow itself runs it, and what is refused before anything is logged."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from pilothouse.errors import ModelError
from pilothouse.models import manifest, packaging, pocket, registry, source
from pilothouse.models.packaging import Packaged, Target, package_onnx
from pilothouse.models.pocket.answers import ATOM, SPAIN

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

JOKE = packaging.ONNX_EXAMPLE["prompt"]
CAPITAL = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"


@pytest.fixture
def loaded(packaged: Packaged, store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The registered model as MLflow's users load it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return mlflow.pyfunc.load_model(packaged.uri)


def test_the_result_says_where_the_model_is(packaged: Packaged, store: str) -> None:
    """Run, address, version, alias, folder and digests: what a script needs next."""
    assert packaged.uri == "models:/pocket@champion"
    assert (packaged.name, packaged.version, packaged.alias) == ("pocket", "1", "champion")
    assert packaged.model_uri == f"models:/{packaged.model_id}"
    assert packaged.folder is not None
    assert packaged.folder.is_relative_to(Path(store.removeprefix("sqlite:///")).parent / "mlruns" / "pilothouse")
    found = manifest.verify(packaged.folder, expected=packaged.digest)
    assert found is not None
    assert {path: entry.sha256 for path, entry in found.files.items()} == packaged.files


def test_the_signature_is_the_contract_s(loaded: Any) -> None:
    """Word for word."""
    assert str(loaded.metadata.signature) == (
        "inputs: \n  ['prompt': string (required)]\noutputs: \n  [string (required)]\nparams: \n  None\n"
    )


def test_mlflow_itself_predicts_the_known_answers(loaded: Any) -> None:
    """One row as a dict, many as a DataFrame; the example is logged with the model."""
    assert loaded.predict({"prompt": JOKE}) == [ATOM[1]]
    assert loaded.predict(pd.DataFrame({"prompt": [JOKE, CAPITAL]})) == [ATOM[1], SPAIN[1]]
    assert loaded.input_example == {"prompt": JOKE}


def test_the_configuration_is_replaced_when_it_is_loaded(packaged: Packaged, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both defaults can be overridden with MLflow's own means."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    model = mlflow.pyfunc.load_model(packaged.uri, model_config={"max_length": 20, "temperature": 0.0})
    assert model.unwrap_python_model().defaults == {"max_length": 20, "temperature": 0.0}


def test_requirements_are_pinned_and_name_nothing_of_ours(packaged: Packaged) -> None:
    """MLflow can build an environment for it without Pilothouse."""
    assert packaged.folder is not None
    lines = (packaged.folder / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == ["mlflow", "onnxruntime-genai"]
    assert all("==" in line for line in lines)


def test_nothing_but_the_model_is_logged(packaged: Packaged) -> None:
    """MLflow would add the uv.lock and pyproject.toml of whatever folder one stands in."""
    export = {f"artifacts/{pocket.FOLDER.name}/{file.name}" for file in pocket.FOLDER.iterdir()}
    mlflow_s = {"MLmodel", "conda.yaml", "input_example.json", "python_env.yaml", "requirements.txt", "serving_input_example.json"}
    assert set(packaged.files) == export | mlflow_s | {"phi3_onnx.py"}


def test_it_is_logged_as_code_and_not_as_a_pickle(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it loads where unpickling is switched off."""
    assert packaged.folder is not None
    assert not list(packaged.folder.rglob("*.pkl"))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert mlflow.pyfunc.load_model(str(packaged.folder)).predict({"prompt": CAPITAL}) == [SPAIN[1]]


def test_what_was_packaged_is_described_again(packaged: Packaged) -> None:
    """The server's view: kind, name, defaults, window and ids."""
    assert packaged.folder is not None
    described = source.describe(packaged.folder, version=packaged.version)
    assert (described.kind, described.model_name, described.version) == ("onnx", packaged.name, "1")
    assert described.folder == packaged.folder / "artifacts" / pocket.FOLDER.name
    assert (described.defaults.max_length, described.defaults.temperature) == (300, 0.2)
    assert (described.run_id, described.model_id) == (packaged.run_id, packaged.model_id)
    assert described.metadata["pilothouse_architecture"] == "phi3"
    assert described.metadata[manifest.KEY] == packaged.digest


def test_the_manifest_survives_a_registry_download(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """MLflow's own download, with the note that it adds, still verifies against the registry's tag."""
    mlflow.set_tracking_uri(store)
    try:
        got = mlflow.artifacts.download_artifacts("models:/pocket/1", dst_path=str(tmp_path / "got"))
    finally:
        mlflow.set_tracking_uri(None)
    assert (Path(got) / "registered_model_meta").is_file()
    assert manifest.verify(Path(got), expected=packaged.digest) is not None


def test_declared_parameters_reach_the_model(store: str) -> None:
    """With a params schema MLflow's own predict takes max_tokens and the like; the defaults shown are the configured ones."""
    made = package_onnx(target=Target(tracking_uri=store), model_config={"temperature": 0.0}, params=True)
    assert (made.name, made.version, made.uri) == (None, None, made.model_uri)
    assert made.folder is not None
    model = mlflow.pyfunc.load_model(str(made.folder))
    declared = {spec.name: spec.default for spec in model.metadata.signature.params.params}
    assert declared == {"max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    told = model.predict({"prompt": CAPITAL}, params={"max_tokens": 4})[0]
    assert SPAIN[1].startswith(told)
    assert 0 < len(told) < 40


def test_a_second_package_is_the_next_version_and_the_alias_moves(packaged: Packaged, store: str, tmp_path: Path) -> None:
    """Registered names collect versions."""
    folder = tmp_path / "export"
    shutil.copytree(pocket.FOLDER, folder)
    target = Target(tracking_uri=store, register="two", alias="champion")
    first, second = (package_onnx(folder, target=target, name="mine") for _ in range(2))
    assert [first.version, second.version] == ["1", "2"]
    assert registry.resolve("models:/two@champion", tracking_uri=store).version == "2"
    assert second.folder is not None
    assert source.describe(second.folder).model_name == "mine"


def test_an_export_whose_files_are_links_is_packaged_as_files(store: str, tmp_path: Path) -> None:
    """A hub's cache is made of links; a model is made of files."""
    folder = tmp_path / "export"
    folder.mkdir()
    for file in pocket.FOLDER.iterdir():
        (folder / file.name).symlink_to(file)
    made = package_onnx(folder, target=Target(tracking_uri=store))
    assert made.folder is not None
    assert manifest.verify(made.folder, expected=made.digest) is not None


def test_steps_are_told_as_they_happen(store: str) -> None:
    """Long work shows progress."""
    lines: list[str] = []
    package_onnx(target=Target(tracking_uri=store, register="told"), say=lines.append)
    assert lines == [f"reading {pocket.FOLDER}", "trying it", "writing the manifest", "uploading", "registering told"]


def test_the_default_store_is_a_sqlite_file_here(elsewhere: Path) -> None:
    """With its files beside it, and MLflow left pointing where it pointed before."""
    before = mlflow.get_tracking_uri()
    made = package_onnx(target=Target(register="here"))
    assert made.tracking_uri == f"sqlite:///{elsewhere / 'mlflow.db'}"
    assert made.folder is not None
    assert made.folder.is_relative_to(elsewhere / "mlruns")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["mlflow.db", "mlruns"]
    assert mlflow.get_tracking_uri() == before
    assert registry.resolve("models:/here/1").folder == made.folder


def test_a_model_that_does_not_answer_is_not_logged(store: str, tmp_path: Path) -> None:
    """It is tried before it is uploaded."""
    folder = tmp_path / "export"
    shutil.copytree(pocket.FOLDER, folder)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["outputs"]["logits"] = "no_such_output"
    (folder / "genai_config.json").write_text(json.dumps(config))
    lines: list[str] = []
    with pytest.raises(ModelError, match=r"does not answer"):
        package_onnx(folder, target=Target(tracking_uri=store), say=lines.append)
    assert lines == [f"reading {folder}", "trying it"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"folder": "gone"}, "gone has no genai_config.json; give a folder that onnxruntime-genai's model builder made, or 'pocket'"),
    ({"model_config": {"temperature": -1}}, "model_config: temperature must be between 0 and 100, not -1"),
    (
        {"model_config": {"max_lenght": 5}},
        "model_config: 'max_lenght' is not known; use max_length, max_tokens, temperature, top_p, top_k, repetition_penalty, seed",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_what_can_not_be_packaged_is_refused_before_a_store_is_made(elsewhere: Path, arguments: dict[str, Any], sentence: str) -> None:
    """One line: what, and what to do."""
    with pytest.raises(ModelError) as refused:
        package_onnx(**arguments)
    assert str(refused.value) == sentence
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"register": "a/b"}, "registered name 'a/b' must not be empty or hold / : @; choose another"),
        ({"register": ""}, "registered name '' must not be empty or hold / : @; choose another"),
        ({"alias": "champion"}, "alias 'champion' needs a registered name; add --register NAME"),
        (
            {"register": "a", "alias": "v1"},
            "alias 'v1' is none that MLflow takes (letters, digits, - and _; not latest, not v1); choose another",
        ),
        (
            {"register": "a", "alias": "latest"},
            "alias 'latest' is none that MLflow takes (letters, digits, - and _; not latest, not v1); choose another",
        ),
    ],
)
def test_a_target_that_mlflow_would_refuse_is_refused_first(target: dict[str, Any], sentence: str) -> None:
    """Not after minutes of uploading."""
    with pytest.raises(ModelError) as refused:
        Target(**target)
    assert str(refused.value) == sentence


def test_too_little_space_is_said_before_anything_is_copied(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are large, and half of one is nothing."""
    usage = shutil.disk_usage(elsewhere)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(ModelError, match=r"^no space for the model in .*: 0\.0 GB are needed and 0\.0 free; free some, or set TMPDIR$"):
        package_onnx()
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_is_not_there_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port answers at once; MLflow's own patience is minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ModelError, match=r"^the MLflow store http://127\.0\.0\.1:9 refused: .*Connection refused$"):
        package_onnx(target=Target(tracking_uri="http://user:secret@127.0.0.1:9"))


def test_a_result_is_plain_data(packaged: Packaged) -> None:
    """`package --json` prints it."""
    assert json.loads(json.dumps(dataclasses.asdict(packaged), default=str))["version"] == "1"
