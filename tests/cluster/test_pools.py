"""Hardware is data: the profile decides where pods run. The GPU pool here is pretence: a label, a taint and a number in the node's status."""

from typing import Any

import pytest

from support.cluster import Release, Space, until

# The image without CUDA stands in for the one with it, whose gigabytes would only sit there: it makes the same promise, device cuda.
GPU = {
    "profile": "gpu",
    "profiles": {
        "gpu": {
            "images": {"onnx": "onnx"},
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": 1}},
        }
    },
}


@pytest.fixture
def pool(space: Space) -> dict[str, str]:
    """Each node's pool."""
    return {n["metadata"]["name"]: n["metadata"]["labels"].get("pilothouse/pool", "control") for n in space.get("nodes")}


def test_gpu_profile_runs_in_the_gpu_pool_and_says_that_no_gpu_answered(release: Release, pool: dict[str, str]) -> None:
    """Scheduled to the only node with nvidia.com/gpu; never ready without a real one, with the reason in the pod's own status."""
    release.install(GPU, wait=False)

    until("a pod", release.pods)
    node = until("a node", lambda: release.pods()[0]["spec"].get("nodeName"))
    assert pool[node] == "gpu"

    def end() -> dict[str, Any] | None:
        """Of the container that started: it may be up again by now, or waiting for that."""
        status = next(iter(release.pods()[0]["status"].get("containerStatuses", ())), {})
        return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")

    ended = until("the end of a server that no GPU answers", end, 90)
    assert ended["exitCode"] == 2
    assert "no GPU answered: device is cuda and the model in" in ended["message"]
    assert "is a build for cpu" in ended["message"]
    assert not any(c["status"] == "True" for c in release.pods()[0]["status"]["conditions"] if c["type"] == "Ready")


def test_second_gpu_pod_waits_for_a_second_gpu(release: Release) -> None:
    """Two pods, one GPU: the second is not scheduled anywhere else."""
    release.install({**GPU, "replicas": 2}, wait=False)

    said = release.space.event("Insufficient nvidia.com/gpu")

    assert "didn't match Pod's node affinity/selector" in said
    placed = [pod["spec"].get("nodeName") for pod in release.numbering(2)]
    assert sorted(name is None for name in placed) == [False, True]


def test_cpu_profile_keeps_out_of_the_gpu_pool(release: Release, pool: dict[str, str]) -> None:
    """More pods than CPU workers: still none on the node that is kept for GPUs."""
    release.install({"replicas": 3})

    assert {pool[pod["spec"]["nodeName"]] for pod in release.pods()} == {"cpu"}
    assert len({pod["spec"]["nodeName"] for pod in release.pods()}) == 2
