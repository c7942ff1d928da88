"""A model's files and their digests: written when it is packaged, checked before anything of it is read.

`pilothouse-manifest.json` lists the SHA-256 of every file; the MLmodel file names the manifest's own digest, and the registry keeps that
one as a tag of the version. So one byte changed anywhere is found, and with the tag a whole set that was exchanged is found as well.
Two texts that name each other's digest can't both come first: the MLmodel file is hashed with the manifest's digest blanked out.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pilothouse.errors import ModelError
from pilothouse.models import onnx_files

NAME = "pilothouse-manifest.json"
KEY = "pilothouse_manifest"
"""The key of the manifest's digest: in the MLmodel's metadata and in the registry's tags."""
BLANK = "sha256:" + "0" * 64
"""What packaging writes under `KEY`; `seal` replaces it."""
MLMODEL = "MLmodel"
REGISTERED = "registered_model_meta"
"""What MLflow writes into a download: the name and version that were asked for."""
_IN_MLMODEL = re.compile(rb"(?m)^( *%b: )(sha256:[0-9a-f]{64})\r?$" % KEY.encode())
_LARGEST = 64 << 20  # bytes of a manifest


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its SHA-256 in hex and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`digest` is `sha256:<hex>` of the manifest file itself; `files` maps paths within the folder, with forward slashes."""

    digest: str
    files: Mapping[str, Entry]


def seal(folder: Path) -> Manifest:
    """Write the manifest of `folder` and its digest into the MLmodel file, whose `KEY` must hold `BLANK` (a bare folder has no MLmodel).

    Raises `ModelError` for what `verify` would refuse.
    """
    (folder / NAME).unlink(missing_ok=True)
    files = {path: _entry(folder, path) for path in sorted(contents(folder)) if not _ignored(path)}
    text = json.dumps(
        {"algorithm": "sha256", "files": {path: {"sha256": e.sha256, "bytes": e.bytes} for path, e in files.items()}, "version": 1},
        indent=1,
    ).encode()
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    if MLMODEL in files:
        mlmodel = (folder / MLMODEL).read_bytes()
        sealed, count = _IN_MLMODEL.subn(rb"\g<1>" + digest.encode(), mlmodel)
        if count != 1 or BLANK.encode() not in mlmodel:
            raise ModelError(f"{MLMODEL}: metadata needs {KEY}: {BLANK} once, to be sealed")
        (folder / MLMODEL).write_bytes(sealed)
    (folder / NAME).write_bytes(text)
    return Manifest(digest, files)


def verify(folder: Path, *, expected: str | None = None) -> Manifest | None:
    """Check every file of `folder` and answer its manifest; None for a model that was packaged without one.

    `expected` is the digest that the registry keeps. Raises `ModelError` that names the first file that is changed, missing, unexpected, a
    link, or an ONNX file that reads outside the folder. Nothing of the model is run or parsed but those files' own structure.
    """
    found = contents(folder)
    for path in found:
        if path.endswith(".onnx"):
            onnx_files.check(folder / path)
    named = _named(folder)
    if NAME not in found:
        if named or expected:
            raise ModelError(f"{NAME} is missing, and this model was packaged with one; fetch the model again")
        return None
    manifest = _read(folder / NAME)
    for other, where in ((named, MLMODEL), (expected, "the registry")):
        if other and other != manifest.digest:
            raise ModelError(f"{NAME} is not the one that {where} names ({other}); fetch the model again")
    if MLMODEL in manifest.files and not named:
        raise ModelError(f"{MLMODEL} does not name its manifest any more; fetch the model again")
    for path in sorted(found - {NAME}):
        if path not in manifest.files and not _ignored(path):
            raise ModelError(f"{path} is not in the model's manifest; remove it or fetch the model again")
    for path, entry in manifest.files.items():
        if path not in found:
            raise ModelError(f"{path} is in the model's manifest and missing; fetch the model again")
        if _entry(folder, path) != entry:
            raise ModelError(f"{path} is not the file that was packaged (its SHA-256 differs); fetch the model again")
    return manifest


def contents(folder: Path) -> set[str]:
    """Paths of all files of `folder`. Raises `ModelError` that names a link, a device, a socket or a folder that can't be read."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give the model's folder")
    return set(_walk(folder, PurePosixPath()))


def _walk(root: Path, below: PurePosixPath) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise ModelError(f"{root / below} can't be read ({type(error).__name__}); check its permissions") from None
    for entry in entries:
        path = below / entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(root, path)
        elif stat.S_ISREG(mode):
            yield str(path)
        elif stat.S_ISLNK(mode):
            raise ModelError(f"{path} is a link, and a model's files must be its own; copy the folder with cp -rL")
        else:
            raise ModelError(f"{path} is neither a file nor a folder; remove it")


def _ignored(path: str) -> bool:
    """Python's byte code beside code (never read here: see `generic`), and what MLflow adds to a download."""
    return path == REGISTERED or ("__pycache__" in PurePosixPath(path).parts and path.endswith(".pyc"))


def _entry(folder: Path, path: str) -> Entry:
    if path == MLMODEL:
        blanked = _IN_MLMODEL.sub(rb"\g<1>" + BLANK.encode(), (folder / path).read_bytes())
        return Entry(hashlib.sha256(blanked).hexdigest(), len(blanked))
    with (folder / path).open("rb") as opened:
        return Entry(hashlib.file_digest(opened, "sha256").hexdigest(), os.fstat(opened.fileno()).st_size)


def _named(folder: Path) -> str | None:
    """The manifest's digest as the MLmodel file has it."""
    if not (folder / MLMODEL).is_file():
        return None
    matches = _IN_MLMODEL.findall((folder / MLMODEL).read_bytes())
    if len(matches) > 1:
        raise ModelError(f"{MLMODEL} names {KEY} more than once; fetch the model again")
    return matches[0][1].decode() if matches else None


def _read(file: Path) -> Manifest:
    """The manifest of a file. Every path must stay within the folder."""
    broken = ModelError(f"{NAME} can't be read; fetch the model again")
    if file.stat().st_size > _LARGEST:
        raise broken
    text = file.read_bytes()
    try:
        data = json.loads(text)
        files = {str(path): Entry(str(entry["sha256"]), int(entry["bytes"])) for path, entry in data["files"].items()}
        version, algorithm = data["version"], data["algorithm"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise broken from None
    if (version, algorithm) != (1, "sha256"):
        raise ModelError(
            f"{NAME} is of version {version!r} with {algorithm!r}, and this release reads version 1 with sha256; upgrade Pilothouse"
        )
    for path in files:
        parts = PurePosixPath(path).parts
        if (
            not parts
            or PurePosixPath(path).is_absolute()
            or ".." in parts
            or "\\" in path
            or "\0" in path
            or str(PurePosixPath(path)) != path
        ):
            raise ModelError(f"{NAME} names {path!r}, which lies outside the model's folder; fetch the model again")
    return Manifest("sha256:" + hashlib.sha256(text).hexdigest(), files)
