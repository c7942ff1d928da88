"""Hardware is data: the profile decides where pods run. The GPU pool here is pretence: a label, a taint and a number in the node's status."""

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
ASK = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:8080/v2/health/ready").status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


@pytest.fixture
def pool(space: Space) -> dict[str, str]:
    """Each node's pool."""
    return {n["metadata"]["name"]: n["metadata"]["labels"].get("pilothouse/pool", "control") for n in space.get("nodes")}


def test_gpu_profile_runs_in_the_gpu_pool_and_says_that_no_gpu_answered(release: Release, pool: dict[str, str]) -> None:
    """Scheduled to the only node with nvidia.com/gpu; never ready without a real one, with the reason in the pod's own status."""
    release.install(GPU, wait=False)

    (pod,) = until("a pod", release.pods)
    node = until("a node", lambda: release.pods()[0]["spec"].get("nodeName"))
    assert pool[node] == "gpu"

    def reason() -> str | None:
        """Of its end where it ended, else its own answer to the readiness probe."""
        status = release.pods()[0]["status"]["containerStatuses"][0]
        if ended := status["state"].get("terminated") or status.get("lastState", {}).get("terminated"):
            return str(ended["message"])
        told = release.space.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", ASK, check=False)
        return told if "503" in told and "loading" not in told else None

    said = until("the reason why it is not ready", reason, 90)
    assert "cuda" in said
    assert "cpu" in said
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
