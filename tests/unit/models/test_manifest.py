"""The manifest of a model's files: what is sealed is found again, and whatever was changed since is named."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.errors import ModelError
from pilothouse.models import manifest

MLMODEL = f"flavors: {{}}\nmetadata:\n  {manifest.KEY}: {manifest.BLANK}\n  other: 1\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small logged model: an MLmodel file, a folder of weights, an empty file."""
    folder = tmp_path / "model"
    (folder / "artifacts" / "deep").mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "artifacts" / "weights").write_bytes(bytes(range(256)))
    (folder / "artifacts" / "deep" / "config.json").write_text("{}")
    (folder / "empty").touch()
    return folder


def test_a_sealed_model_verifies_and_its_manifest_lists_every_file(model: Path) -> None:
    """Sealing writes the manifest, names its digest in the MLmodel, and `verify` answers the same manifest."""
    sealed = manifest.seal(model)
    assert manifest.verify(model, expected=sealed.digest) == sealed
    assert sorted(sealed.files) == ["MLmodel", "artifacts/deep/config.json", "artifacts/weights", "empty"]
    assert sealed.files["artifacts/weights"].bytes == 256
    assert f"{manifest.KEY}: {sealed.digest}\n" in (model / "MLmodel").read_text()


def test_sealing_twice_gives_the_same_manifest_after_blanking(model: Path) -> None:
    """The digest depends on the files alone, not on the time or the order of the disk."""
    first = manifest.seal(model)
    (model / "MLmodel").write_text(MLMODEL)
    assert manifest.seal(model) == first


def test_a_model_that_was_packaged_without_a_manifest_has_none(model: Path) -> None:
    """A plain MLflow model is no error: there is nothing to compare."""
    (model / "MLmodel").write_text("flavors: {}\n")
    assert manifest.verify(model) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_anywhere_is_found_and_the_file_named(model: Path, data: st.DataObject) -> None:
    """Each byte of each file counts, those of the MLmodel and of the manifest too."""
    (model / "MLmodel").write_text(MLMODEL)
    manifest.seal(model)
    path = data.draw(st.sampled_from(["MLmodel", "artifacts/weights", "artifacts/deep/config.json", manifest.NAME]))
    before = (model / path).read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    after = bytearray(before)
    after[at] ^= data.draw(st.integers(1, 255))
    (model / path).write_bytes(bytes(after))
    with pytest.raises(ModelError) as refused:
        manifest.verify(model)
    assert any(name in str(refused.value) for name in (path, manifest.NAME))
    (model / path).write_bytes(before)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda m: (m / "empty").unlink(),
        "empty is in the model's manifest and missing; fetch the model again",
    ),
    "unexpected": (
        lambda m: (m / "artifacts" / "extra.py").write_text("1"),
        "artifacts/extra.py is not in the model's manifest; remove it or fetch the model again",
    ),
    "longer": (
        lambda m: (m / "empty").write_text(" "),
        "empty is not the file that was packaged (its SHA-256 differs); fetch the model again",
    ),
    "no manifest": (
        lambda m: (m / manifest.NAME).unlink(),
        "pilothouse-manifest.json is missing, and this model was packaged with one; fetch the model again",
    ),
    "link to a file": (
        lambda m: ((m / "empty").unlink(), (m / "empty").symlink_to("/etc/hostname")),
        "empty is a link, and a model's files must be its own; copy the folder with cp -rL",
    ),
    "link to a folder": (
        lambda m: (m / "artifacts" / "more").symlink_to(m / "artifacts" / "deep"),
        "artifacts/more is a link, and a model's files must be its own; copy the folder with cp -rL",
    ),
    "dangling link": (
        lambda m: (m / "gone").symlink_to("nowhere"),
        "gone is a link, and a model's files must be its own; copy the folder with cp -rL",
    ),
    "pipe": (
        lambda m: os.mkfifo(m / "pipe"),
        "pipe is neither a file nor a folder; remove it",
    ),
    "the MLmodel no longer names its manifest": (
        lambda m: (m / "MLmodel").write_text("flavors: {}\n"),
        "MLmodel does not name its manifest any more; fetch the model again",
    ),
    "the MLmodel names two": (
        lambda m: (m / "MLmodel").write_text((m / "MLmodel").read_text() + f"  {manifest.KEY}: {manifest.BLANK}\n"),
        "MLmodel names pilothouse_manifest more than once; fetch the model again",
    ),
    "the manifest is no JSON": (
        lambda m: (m / manifest.NAME).write_text("["),
        "pilothouse-manifest.json can't be read; fetch the model again",
    ),
    "the manifest is of another shape": (
        lambda m: (m / manifest.NAME).write_text('{"files": 3, "version": 1, "algorithm": "sha256"}'),
        "pilothouse-manifest.json can't be read; fetch the model again",
    ),
    "another version of manifests": (
        lambda m: (m / manifest.NAME).write_text('{"files": {}, "version": 2, "algorithm": "sha256"}'),
        "pilothouse-manifest.json is of version 2 with 'sha256', and this release reads version 1 with sha256; upgrade Pilothouse",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_by_the_file_that_it_touched(model: Path, change: str) -> None:
    """Missing, unexpected, exchanged, linked: each has its own sentence, with the way out."""
    manifest.seal(model)
    work, sentence = CHANGES[change]
    work(model)
    with pytest.raises(ModelError) as refused:
        manifest.verify(model)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../../b", "a//b", "", ".", "a\\..\\b"])
def test_a_manifest_that_names_a_path_outside_is_refused(model: Path, path: str) -> None:
    """A manifest is somebody else's text: its paths stay within the folder and are written one way."""
    entry = {"sha256": "0" * 64, "bytes": 0}
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / manifest.NAME).write_text(json.dumps({"files": {path: entry}, "version": 1, "algorithm": "sha256"}))
    with pytest.raises(ModelError) as refused:
        manifest.verify(model)
    assert str(refused.value) == f"pilothouse-manifest.json names {path!r}, which lies outside the model's folder; fetch the model again"


