"""One pod of a release, judged by what Kubernetes tells of it: why it does not run, in its own words, and what to change."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.diagnosis.finding import Finding

Object = Mapping[str, Any]

TARGETS = ("onnx", "onnx-cuda", "transformers", "operator")
"""What scripts/build-images makes: the ends of their tags."""


def findings(pod: Object) -> Iterator[Finding]:
    """A line for each trouble; none for a pod that is on its way out, whose troubles are over."""
    if pod["metadata"].get("deletionTimestamp"):
        return
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Finding("wrong", name, _unscheduled(pod, condition.get("message", "no reason told")))
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting") or {}
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
            yield Finding("wrong", name, _not_pulled(pod, container["image"], waiting.get("message", waiting["reason"])))
        elif waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError"):
            yield Finding("wrong", name, str(waiting.get("message", waiting["reason"])))
        if ended.get("reason") == "OOMKilled":
            yield Finding("wrong", name, _killed(pod, container["name"]))
        elif ended.get("exitCode") not in (None, 0):
            text = f"{container['name']} ended with code {ended['exitCode']}: {_last(ended.get('message'))}{_path(pod, ended)}"
            yield Finding("note" if container.get("ready") else "wrong", name, text)


def profile(template: Object) -> str:
    """The chart's node profile, as a pod or its template says."""
    return str((template.get("metadata", {}).get("annotations") or {}).get("pilothouse/profile", "<profile>"))


def _resources(pod: Object) -> Mapping[str, Any]:
    containers = pod.get("spec", {}).get("containers") or [{}]
    resources: Mapping[str, Any] = containers[0].get("resources") or {}
    return resources


def _unscheduled(pod: Object, message: str) -> str:
    """The scheduler's words up to what it thought of preemption, and what would make room."""
    said = re.split(r"[.,]? *(?:no new claims to deallocate|preemption:)", message)[0].rstrip(". ,")
    lacking = re.findall(r"Insufficient ([\w./-]+)", said)
    if not lacking:
        return f"no node takes it: {said}"
    requests = {**(_resources(pod).get("limits") or {}), **(_resources(pod).get("requests") or {})}
    asked = ", ".join(f"{name} ({requests.get(name, '?')})" for name in dict.fromkeys(lacking))
    return f"no node takes it: {said}; lower what profiles.{profile(pod)}.resources asks for, {asked}, or free or add a node"


def _not_pulled(pod: Object, image: str, message: str) -> str:
    volumes = [str(volume["image"].get("reference")) for volume in pod.get("spec", {}).get("volumes") or [] if "image" in volume]
    if model := next((reference for reference in volumes if reference in message), None):
        return f"the model's image {model} can't be pulled: {message}; push it where the nodes pull from, or correct model.imageVolume.reference"
    target = next((target for target in sorted(TARGETS, key=len, reverse=True) if image.endswith(f"-{target}")), None)
    built = (
        f"build it (scripts/build-images {target}) and push it where the nodes pull from" if target else "push it where the nodes pull from"
    )
    other = ", or set profile to cpu" if target == "onnx-cuda" else ""
    return f"the image {image} can't be pulled: {message}; {built}, or correct image.repository and image.tag{other}"


def _killed(pod: Object, container: str) -> str:
    limit = (_resources(pod).get("limits") or {}).get("memory", "?")
    if container == "fetch-model":
        return "fetch-model was killed for memory: raise model.mlflow.resources.limits.memory"
    return (
        f"{container} was killed for memory at {limit}: raise profiles.{profile(pod)}.resources.limits.memory "
        "(doctor with the model's folder beside --release says to what)"
    )


def _path(pod: Object, ended: Object) -> str:
    """Which value names the folder that the server did not find."""
    if "'/models/model" not in str(ended.get("message")):
        return ""
    sources = {"persistentVolumeClaim": "pvc", "image": "imageVolume"}
    volumes = [volume for volume in pod.get("spec", {}).get("volumes") or [] if volume.get("name") == "model"]
    return next(
        (f"; model.{value}.path is the folder in the volume" for volume in volumes for key, value in sources.items() if key in volume), ""
    )


def _last(message: object) -> str:
    """What the last line says; our own log writes lines of JSON."""
    line = next(iter(str(message or "").strip().splitlines()[-1:]), "its log says why")
    try:
        told = json.loads(line)
    except ValueError:
        return line
    return str(told.get("message", line)) if isinstance(told, dict) else line
