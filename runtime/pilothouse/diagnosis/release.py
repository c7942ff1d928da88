"""A release on a cluster, judged by its objects as Kubernetes tells them: what keeps its pods from answering, and what to change."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilothouse.diagnosis import pod
from pilothouse.diagnosis.finding import Finding
from pilothouse.diagnosis.pod import Object

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
    status: str | None = None  # Helm's word for its last revision, where there is no Deployment
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
        return [*found, Finding("wrong", release.name, _absent(release))]
    ready = sum(int(d.get("status", {}).get("readyReplicas") or 0) for d in release.deployments)
    wanted = sum(int(d["spec"].get("replicas") or 0) for d in release.deployments)
    for deployment in release.deployments:
        template = deployment["spec"]["template"]
        found += _gpu(release, template["spec"], int(deployment["spec"].get("replicas") or 1))
        found += [*_memory(release, template, runs=0 < wanted <= ready), *_references(release, template["spec"])]
    found += [finding for one in release.pods for finding in pod.findings(one)]
    if ready < wanted:
        return [*found, Finding("wrong" if not ready else "note", "pods", f"{ready} of {wanted} are ready")]
    return [*found, Finding("ok", "pods", f"{ready} of {wanted} are ready")]


def _absent(release: Release) -> str:
    at = f"-n {release.namespace}"
    if release.status is None:
        return f"no release of that name in namespace {release.namespace}: see `helm list -A`, and name its namespace with --namespace"
    return (
        f"the release is there ({release.status}) and its Deployment is not: `helm {at} status {release.name}` says what was refused; "
        f"correct the value, `helm {at} uninstall {release.name}`, and install it again"
    )


def secrets_of(deployments: Sequence[Object]) -> list[str]:
    """The names of the Secrets that their pods need."""
    return sorted({name for deployment in deployments for name, _ in _secrets(deployment["spec"]["template"]["spec"])})


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity, as in 6Gi."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]  # what the API server took is one
    return int(float(number) * _UNITS[unit])


def _made(name: str, keys: Sequence[str]) -> str:
    """The end of a command that makes a Secret as the chart reads it."""
    if "tls.crt" in keys and len(keys) > 2:  # the clients' CA beside them: `secret tls` takes none
        return f"generic {name} --type=kubernetes.io/tls " + " ".join(f"--from-file={key}" for key in keys)
    if "tls.crt" in keys:
        return f"tls {name} --cert tls.crt --key tls.key"
    if not keys:  # an environment for MLflow's client
        return f"generic {name} --from-literal=MLFLOW_TRACKING_TOKEN=..."
    value = "$(openssl rand -hex 16)" if keys == ["token"] else "me:$(openssl rand -hex 16)"  # a bare token for the metrics, name:key lines
    return f"generic {name} " + " ".join(f'--from-literal={key}="{value}"' for key in keys)


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


def _gpu(release: Release, spec: Object, replicas: int) -> Iterator[Finding]:
    wanted = int(_limits(spec).get(GPU) or 0)
    if not wanted:
        return
    selector = spec.get("nodeSelector") or {}
    fitting = [node for node in release.nodes if selector.items() <= node["metadata"].get("labels", {}).items()]
    if not fitting:
        told = ", ".join(f"{name}={value}" for name, value in selector.items())
        yield Finding("wrong", "gpu", f"no node has the labels {told}: label the GPU nodes, or change profiles.gpu.nodeSelector")
        return
    places = sum(int(node["status"].get("allocatable", {}).get(GPU) or 0) // wanted for node in fitting)
    if not places:
        text = f"the profile asks for {wanted} {GPU} and no node offers it: install the GPU's device plugin, or set profile to cpu"
        yield Finding("wrong", "gpu", text)
    elif places < replicas:
        text = f"{replicas} pods ask for {wanted} {GPU} each and the nodes have room for {places}: set replicas to {places}, or add a node"
        yield Finding("wrong", "gpu", text)
    else:
        yield Finding("ok", "gpu", f"the nodes offer {wanted} {GPU} to {places} pod{'s' if places > 1 else ''}")


def _memory(release: Release, template: Object, *, runs: bool) -> Iterator[Finding]:
    limit = _limits(template["spec"]).get("memory")
    if limit is None or release.weights is None or release.least is None:
        return
    given = quantity(str(limit))
    if given < release.least:
        mib, weights = -(-release.least // (1 << 20)), release.weights >> 20
        text = (
            f"the limit is {limit}; {weights} MiB of weights and {mib - weights} for the server and one short chat are {mib}Mi: "
            f"--set profiles.{pod.profile(template)}.resources.limits.memory={mib}Mi or more (`pilothouse size` says how much for your chats)"
        )
        yield Finding("note" if runs else "wrong", "memory", text)
    else:
        yield Finding("ok", "memory", f"{limit} holds the model")


def _references(release: Release, spec: Object) -> Iterator[Finding]:
    """Secrets and claims that the pod names and the namespace lacks."""
    for name, keys in _secrets(spec):
        yield from _secret(release, name, keys)  # a pod waits for each of them
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
        text = f"Secret {name} is not in namespace {release.namespace}: kubectl -n {release.namespace} create secret {_made(name, keys)}"
        yield Finding("wrong", "secret", text)
    elif missing := [key for key in keys if key not in release.secrets[name]]:
        has = ", ".join(sorted(release.secrets[name])) or "none"
        text = f"Secret {name} has no key {', '.join(missing)}, it has {has}: add it, or name the key that it has in the values"
        yield Finding("wrong", "secret", text)
    else:
        yield Finding("ok", "secret", f"{name} is there")
