"""What a release's Deployment and pods say about it. Pure: objects as the API server gives them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pilothouse.operator.rollout import Failure, Health
from pilothouse.operator.spec import REVISION, Object

PODS = "pilothouse.org/pods"
"""The label of a pod: the beginning of its revision's fingerprint, so that an old pod's trouble is not taken for a new one's."""
CRASHES = 2  # restarts after which a container that ends is believed
SAID = 2  # the exit code of a server or init container that says what is wrong in its last line: believed after one restart
_NOT_STARTED = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
        "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
    }
)  # fmt: skip


def health(deployment: Mapping[str, Any] | None, pods: Iterable[Object]) -> Health:
    """`pods` are those of the revision that the Deployment is of."""
    if deployment is None or "deletionTimestamp" in deployment["metadata"]:
        return Health()
    metadata, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status") or {}
    revision = (metadata.get("annotations") or {}).get(REVISION)
    wanted = spec.get("replicas", 1)
    current = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    complete = current and all(status.get(count, 0) == wanted for count in ("replicas", "updatedReplicas", "availableReplicas"))
    return Health(revision, complete, None if complete or not current else _failure(status, pods), empty=wanted == 0)


def available(deployment: Mapping[str, Any] | None) -> int:
    """Pods that answer, of whatever revision."""
    return int((deployment or {}).get("status", {}).get("availableReplicas", 0))


def _failure(status: Mapping[str, Any], pods: Iterable[Object]) -> Failure | None:
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    refused = conditions.get("ReplicaFailure", {})
    if refused.get("status") == "True":
        message = refused.get("message", "")
        return Failure("QuotaExceeded" if "exceeded quota" in message else "PodsRefused", message)
    troubles = [trouble for pod in pods for trouble in _troubles(pod)]
    trouble = next((t for t in troubles if t.final), troubles[0] if troubles else None)
    late = conditions.get("Progressing", {})
    if late.get("reason") != "ProgressDeadlineExceeded" or (trouble and trouble.reason in _BLOCKED):
        return trouble
    if trouble:
        return replace(trouble, final=True)
    return Failure("ProgressDeadlineExceeded", "its pods were not ready in time; they say nothing of why", final=True)


_BLOCKED = frozenset({"RegistryUnavailable", "Unschedulable"})
"""Not the revision's own fault: it goes on when the cluster or the registry is well again, however late."""


def _troubles(pod: Object) -> Iterator[Failure]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Failure("Unschedulable", f"pod {name}: {condition.get('message', 'no node takes it')}")
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _NOT_STARTED:
            yield Failure(waiting["reason"], f"pod {name}: {waiting.get('message', container.get('image', ''))}")
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if ended and (ended.get("exitCode") or ended.get("signal")):
            yield _ended(name, container, ended)


def _ended(pod: str, container: Mapping[str, Any], ended: Mapping[str, Any]) -> Failure:
    words = _words(ended.get("message") or ended.get("reason") or f"exit code {ended.get('exitCode')}")
    said = f"{container['name']} of {pod}: {words[-400:]}"
    if "did not answer" in words:  # the init container's words for a registry that is down
        return Failure("RegistryUnavailable", said)
    return Failure("WontLoad", said, final=container.get("restartCount", 0) >= (1 if ended.get("exitCode") == SAID else CRASHES))


def _words(message: str) -> str:
    """The last line, out of its JSON where it is one of the server's log."""
    line = message.strip().splitlines()[-1]
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
