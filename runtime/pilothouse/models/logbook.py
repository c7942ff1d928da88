"""Logging a model with MLflow: saved, tried, sealed, uploaded, registered, in that order.

MLflow's own `log_model` has no place between saving and uploading, so its flavors are handed to `Model.log` in a wrapper that has one.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import manifest, registry, runs, tracking

Say = Callable[[str], None]
"""Gets a line for each step of long work."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model goes: the MLflow store (None: MLFLOW_TRACKING_URI, else a SQLite file here), its experiment, and a registered name."""

    tracking_uri: str | None = None
    experiment: str = runs.EXPERIMENT
    register: str | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        if self.register is not None and not re.fullmatch(r"[^/:@\s][^/:@]*", self.register):
            raise ModelError(f"registered name {self.register!r} must not be empty or hold / : @; choose another")
        if self.alias is not None and self.register is None:
            raise ModelError(f"alias {self.alias!r} needs a registered name; add --register NAME")
        if self.alias is not None and (
            not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", self.alias) or re.fullmatch(r"latest|v\d+", self.alias, re.I)
        ):
            raise ModelError(
                f"alias {self.alias!r} is none that MLflow takes (letters, digits, - and _; not latest, not v1); choose another"
            )


@dataclass(frozen=True, slots=True)
class Packaged:
    """A logged model. `digest` is its manifest's; `files` the SHA-256 of every file; `folder` where its files lie, if on this machine."""

    run_id: str
    model_id: str
    model_uri: str
    tracking_uri: str
    digest: str
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    folder: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    page: str = ""  # the run's address for people

    @property
    def uri(self) -> str:
        """The address to serve it by: the alias, the version, or the logged model itself."""
        if self.name is None:
            return self.model_uri
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


class _Sealing:
    """A flavor to `Model.log` that writes the manifest between saving and uploading, which MLflow has no place for."""

    def __init__(self, flavor: ModuleType, check: Callable[[Path], object], say: Say) -> None:
        self._flavor, self._check, self._say = flavor, check, say
        self.__name__ = flavor.__name__
        self.sealed: manifest.Manifest | None = None

    def save_model(self, path: str, **kwargs: Any) -> None:
        kwargs.pop("validate_serving_input")  # told to MLflow, which would load the model once more to try it
        self._flavor.save_model(path=path, **kwargs)
        self._say("trying it")
        self._check(Path(path))
        for byte_code in Path(path).rglob("__pycache__"):
            shutil.rmtree(byte_code)
        self._say("writing the manifest")
        self.sealed = manifest.seal(Path(path))
        self._say("uploading")


class Session:
    """An MLflow store that a model is logged to."""

    def __init__(self, flow: ModuleType, address: str, target: Target, source: Path, say: Say) -> None:
        self.flow, self.address, self.target, self.source, self.say = flow, address, target, source, say
        self.client = flow.MlflowClient()

    def log(
        self,
        flavor: ModuleType,
        flavor_name: str,
        name: str,
        check: Callable[[Path], object],
        *,
        facts: Mapping[str, Any],
        **kwargs: Any,
    ) -> Packaged:
        """Log with `flavor` under `name`, then register as the target says. `check` judges the saved folder; `facts` become metadata.

        The run has the facts and the model's own configuration as parameters, the source folder as its input and the files' digests.
        """
        from mlflow.models import Model

        sealing = _Sealing(flavor, check, self.say)
        began = time.monotonic()
        config = {f"model_config.{key}": value for key, value in (kwargs.get("model_config") or {}).items()}
        params = {"flavor": flavor_name, "source": self.source.absolute(), "registered_name": self.target.register, **facts, **config}
        with runs.started(self.flow, self.address, "package", name, experiment_name=self.target.experiment, params=params) as run:
            runs.log_folder(self.flow, self.source, self.source.name, "package")
            info = Model.log(
                name=name,
                flavor=sealing,
                flavor_name=flavor_name,
                artifact_path=None,
                metadata={"pilothouse_name": name, **{f"pilothouse_{k}": v for k, v in facts.items()}, manifest.KEY: manifest.BLANK},
                validate_serving_input=False,
                **kwargs,
            )
            assert sealing.sealed is not None  # saved, or Model.log raised
            sealed = sealing.sealed
            log_exported(self.flow, sealed, began)
        self.client.set_logged_model_tags(info.model_id, {manifest.KEY: sealed.digest})
        registered = self.register(info.model_id, run.info.run_id, sealed.digest)
        location = str(self.client.get_logged_model(info.model_id).artifact_location)
        folder = registry.local(location)
        if folder is not None:
            manifest.verify(folder, expected=sealed.digest)
        return Packaged(
            run_id=run.info.run_id,
            model_id=info.model_id,
            model_uri=info.model_uri,
            tracking_uri=tracking.shown(self.address),
            digest=sealed.digest,
            name=self.target.register,
            version=registered,
            alias=self.target.alias,
            folder=folder,
            files={path: entry.sha256 for path, entry in sealed.files.items()},
            page=runs.page(self.address, run),
        )

    def register(self, model_id: str, run_id: str, digest: str) -> str | None:
        """A new version of the registered name, with the digest as its tag and the alias on it; its number."""
        name = self.target.register
        if name is None:
            return None
        self.say(f"registering {name}")
        try:
            self.client.create_registered_model(name)
        except self.flow.exceptions.MlflowException as refusal:
            if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags={manifest.KEY: digest}, model_id=model_id)
        if self.target.alias:
            self.client.set_registered_model_alias(name, self.target.alias, made.version)
        return str(made.version)


def log_exported(flow: ModuleType, sealed: manifest.Manifest, began: float) -> None:
    """What came out of the active run: the digests of every file, their number and bytes, and the seconds since `began`."""
    flow.set_tag(manifest.KEY, sealed.digest)
    flow.log_dict({path: entry.sha256 for path, entry in sealed.files.items()}, "digests.json")
    size = sum(entry.bytes for entry in sealed.files.values())
    flow.log_metrics({"files": len(sealed.files), "bytes": size, "seconds": time.monotonic() - began})


@contextmanager
def session(target: Target | None, folder: Path, say: Say, *, copies: bool = True) -> Iterator[Session]:
    """The store of `target`; what it or the disk refuses becomes a `ModelError`.

    `copies`: the model in `folder` will be copied there, so that there must be room for it.
    """
    target = target or Target()
    address = tracking.address(target.tracking_uri)
    if copies:
        _demand_space(folder, address)
    with tracking.store(address) as flow:
        try:
            yield Session(flow, address, target, folder, say)
        except ModelError:
            raise
        except flow.exceptions.MlflowException as refusal:
            raise ModelError(f"the MLflow store {tracking.shown(address)} refused: {tracking.said(refusal)}") from refusal
        except OSError as error:
            raise ModelError(
                f"the model can't be written ({error.strerror or type(error).__name__}); check space and permissions"
            ) from error


def _demand_space(folder: Path, address: str) -> None:
    """Room for the copy that is saved and, in a local store, for the one that is kept. Raises `ModelError` with both numbers."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    file = tracking.database(address)
    places = [Path(tempfile.gettempdir()), *([file.parent] if file else [])]
    for place in places:
        if not place.is_dir():
            raise ModelError(f"{place} is not a folder; make it, or name another store with --tracking-uri")
        needed = size * sum(other.stat().st_dev == place.stat().st_dev for other in places if other.is_dir())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise ModelError(
                f"no space for the model in {place}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} free; free some, or set TMPDIR"
            )
