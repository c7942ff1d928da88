"""What an MLflow store has under a model's address: where its files are, and what it says of them. No file is brought."""

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import manifest, tracking
from pilothouse.models.asking import Asker

FORMS = "a folder, models:/name@alias, models:/name/version, models:/m-<id> or runs:/<run id>/<name>"

_LOGGED = r"models:/+(m-[0-9a-zA-Z]+)"


@dataclass(frozen=True, slots=True)
class Found:
    """A model in the store; `source` is where its files are, `fixed` whether they can't change there."""

    source: str
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    fixed: bool = True


def find(flow: ModuleType, uri: str, address: str) -> Found:
    """What the store at `address`, opened as `flow`, has under `uri`; no file is brought. Raises `ModelError` as `resolve` does."""
    client = flow.MlflowClient()
    ask = Asker(flow, address)
    if match := re.fullmatch(_LOGGED, uri):
        return _logged(ask, client, match[1], f"no logged model {match[1]}")
    if match := re.fullmatch(r"models:/+([^/@]+)@([^/@]+)", uri):
        name, alias = match.groups()
        aliases = dict(_registered(ask, client, name).aliases)
        if alias not in aliases:
            known = f"it has {', '.join(sorted(aliases))}" if aliases else "it has none"
            raise ModelError(f"model {name!r} has no alias {alias!r} in {tracking.shown(address)} ({known}); set it or name a version")
        return _version(ask, client, name, str(aliases[alias]))
    if match := re.fullmatch(r"models:/+([^/@]+)/([^/@]+)", uri):
        name, version = match.groups()
        if version == "latest":
            _registered(ask, client, name)
            versions = ask(lambda: client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1))
            if not versions:
                raise ModelError(f"model {name!r} has no version in {tracking.shown(address)}; register one with `pilothouse package`")
            version = str(versions[0].version)
        if not version.isdecimal():
            raise ModelError(f"{uri}: {version!r} is no version number (stages are gone from MLflow); use models:/{name}@alias")
        return _version(ask, client, name, version)
    if match := re.fullmatch(r"runs:/+([0-9a-zA-Z]+)/(.+)", uri):
        return _of_run(ask, client, flow, match[1], match[2].strip("/"))
    raise ModelError(f"{uri!r} is not a model: no such folder here, and no model's address; give {FORMS}")


def _registered(ask: Asker, client: Any, name: str) -> Any:
    model = ask(lambda: client.get_registered_model(name))
    if model is None:
        raise ModelError(
            f"no model {name!r} is registered in {tracking.shown(ask.address)}; `pilothouse package onnx --register {name}` makes one"
        )
    return model


def _version(ask: Asker, client: Any, name: str, version: str) -> Found:
    found = ask(lambda: client.get_model_version(name, version))
    if found is None:
        _registered(ask, client, name)
        raise ModelError(f"model {name!r} has no version {version} in {tracking.shown(ask.address)}; name one that it has")
    source = ask(lambda: client.get_model_version_download_uri(name, version))
    if not source:
        raise ModelError(f"version {version} of model {name!r} names no files; register it again")
    return Found(
        source=_plain(ask, client, str(source)),
        name=name,
        version=version,
        digest=found.tags.get(manifest.KEY),
        run_id=found.run_id or None,
        model_id=found.model_id or (match[1] if (match := re.fullmatch(_LOGGED, str(found.source))) else None),
    )


def _plain(ask: Asker, client: Any, source: str) -> str:
    """A version's source may itself be a logged model."""
    if match := re.fullmatch(_LOGGED, source):
        return _logged(ask, client, match[1], f"its logged model {match[1]} is gone").source
    return source


def _logged(ask: Asker, client: Any, model_id: str, missing: str) -> Found:
    model = ask(lambda: client.get_logged_model(model_id))
    if model is None:
        raise ModelError(f"{missing} in {tracking.shown(ask.address)}; name another, or package the model again")
    return Found(
        source=str(model.artifact_location),
        name=model.name,
        digest=model.tags.get(manifest.KEY),
        run_id=model.source_run_id or None,
        model_id=model.model_id,
    )


def _of_run(ask: Asker, client: Any, flow: ModuleType, run_id: str, path: str) -> Found:
    run = ask(lambda: client.get_run(run_id))
    if run is None:
        raise ModelError(f"no run {run_id} in {tracking.shown(ask.address)}; copy its id from the run's page")
    models = ask(
        lambda: client.search_logged_models([run.info.experiment_id], filter_string=f"name = '{path}' AND source_run_id = '{run_id}'")
    )
    if models:
        return _logged(ask, client, max(models, key=lambda m: m.creation_timestamp).model_id, "its logged model is gone")
    below = f"{run.info.artifact_uri.rstrip('/')}/{path}"
    if not ask(lambda: client.list_artifacts(run_id, path)):
        raise ModelError(f"run {run_id} has no model {path!r} in {tracking.shown(ask.address)}; name one that it logged")
    return Found(source=below, name=path.rsplit("/", 1)[-1], run_id=run_id, fixed=False)
