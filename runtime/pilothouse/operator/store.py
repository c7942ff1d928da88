"""What the watches have told: the newest of every object of ours. A reconcile reads here and asks the API server nothing."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pilothouse.operator.spec import KIND, OWNER, Key, Object

Name = tuple[str, str]  # kind and name


class Store:
    """Objects by kind, namespace and name, and by the LanguageModel whose they are. Safe in several threads; nobody may change a body."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[Key, Object] = {}
        self._owned: dict[Key, dict[Name, Object]] = defaultdict(dict)

    def put(self, kind: str, body: Mapping[str, Any]) -> Key | None:
        """Keep the object unless a newer one is kept. Answers whose it is; None for nobody's."""
        key = key_of(kind, body)
        if key is None:
            return None
        found = {**body, "kind": kind}
        with self._lock:
            if kind == KIND:
                if not _older(body, self._models.get(key)):
                    self._models[key] = found
            elif not _older(body, self._owned[key].get((kind, body["metadata"]["name"]))):
                self._owned[key][kind, body["metadata"]["name"]] = found
        return key

    def drop(self, kind: str, body: Mapping[str, Any]) -> Key | None:
        """The object is gone."""
        key = key_of(kind, body)
        if key is None:
            return None
        with self._lock:
            if kind == KIND:
                if self._models.get(key, {}).get("metadata", {}).get("uid") == body["metadata"]["uid"]:
                    del self._models[key]
            else:
                kept = self._owned[key].get((kind, body["metadata"]["name"]))
                if kept and kept["metadata"].get("uid") == body["metadata"].get("uid"):
                    del self._owned[key][kind, body["metadata"]["name"]]
        return key

    def model(self, key: Key) -> Object | None:
        return self._models.get(key)

    def models(self) -> list[Object]:
        with self._lock:
            return list(self._models.values())

    def get(self, key: Key, kind: str, name: str) -> Object | None:
        """An object of the LanguageModel."""
        with self._lock:
            return self._owned[key].get((kind, name))

    def all(self, key: Key, kind: str | None = None) -> list[Object]:
        """Everything that is the LanguageModel's, or of one kind."""
        with self._lock:
            return [body for (found, _), body in self._owned[key].items() if kind in (None, found)]

    def forget(self, key: Key) -> None:
        with self._lock:
            self._owned.pop(key, None)
            self._models.pop(key, None)


def key_of(kind: str, body: Mapping[str, Any]) -> Key | None:
    metadata = body["metadata"]
    name = metadata["name"] if kind == KIND else (metadata.get("labels") or {}).get(OWNER)
    return Key(metadata["namespace"], name) if name else None


def _older(body: Mapping[str, Any], kept: Mapping[str, Any] | None) -> bool:
    """Whether `kept` is newer: resource versions of one kind can be compared as numbers."""
    if kept is None or kept["metadata"].get("uid") != body["metadata"].get("uid"):
        return False
    return _number(body) < _number(kept)


def _number(body: Mapping[str, Any]) -> int:
    version = body["metadata"].get("resourceVersion", "0")
    return int(version) if str(version).isdecimal() else 0


def pods(bodies: Iterable[Object], labels: Mapping[str, str]) -> list[Object]:
    """Those that have the labels and stay."""
    return [
        body
        for body in bodies
        if "deletionTimestamp" not in body["metadata"] and labels.items() <= (body["metadata"].get("labels") or {}).items()
    ]
