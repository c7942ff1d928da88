"""MLflow's model registry: what an alias points at now, and a tag on the version that was rolled out. The operator's one import of MLflow.

A store object for each server, with credentials of its own: nothing of the process's environment goes to a server that nobody vouched for.
"""

import json
import os
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pilothouse.operator.spec import Key, Registered
from pilothouse.operator.values import Pinned

DIGEST = "pilothouse_manifest"  # models.manifest.KEY: the tag that packaging leaves
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}


class RegistryUnavailable(Exception):
    """No answer, or one that says nothing about the model. Asking again may help."""


class NotRegistered(Exception):
    """The registry answered: there is no such model, alias or version."""


class Registry(Protocol):
    """What the controller needs of a registry."""

    def resolve(self, model: Registered) -> Pinned:
        """The version that `model` means now. Raises `RegistryUnavailable`, `NotRegistered`."""
        ...

    def tag(self, model: Registered, version: str, key: Key, value: str) -> None:
        """Write on a version what became of it. Raises `RegistryUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """How the operator shows itself to one server."""

    token: str | None = None
    username: str | None = None
    password: str | None = None


def _hang_up() -> None:
    """Close the connections that MLflow's client keeps. One that was made while the registry's address led elsewhere would be asked for ever:
    a Service without pods lets a node send its address into the world, where anything may answer."""
    from mlflow.utils import request_utils

    request_utils._cached_get_request_session.cache_clear()


class MlflowRegistry:
    """MLflow's own REST store. `folder` holds one sub-folder for each server that gets credentials: `uri`, and MLflow's names for the rest."""

    def __init__(self, folder: Path | None = None, *, listed_only: bool = False) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in PATIENCE.items()})
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self._folder, self._listed_only = folder, listed_only
        self._stores: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.calls = 0

    def resolve(self, model: Registered) -> Pinned:
        store = self._store(model.tracking_uri)
        if model.alias:
            found = self._ask(model, lambda: store.get_model_version_by_alias(model.name, model.alias))
        else:
            found = self._ask(model, lambda: store.get_model_version(model.name, model.version))
        version, tags = str(found.version), dict(found.tags)
        return Pinned(f"models:/{model.name}/{version}", version, tags.get(DIGEST))

    def tag(self, model: Registered, version: str, key: Key, value: str) -> None:
        from mlflow.entities import model_registry

        store = self._store(model.tracking_uri)
        entity: Any = model_registry.ModelVersionTag  # MLflow types only a part of itself
        tag = entity(f"pilothouse.rollout.{key.namespace}.{key.name}", value[:4900])
        self._ask(model, lambda: store.set_model_version_tag(model.name, version, tag))

    def _ask(self, model: Registered, question: Any) -> Any:
        from mlflow.exceptions import MlflowException

        with self._lock:
            self.calls += 1
        where = shown(model.tracking_uri)
        try:
            return question()
        except MlflowException as refusal:
            if refusal.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
                raise NotRegistered(
                    f"{model.uri} is not in {where}: {_line(refusal)}; set the alias, or name a version that is there"
                ) from refusal
            _hang_up()
            raise RegistryUnavailable(f"the registry {where} did not answer ({_line(refusal)})") from refusal
        except Exception as failure:
            _hang_up()
            raise RegistryUnavailable(f"the registry {where} did not answer ({type(failure).__name__})") from failure

    def _store(self, uri: str) -> Any:
        from mlflow.store.model_registry import rest_store
        from mlflow.utils import rest_utils

        listed = self._listed()
        if self._listed_only and uri not in listed:
            raise RegistryUnavailable(
                f"the registry {shown(uri)} is not one that this operator may ask; add it to its chart's `registries`"
            )
        with self._lock:
            if uri not in self._stores:

                def credentials() -> Any:
                    known = self._listed().get(uri, Credentials())
                    kind: Any = rest_utils.MlflowHostCreds
                    return kind(uri, username=known.username, password=known.password, token=known.token)

                store: Any = rest_store.RestStore
                self._stores[uri] = store(credentials)
            return self._stores[uri]

    def _listed(self) -> dict[str, Credentials]:
        """The servers that the operator's chart lists; read anew, since a Secret may change."""
        found: dict[str, Credentials] = {}
        if self._folder and self._folder.is_dir():
            uris: dict[str, str] = json.loads((self._folder / "registries.json").read_text())
            for name, uri in uris.items():
                said = {p.name: p.read_text().strip() for p in (self._folder / name).glob("MLFLOW_*")}
                found[uri] = Credentials(
                    said.get("MLFLOW_TRACKING_TOKEN"), said.get("MLFLOW_TRACKING_USERNAME"), said.get("MLFLOW_TRACKING_PASSWORD")
                )
        return found


def shown(uri: str) -> str:
    """A server's address without a user's name and password."""
    parts = urllib.parse.urlsplit(uri)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
