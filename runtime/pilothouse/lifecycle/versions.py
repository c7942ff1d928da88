"""Versions of a registered model, as the registry has them now: an address becomes one of them once, and the rest is said of that one."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import asking, finding, manifest, tracking
from pilothouse.models.asking import Asker

PREFIX = "pilothouse."
"""Of every tag that this room writes."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version. `digest` is its manifest's (`sha256:<hex>`), None where it was registered without Pilothouse."""

    name: str
    number: str
    digest: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The address that can't move."""
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


class Registry:
    """MLflow's registry, opened for a while. Every method raises `ModelError` where it does not answer."""

    def __init__(self, flow: ModuleType, address: str) -> None:
        self.flow, self.address = flow, address
        self._client: Any = flow.MlflowClient()
        self.ask = Asker(flow, address)

    def find(self, uri: str) -> Version:
        """The version that `models:/name@alias`, `models:/name/version` or `models:/name/latest` is now. Raises `ModelError`."""
        if not re.fullmatch(r"models:/+[^/@]+[/@][^/@]+", uri):
            raise ModelError(f"{uri!r} names no registered version; give models:/name@alias or models:/name/version")
        found = finding.find(self.flow, uri, self.address)
        return self.get(str(found.name), str(found.version))

    def get(self, name: str, number: str) -> Version:
        """The version of that number. Raises `ModelError` for one that is not there."""
        known = self.ask(lambda: self._client.get_model_version(name, number))
        if known is None:
            raise ModelError(f"model {name!r} has no version {number} in {tracking.shown(self.address)}; name one that it has")
        digest = known.tags.get(manifest.KEY)
        aliases = tuple(sorted(known.aliases))
        return Version(name, str(known.version), digest, known.run_id or None, known.model_id or None, aliases, dict(known.tags))

    def holder(self, name: str, alias: str) -> Version | None:
        """The version that `alias` names now; None where the model has no such alias. Raises `ModelError` for an unknown model."""
        model = self.ask(lambda: self._client.get_registered_model(name))
        if model is None:
            raise ModelError(f"no model {name!r} is registered in {tracking.shown(self.address)}; `pilothouse package` makes one")
        number = dict(model.aliases).get(alias)
        return self.get(name, str(number)) if number is not None else None

    def move(self, version: Version, alias: str) -> None:
        """Point `alias` at the version."""
        self._tell(lambda: self._client.set_registered_model_alias(version.name, alias, version.number), version)

    def note(self, version: Version, tags: Mapping[str, str]) -> None:
        """Write tags of the version, each over the one of the same key."""
        for key, value in tags.items():
            self._tell(lambda k=key, v=value: self._client.set_model_version_tag(version.name, version.number, k, v), version)

    def run(self, run_id: str) -> Any:
        """MLflow's run of that id, or None."""
        return self.ask(lambda: self._client.get_run(run_id))

    def _tell(self, words: Any, version: Version) -> None:
        """A write: what the registry no longer has is an error here."""

        def say() -> bool:
            words()
            return True

        if self.ask(say) is None:
            raise ModelError(f"{version} is gone from {tracking.shown(self.address)}; name one that it has")


@contextmanager
def opened(tracking_uri: str | None = None) -> Iterator[Registry]:
    """The registry at `tracking_uri` (None: MLFLOW_TRACKING_URI, else the SQLite file here). MLflow's address is the process's own while
    it is open, so one thread at a time may hold one. Raises `ModelError`."""
    address = tracking.address(tracking_uri)
    with asking.opened(address) as flow:
        yield Registry(flow, address)
