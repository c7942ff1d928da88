"""A LanguageModel is served, kept as it is asked for, and gone when it is deleted."""

import json
import time

from pilothouse.models.pocket import answers
from pilothouse.smoke import checks
from support.cluster import Space, until
from support.operating import Operator, Registry, Served, from_registry

IMAGE = {"source": {"image": {}}}


def test_apply_becomes_the_first_token(model: Served) -> None:
    """`kubectl apply`, and the known answer."""
    begun = time.monotonic()
    model.apply(IMAGE)
    status = model.serving()
    with model.forward() as client:
        told = checks.REST["OpenAI stream"](client, checks.find_model(client), checks.SPAIN)

    print(f"\napply to first answer: {time.monotonic() - begun:.1f} s")
    assert told.text == answers.SPAIN[1]
    assert (status["device"], status["url"], status["model"]) == ("cpu", f"http://phi3.{model.space.name}.svc:8080", "image")
    assert model.condition("Degraded")[:2] == ("False", "AsExpected")
    assert "serves" in model.space.event("revision phi3-")


def test_drift_is_put_back(model: Served) -> None:
    """What somebody changes by hand, labels too, and what somebody deletes; what others own stays theirs."""
    model.apply({**IMAGE, "replicas": 0})
    model.reason("Ready", "ScaledToZero")
    space = model.space
    space.kubectl("annotate", "deployment/phi3", "somebody=else")
    space.kubectl("scale", "deployment/phi3", "--replicas=1")
    until("the replicas are back", lambda: space.get("deployment", "phi3")["spec"]["replicas"] == 0)
    space.kubectl("patch", "configmap", "phi3", "--type=merge", "-p", json.dumps({"data": {"PILOTHOUSE_DRAIN_SECONDS": "1"}}))
    until("the setting is back", lambda: space.get("configmap", "phi3")["data"]["PILOTHOUSE_DRAIN_SECONDS"] == "30")
    space.kubectl("label", "deployment/phi3", "app.kubernetes.io/part-of-")
    until("the label is back", lambda: "app.kubernetes.io/part-of" in space.get("deployment", "phi3")["metadata"]["labels"])
    before = space.get("service", "phi3")["metadata"]["uid"]
    space.kubectl("delete", "service", "phi3")
    until("the Service is back", lambda: "phi3" in space.kubectl("get", "services", "-o", "name"))

    assert space.get("service", "phi3")["metadata"]["uid"] != before
    assert space.get("deployment", "phi3")["metadata"]["annotations"]["somebody"] == "else"


def test_autoscaler_begins_with_as_many_as_there_are(model: Served) -> None:
    """Who no longer says how many pods takes none away; and a number that is said again counts."""
    space = model.space
    model.apply({**IMAGE, "replicas": 2})
    model.serving()
    before = model.pods()
    assert len(before) == 2

    for most in (3, 4):
        model.apply({**IMAGE, "autoscaling": {"kind": "hpa", "minReplicas": 1, "maxReplicas": most}})
        until("the autoscaler is as asked", lambda most=most: _most(space) == most)
        model.serving()
        assert (space.get("deployment", "phi3")["spec"]["replicas"], model.pods()) == (2, before)

    model.apply({**IMAGE, "replicas": 1})
    until("the autoscaler is gone", lambda: _most(space) is None)
    until("one pod stays", lambda: len(model.pods()) == 1)


def _most(space: Space) -> int | None:
    found = space.get("horizontalpodautoscalers")
    return found[0]["spec"]["maxReplicas"] if found else None


def test_deletion_takes_everything_away(model: Served) -> None:
    """By owner references, so also while no operator runs: the resource has no finalizer."""
    model.apply({**IMAGE, "replicas": 0})
    model.reason("Ready", "ScaledToZero")
    assert {"Deployment/phi3", "Service/phi3", "ConfigMap/phi3", "ServiceAccount/phi3", "NetworkPolicy/phi3"} <= model.owned()
    assert "finalizers" not in model.body()["metadata"]

    model.remove()

    until("everything is gone", lambda: not model.owned())


def test_quota_is_said_and_gone_on_from(model: Served) -> None:
    """The API server's words stand in the condition; when there is room, it goes on by itself."""
    space = model.space
    space.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    try:
        model.apply(IMAGE)
        assert "exceeded quota: none" in model.reason("Degraded", "QuotaExceeded")
        assert model.condition("Ready")[0] == "False"
    finally:
        space.kubectl("delete", "resourcequota", "none")
    # The ReplicaSet's own back-off may be minutes by now; a touched Deployment is tried again at once.
    space.kubectl("delete", "replicasets", "-l", "app.kubernetes.io/instance=phi3")
    model.serving()


def test_two_operators_elect_one_and_the_other_takes_over(operator: Operator, registry: Registry, model: Served) -> None:
    """The one that leads is killed; the other one goes on, and nothing is lost that was asked for meanwhile."""
    first = operator.leader()
    assert first in {pod["metadata"]["name"] for pod in operator.pods()}
    operator.space.kubectl("delete", "pod", first, "--now", "--wait=false")
    model.apply({**from_registry(registry, "nobody"), "replicas": 0})

    model.reason("Degraded", "NotRegistered")

    assert operator.leader() != first
