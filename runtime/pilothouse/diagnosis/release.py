"""A release on a cluster, judged by its objects as Kubernetes tells them: what keeps its pods from answering, and what to change."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilothouse.diagnosis.finding import Finding

Object = Mapping[str, Any]

OLDEST = (1, 30)  # the chart's kubeVersion
GPU = "nvidia.com/gpu"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


@dataclass(frozen=True, slots=True)
class Release:
    """What was read of one release and its cluster. Objects are Kubernetes' own JSON."""

    name: str
    namespace: str
    version: str  # the server's, as "v1.34.3"
    deployments: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    nodes: Sequence[Object] = ()
    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)  # names, and the keys that each has
    claims: frozenset[str] = frozenset()  # names of the namespace's PersistentVolumeClaims
    weights: int | None = None  # bytes of the model's files, where the model was named
    least: int | None = None  # bytes of memory for that model and one short chat


def findings(release: Release) -> list[Finding]:
    """Everything worth a line; the first wrong one is usually the cause of the others."""
    found = list(_cluster(release))
    if not release.deployments:
        text = f"no release of that name in namespace {release.namespace}: see `helm list -A`, and name its namespace with --namespace"
        return [*found, Finding("wrong", release.name, text)]
    for deployment in release.deployments:
        spec = deployment["spec"]["template"]["spec"]
        found += [*_gpu(release, spec), *_memory(release, spec), *_references(release, spec)]
    found += [finding for pod in release.pods for finding in _pod(release, pod)]
    ready = sum(int(d.get("status", {}).get("readyReplicas") or 0) for d in release.deployments)
    wanted = sum(int(d["spec"].get("replicas") or 0) for d in release.deployments)
    if ready < wanted:
        return [*found, Finding("wrong" if not ready else "note", "pods", f"{ready} of {wanted} are ready")]
    return [*found, Finding("ok", "pods", f"{ready} of {wanted} are ready")]


def secrets_of(deployments: Sequence[Object]) -> list[str]:
    """The names of the Secrets that their pods need."""
    return sorted({name for deployment in deployments for name, _ in _secrets(deployment["spec"]["template"]["spec"])})


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity, as in 6Gi."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]  # what the API server took is one
    return int(float(number) * _UNITS[unit])


def _cluster(release: Release) -> Iterator[Finding]:
    major, minor = (int(part) for part in re.findall(r"\d+", release.version)[:2])
    oldest = ".".join(map(str, OLDEST))
    if (major, minor) < OLDEST:
        yield Finding(
            "wrong", "kubernetes", f"{release.version} is older than {oldest}, which the chart's probes and hooks need: upgrade the cluster"
        )
    else:
        yield Finding("ok", "kubernetes", release.version)


def _limits(spec: Object) -> Mapping[str, Any]:
    limits: Mapping[str, Any] = spec["containers"][0].get("resources", {}).get("limits") or {}
    return limits


def _gpu(release: Release, spec: Object) -> Iterator[Finding]:
    wanted = int(_limits(spec).get(GPU) or 0)
    if not wanted:
        return
    selector = spec.get("nodeSelector") or {}
    fitting = [node for node in release.nodes if selector.items() <= node["metadata"].get("labels", {}).items()]
    if not fitting:
        told = ", ".join(f"{name}={value}" for name, value in selector.items())
        yield Finding("wrong", "gpu", f"no node has the labels {told}: label the GPU nodes, or change profiles.gpu.nodeSelector")
    elif not any(int(node["status"].get("allocatable", {}).get(GPU) or 0) >= wanted for node in fitting):
        text = f"the profile asks for {wanted} {GPU} and no node offers it: install the GPU's device plugin, or set profile to cpu"
        yield Finding("wrong", "gpu", text)
    else:
        yield Finding("ok", "gpu", f"a node offers {wanted} {GPU}")


def _memory(release: Release, spec: Object) -> Iterator[Finding]:
    limit = _limits(spec).get("memory")
    if limit is None or release.weights is None or release.least is None:
        return
    given = quantity(str(limit))
    if given < release.least:
        mib = f"{-(-release.least // (1 << 20))}Mi"
        text = f"the limit is {limit} and the weights alone are {release.weights >> 20} MiB: raise the profile's resources.limits.memory to {mib} or more (`pilothouse size` says how much for your chats)"
        yield Finding("wrong", "memory", text)
    else:
        yield Finding("ok", "memory", f"{limit} holds the model")


def _references(release: Release, spec: Object) -> Iterator[Finding]:
    """Secrets and claims that the pod names and the namespace lacks."""
    for name, keys in _secrets(spec):
        yield from _secret(release, name, keys)
    for volume in spec.get("volumes") or []:
        if (claim := volume.get("persistentVolumeClaim")) and claim["claimName"] not in release.claims:
            text = f"PersistentVolumeClaim {claim['claimName']} is not in namespace {release.namespace}: make it, or change model.pvc"
            yield Finding("wrong", "volume", text)


def _secrets(spec: Object) -> Iterator[tuple[str, list[str]]]:
    """Name and needed keys of each Secret, from volumes and from environments."""
    for volume in spec.get("volumes") or []:
        if (secret := volume.get("secret")) and not secret.get("optional"):
            yield secret["secretName"], [item["key"] for item in secret.get("items") or []]
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        for source in container.get("envFrom") or []:
            if "secretRef" in source:
                yield source["secretRef"]["name"], []


def _secret(release: Release, name: str, keys: Sequence[str]) -> Iterator[Finding]:
    if name not in release.secrets:
        text = f"Secret {name} is not in namespace {release.namespace}: kubectl -n {release.namespace} create secret generic {name} --from-file=..."
        yield Finding("wrong", "secret", text)
    elif missing := [key for key in keys if key not in release.secrets[name]]:
        yield Finding(
            "wrong", "secret", f"Secret {name} has no key {', '.join(missing)}: add it, or name the key that it has in the values"
        )
    else:
        yield Finding("ok", "secret", f"{name} is there")


def _pod(release: Release, pod: Object) -> Iterator[Finding]:
    """Why one pod does not run, in its own words."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Finding("wrong", name, f"no node takes it: {condition.get('message', 'no reason told')}")
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            text = f"the image {container['image']} can't be pulled: {waiting.get('message', waiting['reason'])}; check image.repository and image.tag"
            yield Finding("wrong", name, text)
        elif waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError"):
            yield Finding("wrong", name, str(waiting.get("message", waiting["reason"])))
        if ended.get("reason") == "OOMKilled":
            text = f"{container['name']} was killed for memory: raise the profile's resources.limits.memory (`pilothouse size MODEL` says to what)"
            yield Finding("wrong", name, text)
        elif ended.get("exitCode") not in (None, 0):
            last = next(iter(str(ended.get("message") or "").strip().splitlines()[-1:]), "its log says why")
            yield Finding(
                "note" if container.get("ready") else "wrong", name, f"{container['name']} ended with code {ended['exitCode']}: {last}"
            )
