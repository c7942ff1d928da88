"""From a LanguageModel to the chart's values, and from those to what a revision is. Pure.

The chart stays the only description of the workload: nothing here knows what its objects look like.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.operator.spec import GROUP, Key, Model, Object

CANDIDATE = "-candidate"
SCALE = ("replicas", "autoscaling")
"""Values that say how many, not what: they never make a new revision."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a registry's address became: one version that does not move, and the digest that the registry keeps of it."""

    uri: str
    version: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One way of serving: the chart's values without the numbers, and the hash of the pods that they make.

    Two revisions with the same `fingerprint` have the same pods: going from one to the other is no rollout.
    """

    name: str
    values: Mapping[str, Any]
    fingerprint: str
    version: str | None = None
    digest: str | None = None
    uri: str | None = None


def chart_values(model: Model, pinned: Pinned | None) -> Object:
    """The chart's values for what is to be served, without how many. `pinned` is needed for a model of a registry."""
    spec = copy.deepcopy(model.spec)
    source = spec["source"]
    values: Object = spec.get("values") or {}
    for name in ("settings", "apiKeys", "image", "imagePullSecrets", "profile"):
        if name in spec:
            values[name] = spec[name]
    described: Object = {"kind": spec.get("kind", "onnx"), "name": spec.get("modelName", "")}
    annotations: Object = {}
    if "registry" in source:
        assert pinned
        registry = source["registry"]
        described |= {"source": "mlflow", "mlflow": {"uri": pinned.uri, "trackingUri": registry["trackingUri"]}}
        described["mlflow"] |= {
            ours: registry[theirs] for ours, theirs in (("existingSecret", "secretName"), ("sizeLimit", "sizeLimit")) if theirs in registry
        }
        # The init container of every later pod of this revision is held to it, whatever the registry's tag has become.
        described["mlflow"] |= {"digest": pinned.digest} if pinned.digest else {}
        # A version that was tagged anew with another digest is another revision.
        annotations = {f"{GROUP}/version": pinned.version, f"{GROUP}/digest": pinned.digest or "none"}
    elif "pvc" in source:
        described |= {"source": "pvc", "pvc": source["pvc"]}
    elif "imageVolume" in source:
        described |= {"source": "imageVolume", "imageVolume": source["imageVolume"]}
    else:
        described |= {"source": "image"}
    values["model"] = described
    values["podAnnotations"] = {**values.get("podAnnotations", {}), **annotations}
    return values


def scale_values(model: Model) -> Object:
    """How many: what the LanguageModel says now, whatever is rolled out."""
    return {name: model.spec[name] for name in SCALE if name in model.spec}


def main_values(key: Key, values: Mapping[str, Any], scale: Mapping[str, Any]) -> Object:
    """Values of the release that serves. Its Service is called as the LanguageModel is."""
    return {**values, **scale, "fullnameOverride": key.name}


def candidate_values(key: Key, values: Mapping[str, Any]) -> Object:
    """Values of the release that is only looked at: one pod, no door to it but for its check."""
    tested = {f"{GROUP}/nobody": "but-the-check"}
    shut: Object = {
        "fullnameOverride": key.name + CANDIDATE,
        "replicas": 1,
        "autoscaling": {"kind": "none"},
        "ingress": {"enabled": False},
        "gateway": {"enabled": False},
        "metrics": {**values.get("metrics", {}), **{part: {"enabled": False} for part in ("serviceMonitor", "rules", "dashboard")}},
        "service": {"type": "ClusterIP"},
    }
    # The chart adds its own test pod to whoever is named here; nobody has this label.
    policy = {**values.get("networkPolicy", {}), "from": [{"podSelector": {"matchLabels": tested}}]}
    return {**values, **shut, "networkPolicy": policy}


def url(model: Model) -> str:
    """Where the serving release answers within the cluster."""
    secure = (model.spec.get("values") or {}).get("tls", {}).get("existingSecret")
    return f"http{'s' if secure else ''}://{model.key.name}.{model.key.namespace}.svc:8080"


def release(key: Key, *, candidate: bool) -> str:
    """Name of the release, and of its objects."""
    return key.name + (CANDIDATE if candidate else "")


def revision(key: Key, values: Mapping[str, Any], pod_template: Mapping[str, Any], pinned: Pinned | None) -> Revision:
    """`pod_template` is what the chart made of `values` for the serving release."""
    fingerprint = digest_of(pod_template)
    name = f"{key.name}-{digest_of({'values': values, 'pods': fingerprint})[:10]}"
    if pinned is None:
        return Revision(name, values, fingerprint)
    return Revision(name, values, fingerprint, pinned.version, pinned.digest, pinned.uri)


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 in hex of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
