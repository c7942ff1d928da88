"""The cluster is made to hold what is wanted, and nothing else of ours; what others own is not touched, and what is right already costs no call."""

from collections.abc import Mapping
from typing import Any

from pilothouse.operator import objects, values
from pilothouse.operator.cluster import Cluster, Refused
from pilothouse.operator.spec import REVISION, Model, Object
from pilothouse.operator.store import Store

GENERATIONS = frozenset({"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"})
"""Kinds whose status is written by others: their generation says whether the specification changed."""
Applied = dict[tuple[str, str], tuple[str, str]]
"""Kind and name -> what was applied, and what the object was then."""


class Taken(Refused):
    """An object of that name is somebody else's."""


class Applier:
    """For one LanguageModel; `applied` is what this process did before."""

    def __init__(self, cluster: Cluster, store: Store, model: Model, applied: Applied) -> None:
        self._cluster, self._store, self._model, self._applied = cluster, store, model, applied

    def apply(self, body: Object) -> None:
        """Have the object as in `body`. Raises `Refused`, and `Taken` where it is somebody else's."""
        kind, name, digest = body["kind"], body["metadata"]["name"], values.digest_of(body)
        kept = self._store.get(self._model.key, kind, name)
        if kept is not None and self._applied.get((kind, name)) == (digest, _mark(kept)) and _covers(body, kept):
            return
        if kept is None:
            self._demand_free(kind, name)
        elif objects.handed_over(body, kept):
            self._hand_over(body)
        made = self._cluster.apply(body)
        self._store.put(kind, made)
        self._applied[kind, name] = (digest, _mark(made))

    def create(self, body: Object) -> None:
        """Make the object where there is none."""
        if self._store.get(self._model.key, body["kind"], body["metadata"]["name"]) is None and (made := self._cluster.create(body)):
            self._store.put(body["kind"], made)

    def prune(self, desired: set[tuple[str, str]], held: set[str]) -> None:
        """Take away what is ours and not in `desired` (kinds and names), but nothing of the releases in `held`."""
        for body in self._store.all(self._model.key):
            kind, name, labels = body["kind"], body["metadata"]["name"], body["metadata"]["labels"]
            if kind == "ControllerRevision" or (kind, name) in desired or "deletionTimestamp" in body["metadata"]:
                continue
            if kind == "Pod" and REVISION not in labels:
                continue  # a Deployment's, which takes it away itself
            if objects.owned(body, self._model) and (kind == "Pod" or labels.get("app.kubernetes.io/instance") not in held):
                self.delete(body)

    def delete(self, body: Object) -> None:
        kind, name = body["kind"], body["metadata"]["name"]
        self._cluster.delete(kind, self._model.key.namespace, name)
        self._store.drop(kind, body)
        self._applied.pop((kind, name), None)

    def _hand_over(self, body: Object) -> None:
        """Leave how many pods there are to an autoscaler, as many as there are now."""
        live = self._cluster.get(body["kind"], self._model.key.namespace, body["metadata"]["name"])
        if live and (handed := objects.handed_over(body, live)):
            self._cluster.apply(handed, objects.HANDOVER)

    def _demand_free(self, kind: str, name: str) -> None:
        """Nothing of somebody else's is taken over."""
        there = self._cluster.get(kind, self._model.key.namespace, name)
        way_out = "give the LanguageModel another name"
        if there and not objects.owned(there, self._model):
            raise Taken(409, f"{kind} {name} is there already and not this LanguageModel's; remove it, or {way_out}")
        if kind == "Deployment" and not there:
            labels = f"app.kubernetes.io/name=pilothouse,app.kubernetes.io/instance={name}"
            found = self._cluster.deployments(self._model.key.namespace, labels)
            if strangers := [d["metadata"]["name"] for d in found if not objects.owned(d, self._model)]:
                raise Taken(409, f"the Helm release {name} (Deployment {strangers[0]}) has pods of the same labels; {way_out}")


def _mark(body: Mapping[str, Any]) -> str:
    """What changes when somebody changes what we applied."""
    metadata = body["metadata"]
    return str(metadata.get("generation", "") if body["kind"] in GENERATIONS else metadata.get("resourceVersion", ""))


def _covers(body: Object, kept: Mapping[str, Any]) -> bool:
    """Whether labels and annotations are still ours: a generation says nothing of them."""
    return all(
        (body["metadata"].get(part) or {}).items() <= (kept["metadata"].get(part) or {}).items() for part in ("labels", "annotations")
    )
