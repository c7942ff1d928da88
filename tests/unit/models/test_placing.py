"""Putting a model in a folder: a whole one or none."""

import os
from pathlib import Path

import pytest

from pilothouse.errors import ModelError
from pilothouse.models import manifest, pocket, registry
from pilothouse.models.placing import copying


def sealed_pocket(folder: Path) -> str:
    """A copy of the pocket with a manifest; its digest."""
    registry.fetch(str(pocket.FOLDER), folder)
    return manifest.seal(folder).digest


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in manifest.contents(folder)}


def test_a_fetched_folder_is_the_same_files(tmp_path: Path) -> None:
    """Also where the folder's parent has to be made."""
    wanted = tmp_path / "a" / "b"
    resolved = registry.fetch(str(pocket.FOLDER), wanted)
    assert resolved == registry.Resolved(str(pocket.FOLDER), wanted)
    assert files(wanted) == files(pocket.FOLDER)
    assert names(tmp_path / "a") == ["b"]


def test_a_model_in_the_folder_is_replaced_whole(tmp_path: Path) -> None:
    """Nothing of the old one stays beside the new one."""
    wanted = tmp_path / "model"
    wanted.mkdir()
    (wanted / "MLmodel").write_text("flavors: {}")
    (wanted / "old").touch()
    registry.fetch(str(pocket.FOLDER), wanted)
    assert files(wanted) == files(pocket.FOLDER)
    assert names(tmp_path) == ["model"]


def test_a_folder_that_holds_no_model_is_never_replaced(tmp_path: Path) -> None:
    """A slip of the keyboard must not cost a home folder."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ModelError) as refused:
        registry.fetch(str(pocket.FOLDER), tmp_path)
    assert str(refused.value) == f"{tmp_path} is not empty and holds no model, so it is not replaced; give another folder"
    assert names(tmp_path) == ["thesis.tex"]


def test_a_tampered_model_never_arrives(tmp_path: Path) -> None:
    """Digests are checked before the folder is touched."""
    source = tmp_path / "source"
    sealed_pocket(source)
    with (source / "model.onnx.data").open("r+b") as weights:
        weights.write(b"\1")
    wanted = tmp_path / "wanted"
    with pytest.raises(ModelError, match=r"^model\.onnx\.data is not the file that was packaged"):
        registry.fetch(str(source), wanted)
    assert not wanted.exists()


def test_a_mounted_volume_is_filled_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An init container's volume can't be exchanged for another folder: its contents are, and what a killed container left goes."""
    volume = tmp_path / "volume"
    (volume / ".pilothouse-incoming-dead").mkdir(parents=True)
    (volume / "lost+found").mkdir()
    (volume / "old" / "deep").mkdir(parents=True)
    (volume / "MLmodel").write_text("flavors: {}")
    inode = volume.stat().st_ino
    real = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == volume or real(path))
    registry.fetch(str(pocket.FOLDER), volume)
    assert names(volume) == sorted([*names(pocket.FOLDER), "lost+found"])
    assert volume.stat().st_ino == inode


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    """`/dev/full` answers as a full disk does."""

    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(ModelError) as refused:
        copying(write, tmp_path / "model")
    assert str(refused.value) == f"no space is left for the model in {tmp_path}; free some or give another folder"


@pytest.mark.parametrize("uri", ["gone", "s3://bucket/model", "hf:microsoft/Phi-3", "https://host/model", "file:///gone", ""])
def test_an_address_that_is_none_is_told_the_forms(uri: str) -> None:
    """Before MLflow is even imported."""
    with pytest.raises(ModelError) as refused:
        registry.resolve(uri)
    assert str(refused.value) == (
        f"{uri!r} is not a model: there is no such folder, and it is no model's address; "
        "give a folder, models:/name@alias, models:/name/version, models:/m-<id> or runs:/<run id>/<name>"
    )


def test_a_file_address_is_its_folder(tmp_path: Path) -> None:
    """As MLflow writes local places, spaces and all."""
    folder = tmp_path / "a model"
    folder.mkdir()
    assert registry.resolve(folder.as_uri()).folder == folder
