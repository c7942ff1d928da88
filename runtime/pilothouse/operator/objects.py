"""What the controller adds to the chart's objects: whose they are, and of which revision. Pure."""

import copy
from collections.abc import Mapping
from typing import Any, Literal

from pilothouse.operator.chart import HOOK, ChartRefused, Rendered
from pilothouse.operator.observed import PODS
from pilothouse.operator.rollout import Failure, State
from pilothouse.operator.spec import GROUP, KIND, OWNER, REVISION, VERSION, Model, Object
from pilothouse.operator.values import Revision, digest_of

MANAGER = "pilothouse-operator"
HANDOVER = f"{MANAGER}-handover"
"""The field manager that keeps a Deployment's replicas as they are while they go over from us to an autoscaler."""
CHECK_SECONDS = 900
USUAL = "What is the capital of Spain?"  # what two versions are compared by where the policy names no question
Which = Literal["candidate", "main", "baseline"]


def owner(model: Model) -> Object:
    """The reference that has the garbage collector take an object away with its LanguageModel."""
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": model.key.name, "uid": model.uid, "controller": True}


def owned(body: Mapping[str, Any], model: Model) -> bool:
    """Whether an object is this LanguageModel's."""
    return any(reference["uid"] == model.uid for reference in body["metadata"].get("ownerReferences", ()))


def workload(model: Model, rendered: Rendered, revision: Revision) -> list[Object]:
    """A release's objects as they are applied."""
    found = []
    for made in rendered.objects:
        body = copy.deepcopy(made)
        _mark(body["metadata"], model)
        if body["kind"] == "Deployment":
            body["metadata"].setdefault("annotations", {})[REVISION] = revision.name
            template = body["spec"]["template"]["metadata"]
            template["labels"] |= {OWNER: model.key.name, PODS: pods_of(revision)}
            if model.policy.progress_seconds:
                body["spec"]["progressDeadlineSeconds"] = model.policy.progress_seconds
        found.append(body)
    return found


def handed_over(body: Mapping[str, Any], live: Mapping[str, Any]) -> Object | None:
    """What `HANDOVER` applies before `body`, which no longer says how many pods, takes the place of `live`, which did; None where nothing is to do.

    A field that its only manager no longer applies falls back to its default: without this, an autoscaler would begin with one pod.
    """
    if body["kind"] != "Deployment" or "replicas" in body["spec"] or "replicas" not in live["spec"]:
        return None
    ours = [entry for entry in live["metadata"].get("managedFields", ()) if entry.get("manager") == MANAGER]
    if not any("f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {}) for entry in ours):
        return None
    metadata = {name: body["metadata"][name] for name in ("name", "namespace")}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": {"replicas": live["spec"]["replicas"]}}


def pods_of(revision: Revision) -> str:
    """The label value of a revision's pods."""
    return revision.fingerprint[:16]


def check_name(model: Model, which: Which, state: State) -> str:
    """Of a check's pod: another one for each attempt, and for other questions."""
    attempt = digest_of(
        {"target": state.target, "since": int(state.since), "asked": asked(model), "samples": model.policy.analysis.samples}
    )
    return f"{model.key.name}-{which}-check-{attempt[:10]}"


def asked(model: Model) -> list[str]:
    """The policy's questions."""
    analysis = model.policy.analysis
    return [q.question for q in analysis.questions] or ([USUAL] if analysis.compares else [])


def check(model: Model, rendered: Rendered, revision: Revision, name: str) -> Object:
    """The chart's own test pod, run once for a revision, with the policy's questions. Raises `ChartRefused` where the chart makes none."""
    if rendered.check is None:
        raise ChartRefused("apiKeys.testKey is empty, so the smoke checks have no key: set it, or rollout.smoke: false")
    body = copy.deepcopy(rendered.check)
    metadata = body["metadata"]
    metadata["name"] = name
    metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if not k.startswith(HOOK)}
    _mark(metadata, model)
    metadata["labels"][REVISION] = revision.name
    body["spec"]["activeDeadlineSeconds"] = CHECK_SECONDS
    questions = asked(model)
    body["spec"]["containers"][0]["args"] += [f"--ask={text}" for text in questions]
    body["spec"]["containers"][0]["args"] += [f"--times={model.policy.analysis.samples}"] if questions else []
    return body


def stored(model: Model, revision: Revision, number: int) -> Object:
    """The revision as an object, so that it can be gone back to whatever becomes of the resource."""
    data = {
        "values": dict(revision.values), "fingerprint": revision.fingerprint,
        "version": revision.version, "digest": revision.digest, "uri": revision.uri,
    }  # fmt: skip
    metadata: Object = {"name": revision.name, "namespace": model.key.namespace}
    _mark(metadata, model)
    return {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "data": data, "revision": number}


def loaded(body: Mapping[str, Any]) -> Revision:
    """The revision of a stored object."""
    data = body["data"]
    return Revision(body["metadata"]["name"], data["values"], data["fingerprint"], data.get("version"), data.get("digest"), data.get("uri"))


def event(model: Model, reason: str, message: str, *, warning: bool, at: str, reporter: str) -> Object:
    """What `kubectl describe` shows of what happened."""
    about = {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "namespace": model.key.namespace, "name": model.key.name, "uid": model.uid,
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{model.key.name}-", "namespace": model.key.namespace},
        "involvedObject": about, "reason": reason, "message": message[:1000], "type": "Warning" if warning else "Normal",
        "firstTimestamp": at, "lastTimestamp": at, "count": 1, "source": {"component": MANAGER}, "reportingComponent": MANAGER,
        "reportingInstance": reporter,
    }  # fmt: skip


def check_trouble(body: Mapping[str, Any]) -> Failure | None:
    """Why a check's pod has not ended although it should have; None while it may still."""
    waiting = [c["state"]["waiting"] for c in body.get("status", {}).get("containerStatuses", ()) if "waiting" in c.get("state", {})]
    return next((Failure(w["reason"], w.get("message", "")) for w in waiting if w.get("reason") not in ("ContainerCreating", None)), None)


def _mark(metadata: Object, model: Model) -> None:
    metadata["labels"] = {**metadata.get("labels", {}), OWNER: model.key.name, "app.kubernetes.io/managed-by": MANAGER}
    metadata["ownerReferences"] = [owner(model)]
