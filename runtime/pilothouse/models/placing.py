"""Putting a model's files in a folder: a whole one or none, beside what is there or within a mounted volume."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pilothouse.errors import ModelError
from pilothouse.models import manifest

T = TypeVar("T")

_INCOMING = ".pilothouse-incoming-"


@contextmanager
def incoming(folder: Path) -> Iterator[Path]:
    """A place on the same file system as `folder`: within it when it is a mount (a volume can't be exchanged), else beside it."""
    _demand_replaceable(folder)
    try:
        if folder.is_dir() and os.path.ismount(folder):
            for left in folder.glob(_INCOMING + "*"):  # of a container that was killed
                shutil.rmtree(left, ignore_errors=True)
            within = folder
        else:
            within = folder.absolute().parent
            within.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=_INCOMING, dir=within)
    except OSError as error:
        raise ModelError(f"{folder} can't be written ({error.strerror}); give a folder that can") from None
    with made as arriving:
        yield Path(arriving)


def put(arrived: Path, folder: Path) -> None:
    """Exchange what is in `folder` for `arrived`, which lies on the same file system."""
    if not folder.exists():
        arrived.rename(folder)
    elif not os.path.ismount(folder):
        old = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=folder.absolute().parent))
        folder.rename(old / "old")
        arrived.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        for entry in folder.iterdir():
            if entry.name != "lost+found" and not arrived.is_relative_to(entry):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for entry in arrived.iterdir():
            entry.rename(folder / entry.name)


def _demand_replaceable(folder: Path) -> None:
    """Only an empty folder or one that holds a model is ever replaced."""
    if not folder.exists():
        return
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(_INCOMING)} if folder.is_dir() else {"a file"}
    if names - {"lost+found"} and not names & {"MLmodel", "genai_config.json", "config.json", manifest.NAME}:
        raise ModelError(f"{folder} is not empty and holds no model, so it is not replaced; give another folder")


def whole(folder: Path, digest: str | None) -> bool:
    """`folder` holds a model whose files are as its manifest, and `digest`, say."""
    try:
        return folder.is_dir() and any(folder.iterdir()) and (manifest.verify(folder, expected=digest) is not None or digest is None)
    except ModelError:
        return False


def copying(work: Callable[[], T], folder: Path) -> T:
    """Run `work`, which fills a disk."""
    try:
        return work()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"no space is left for the model in {folder.absolute().parent}; free some or give another folder") from None
        raise ModelError(f"the model can't be copied to {folder} ({error.strerror}); check permissions") from None


def cache() -> Path:
    """Where downloaded models are kept: the user's cache folder, or a fresh one where there is none."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="pilothouse-"))
    return place if os.access(place, os.W_OK) else Path(tempfile.mkdtemp(prefix="pilothouse-"))
