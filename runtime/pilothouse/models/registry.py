"""From what a user calls a model (`models:/name@alias`, `models:/name/3`, `models:/m-...`, `runs:/id/name`, a folder) to a folder on this machine.

A registry's address is asked with bounded patience, and what it says about digests is checked on what came from it.
"""

import hashlib
import shutil
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import yaml

from pilothouse.errors import ModelError
from pilothouse.models import asking, manifest, placing, tracking
from pilothouse.models.asking import Asker
from pilothouse.models.finding import FORMS, Found, find
from pilothouse.models.source import MARKS

DEEPEST = 3  # folders around a model


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a model lies and what the registry says of it. `digest` is the manifest's (`sha256:<hex>`), where it was tagged."""

    uri: str
    folder: Path
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    run_id: str | None = None
    model_id: str | None = None


def resolve(uri: str, *, tracking_uri: str | None = None) -> Resolved:
    """The folder of `uri`: itself, the local store's own, or a copy in the cache (a copy that is whole is used again).

    `tracking_uri` is the MLflow store; None means MLFLOW_TRACKING_URI, else the SQLite file in the current folder. Raises `ModelError`
    that says what is unknown (name, alias, version, run) or that the store did not answer. Digests of the files are `manifest.verify`'s.
    """
    if (folder := _folder(uri)) is not None:
        return Resolved(uri, folder)
    address = tracking.address(tracking_uri)
    with asking.opened(address) as flow:
        found = find(flow, uri, address)
        if (here := local(found.source)) is not None:
            if not here.is_dir():
                raise ModelError(f"{uri}: its files are not at {here} on this machine; use a store that this machine reaches")
            return _resolved(uri, here, found)
        key = hashlib.sha256(f"{address}\n{found.source}\n{found.digest}".encode()).hexdigest()[:32]
        cached = placing.cache() / "models" / f"{found.name or 'model'}-{key}"
        if not (found.fixed and placing.whole(cached, found.digest)):
            _bring(flow, found, cached, uri, address)
    return _resolved(uri, cached, found)


def fetch(uri: str, folder: Path, *, digest: str | None = None, tracking_uri: str | None = None) -> Resolved:
    """A copy of the model in `folder`, its digests checked. The folder is made if missing, and changed only once the copy is whole.

    A folder that already holds that very model is left as it is. `digest` is what its manifest's must be (None: what the registry keeps).
    Raises `ModelError`.
    """
    if (source := _folder(uri)) is not None:
        manifest.verify(source, expected=digest)
        if source.resolve() != folder.resolve():
            with placing.incoming(folder) as arriving:
                placing.copying(lambda: shutil.copytree(source, arriving, dirs_exist_ok=True), folder)
                placing.put(arriving, folder)
        return Resolved(uri, folder)
    address = tracking.address(tracking_uri)
    with asking.opened(address) as flow:
        found = find(flow, uri, address)
        if digest and digest != found.digest:
            raise ModelError(f"{uri} is {found.digest or 'without a digest'} now, and {digest} was asked for; resolve it again")
        if not (found.fixed and found.digest and placing.whole(folder, found.digest)):
            _bring(flow, found, folder, uri, address)
    _label(folder, found)
    return _resolved(uri, folder, found)


# -- bringing the files ------------------------------------------------------------------------------------------------------------


def _bring(flow: ModuleType, found: Found, folder: Path, uri: str, address: str) -> None:
    ask = Asker(flow, address)
    with placing.incoming(folder) as arriving:
        arrived = placing.copying(
            lambda: ask(lambda: flow.artifacts.download_artifacts(artifact_uri=found.source, dst_path=str(arriving), tracking_uri=address)),
            folder,
        )
        if arrived is None or not Path(arrived).is_dir():
            raise ModelError(f"{uri}: its files are gone from the store {tracking.shown(address)}; package the model again")
        manifest.verify(Path(arrived), expected=found.digest)
        placing.put(Path(arrived), folder)


def _label(folder: Path, found: Found) -> None:
    """Name and version beside the model, as MLflow's own download writes them: who serves the folder knows what it is."""
    label = folder / manifest.REGISTERED
    if found.version and (folder / manifest.MLMODEL).is_file():
        label.write_text(yaml.safe_dump({"model_name": found.name, "model_version": found.version}))
    else:
        label.unlink(missing_ok=True)


# -- addresses --------------------------------------------------------------------------------------------------------------------


def _resolved(uri: str, folder: Path, found: Found) -> Resolved:
    return Resolved(uri, folder, found.name, found.version, found.digest, found.run_id, found.model_id)


def _folder(uri: str) -> Path | None:
    """The folder that `uri` names directly; None for an address in a store. Raises `ModelError` for anything else."""
    if uri.startswith(("models:/", "runs:/")):
        return None
    path = local(uri) if uri.startswith("file:") else Path(uri).expanduser()
    if not uri or path is None or not path.is_dir():
        raise ModelError(f"{uri!r} is not a model: there is no such folder, and it is no model's address; give {FORMS}")
    return inner(path)


def inner(folder: Path) -> Path:
    """The model's folder in what other tools lay around it: the one folder below, as long as there is one and only one.

    `mlflow models generate-dockerfile` has it in model_dir beside its Dockerfile, Azure ML in <name>/<version>/<folder>.
    """
    found = folder
    for _ in range(DEEPEST):
        if any((found / name).is_file() for name in MARKS):
            return found
        below = [path for path in found.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
        if len(below) != 1:
            break
        found = below[0]
    return found if any((found / name).is_file() for name in MARKS) else folder


def local(source: str) -> Path | None:
    """The path of a source on this machine; None for one that must be downloaded."""
    parts = urllib.parse.urlsplit(source)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(urllib.request.url2pathname(parts.path))
    return Path(source) if not parts.scheme and Path(source).is_absolute() else None