def test_a_whole_other_set_of_files_is_found_by_the_registry_s_digest(model: Path) -> None:
    """Somebody who can write every file can write a manifest too; the digest that the registry keeps still tells."""
    sealed = manifest.seal(model)
    (model / "MLmodel").write_text(MLMODEL)
    (model / "artifacts" / "weights").write_bytes(b"other")
    exchanged = manifest.seal(model)
    assert manifest.verify(model) == exchanged
    with pytest.raises(ModelError) as refused:
        manifest.verify(model, expected=sealed.digest)
    sentence = f"pilothouse-manifest.json is not the one that the registry names ({sealed.digest}); fetch the model again"
    assert str(refused.value) == sentence


def test_a_digest_in_the_registry_demands_a_manifest(model: Path) -> None:
    """A model that lost its manifest and every mention of it does not pass for one that never had any."""
    (model / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(ModelError, match="is missing, and this model was packaged with one"):
        manifest.verify(model, expected=manifest.BLANK)


def test_what_mlflow_and_python_leave_beside_a_model_is_no_change(model: Path) -> None:
    """MLflow notes the name on download, Python its byte code; neither is ever read from there."""
    manifest.seal(model)
    (model / "registered_model_meta").write_text("model_name: m\n")
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "phi3_onnx.cpython-311.pyc").write_bytes(b"x")
    assert manifest.verify(model) is not None
    (model / "__pycache__" / "evil.py").write_text("1")
    with pytest.raises(ModelError, match=r"__pycache__/evil\.py is not in the model's manifest"):
        manifest.verify(model)


def test_a_bare_folder_is_sealed_without_an_mlmodel(tmp_path: Path) -> None:
    """An exported folder can be sealed as it is; its digest then stands wherever its owner keeps it."""
    (tmp_path / "genai_config.json").write_text("{}")
    sealed = manifest.seal(tmp_path)
    assert manifest.verify(tmp_path, expected=sealed.digest) == sealed


def test_sealing_an_mlmodel_without_a_place_for_the_digest_is_refused(model: Path) -> None:
    """Else the MLmodel would not name its manifest, and losing the manifest would go unseen."""
    (model / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(ModelError, match=r"MLmodel: metadata needs pilothouse_manifest"):
        manifest.seal(model)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """The message says what was wanted."""
    (tmp_path / "model").touch()
    with pytest.raises(ModelError) as refused:
        manifest.verify(tmp_path / "model")
    assert str(refused.value) == f"{tmp_path / 'model'} is not a folder; give the model's folder"
