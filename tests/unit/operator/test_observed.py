"""What a Deployment and its pods say: arrived, on the way, blocked, or its own fault."""

from typing import Any

import pytest

from pilothouse.operator.observed import available, health
from pilothouse.operator.rollout import Failure, Health
from pilothouse.operator.spec import REVISION

LATE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


def deployment(**status: Any) -> dict[str, Any]:
    counts = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "observedGeneration": 3}
    metadata = {"name": "phi3", "generation": 3, "annotations": {REVISION: "phi3-1"}}
    return {"metadata": metadata, "spec": {"replicas": 2}, "status": counts | status}


def pod(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "phi3-x", "labels": {}}, "status": {"containerStatuses": list(containers), **status}}


def ended(message: str, restarts: int, code: int = 2) -> dict[str, Any]:
    return {
        "name": "pilothouse", "restartCount": restarts, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": code, "message": message}},
    }  # fmt: skip


def test_no_deployment_is_no_revision() -> None:
    """Nor is one that is on its way out."""
    going = deployment()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    assert health(None, ()) == health(going, ()) == Health()
    assert available(None) == 0


def test_all_pods_new_and_available_is_complete() -> None:
    """And nothing less."""
    assert health(deployment(), ()) == Health("phi3-1", complete=True)
    for less in ({"updatedReplicas": 1}, {"availableReplicas": 1}, {"replicas": 3}, {"observedGeneration": 2}):
        assert not health(deployment(**less), ()).complete


def test_scaled_to_nothing_is_complete() -> None:
    """No pod is all that was asked for."""
    none = deployment(replicas=0, updatedReplicas=0, availableReplicas=0)
    none["spec"]["replicas"] = 0

    assert health(none, ()) == Health("phi3-1", complete=True, empty=True)


@pytest.mark.parametrize(("code", "restarts", "final"), [(2, 0, False), (2, 1, True), (137, 1, False), (137, 2, True), (1, 7, True)])
def test_container_that_keeps_ending_is_believed(code: int, restarts: int, final: bool) -> None:
    """The last line of its termination message is the reason; one that says what is wrong (exit code 2) is believed sooner than one that was killed."""
    seen = health(
        deployment(availableReplicas=1), [pod(ended("loading\nmodel.onnx.data is not the file that was packaged", restarts, code))]
    )

    assert seen.failure == Failure("WontLoad", "pilothouse of phi3-x: model.onnx.data is not the file that was packaged", final=final)


def test_registry_that_is_down_is_not_the_versions_fault() -> None:
    """However often the init container ended for it, and however late it is."""
    crashed = pod(initContainerStatuses=[{**ended("the MLflow store http://mlflow did not answer (x)", 9), "name": "fetch-model"}])

    seen = health(deployment(availableReplicas=1, conditions=[LATE]), [crashed])

    assert seen.failure is not None
    assert (seen.failure.reason, seen.failure.final) == ("RegistryUnavailable", False)


def test_no_room_is_not_the_versions_fault() -> None:
    """The scheduler's words are passed on."""
    waits = pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: Insufficient cpu"}])

    seen = health(deployment(availableReplicas=0, conditions=[LATE]), [waits])

    assert seen.failure == Failure("Unschedulable", "pod phi3-x: 0/3 nodes are available: Insufficient cpu")


def test_refused_pods_say_the_quota() -> None:
    """ReplicaFailure comes from the API server's refusal."""
    refused = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: small'}

    seen = health(deployment(availableReplicas=0, conditions=[LATE, refused]), ())

    assert seen.failure == Failure("QuotaExceeded", 'pods "x" is forbidden: exceeded quota: small')


def test_late_is_final_with_the_pods_reason() -> None:
    """An image that can't be pulled is waited for until then."""
    pulling = pod({"name": "pilothouse", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}})

    early = health(deployment(availableReplicas=1), [pulling]).failure
    late = health(deployment(availableReplicas=1, conditions=[LATE]), [pulling]).failure
    silent = health(deployment(availableReplicas=1, conditions=[LATE]), ()).failure

    assert early == Failure("ErrImagePull", "pod phi3-x: not found")
    assert late == Failure("ErrImagePull", "pod phi3-x: not found", final=True)
    assert silent is not None
    assert (silent.reason, silent.final) == ("ProgressDeadlineExceeded", True)


def test_servers_own_log_line_is_read_out_of_its_json() -> None:
    """People read words, not a log's fields."""
    line = '{"time": "2026-11-21T14:11:40.491Z", "level": "error", "message": "its digest differs"}'

    seen = health(deployment(availableReplicas=1), [pod(ended(line, 0))])

    assert seen.failure == Failure("WontLoad", "pilothouse of phi3-x: its digest differs")
