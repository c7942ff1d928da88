"""The embedded ONNX model with the chart's default values: installed, checked from both sides, upgraded, removed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from kubernetes import client

from pilothouse.models.pocket import answers
from pilothouse.smoke import checks
from support.chart import ROOT
from support.cluster import Release, Space, until


@pytest.fixture(scope="module")
def phi3(space: Space) -> Iterator[Release]:
    """`helm install phi3 charts/pilothouse`, nothing else; prints how long it took to the first token."""
    release = Release(space)
    begun = time.monotonic()
    release.helm("install", "--wait", "--timeout", "150s", values={})
    ready = time.monotonic()
    with release.forward() as (rest, _):
        body = {
            "model": checks.find_model(rest),
            "messages": [{"role": "user", "content": "What is the capital of Spain?"}],
            "stream": True,
        }
        next(event for event in rest.events("/v1/chat/completions", body) if event.json["choices"][0]["delta"].get("content"))
    print(f"\ninstall to ready {ready - begun:.1f} s, to the first token through port-forward {time.monotonic() - begun:.1f} s")
    yield release
    release.uninstall()


def test_default_values_serve_on_a_cpu_node(phi3: Release) -> None:
    """One pod, on a worker of the CPU pool, from the image without torch, ready."""
    (pod,) = phi3.pods()
    node = phi3.space.get("node", pod["spec"]["nodeName"])

    assert node["metadata"]["labels"]["pilothouse/pool"] == "cpu"
    assert pod["spec"]["containers"][0]["image"].endswith("-onnx")
    assert {c["type"]: c["status"] for c in pod["status"]["conditions"]}["Ready"] == "True"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_known_answer_arrives_through_port_forward(phi3: Release) -> None:
    """Word for word, streamed, over the line that the notes give."""
    with phi3.forward() as (rest, _):
        told = checks.REST["OpenAI stream"](rest, checks.find_model(rest), checks.SPAIN)

    assert told.text == answers.SPAIN[1]
    assert told.finish_reason == "stop"


def test_contract_holds_through_port_forward(phi3: Release) -> None:
    """tests/contract, the same suite as in process, against the release."""
    with phi3.forward() as (rest, grpc):
        environment = {**os.environ, "PILOTHOUSE_URL": rest.url, "PILOTHOUSE_GRPC": grpc}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_contract_core_holds_through_the_service(phi3: Release) -> None:
    """`helm test`: a pod of the same image asks through the Service and reports as JSON; gRPC too."""
    told = phi3.helm("test", "--logs")

    report = json.loads(told[told.index("{") : told.rindex("}") + 1])
    assert report["passed"] is True
    assert "grpc answers" in [check["name"] for check in report["checks"]]


def test_pod_security_is_enforced_and_admits_us(phi3: Release, cluster: client.CoreV1Api) -> None:
    """The namespace refuses a pod that asks for more; ours runs as a numeric user on a root that can't be written."""
    wanted = {
        "metadata": {"name": "greedy"},
        "spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]},
    }

    with pytest.raises(client.ApiException) as refused:
        cluster.create_namespaced_pod(phi3.space.name, wanted)

    assert refused.value.status == 403
    assert 'violates PodSecurity "restricted:latest"' in json.loads(refused.value.body)["message"]
    assert phi3.space.kubectl("exec", f"deployment/{phi3.full}", "--", "id", "-u").strip() == "10001"
    tried = phi3.space.kubectl("exec", f"deployment/{phi3.full}", "--", "touch", "/opt/x", check=False)
    assert "Read-only file system" in tried


def test_nothing_of_ours_writes_outside_what_is_allowed_or_reports_home(phi3: Release) -> None:
    """After answering, /tmp holds no trace of a telemetry client."""
    files = phi3.space.kubectl("exec", f"deployment/{phi3.full}", "--", "find", "/tmp", "-type", "f")

    assert "openvino_ga" not in files
    assert "intel" not in files


def test_upgrade_with_changed_values_reaches_the_server(phi3: Release) -> None:
    """New settings are new pods; more than one pod gets a disruption budget, and they spread over nodes."""
    before = {pod["metadata"]["name"] for pod in phi3.pods()}

    phi3.upgrade({"replicas": 2, "settings": {"max_n": 2}})

    pods = phi3.numbering(2)
    assert before.isdisjoint(pod["metadata"]["name"] for pod in pods)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    assert phi3.space.get("poddisruptionbudget", phi3.full)["status"]["expectedPods"] == 2
    with phi3.forward() as (rest, _):
        reply = rest.post(
            "/v1/chat/completions", {"model": checks.find_model(rest), "messages": [{"role": "user", "content": "a"}], "n": 3}
        )
    assert reply.status == 400
    assert reply.json["error"]["param"] == "n"


def test_api_keys_come_from_a_secret_and_change_without_a_restart(phi3: Release) -> None:
    """401 without a key, 200 with one; a key that is added to the Secret works in the same pod; `helm test` has a key of its own."""
    names = {"existingSecret": "keys", "testKey": "test"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "stringData": {"api-keys": "a:first-key\n", "test": "first-key"},
    }
    phi3.space.apply(secret)
    phi3.upgrade({"apiKeys": names})
    (pod,) = phi3.numbering(1)

    phi3.helm("test")
    with phi3.forward() as (rest, _):
        assert rest.get("/v2/health/ready").status == 200
        assert rest.get("/v1/models").status == 401
        assert rest.request("GET", "/v1/models", headers={"Authorization": "Bearer first-key"}).status == 200

        phi3.space.apply({**secret, "stringData": {"api-keys": "a:first-key\nb:second-key\n", "test": "first-key"}})
        # The kubelet looks at a pod's Secrets when the pod changes, or about once a minute.
        phi3.space.kubectl("annotate", "pod", pod["metadata"]["name"], "test/touched=yes")
        second = {"Authorization": "Bearer second-key"}
        until("the second key works", lambda: rest.request("GET", "/v1/models", headers=second).status == 200, 120)

    (same,) = phi3.pods()
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0


def test_uninstall_leaves_nothing(space: Space) -> None:
    """Every kind of resource that a namespace can hold is as it was before the install."""
    kinds = space.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))

    def everything() -> set[str]:
        return set(space.kubectl("get", listed, "-o", "name", "--ignore-not-found").split())

    before = everything()
    other = Release(space, "other")
    other.install()
    assert len(everything()) > len(before)
    other.helm("test")
    other.uninstall()
    space.kubectl("delete", "pod", "other-pilothouse-test", "--ignore-not-found")  # Helm leaves a test's pod for its logs

    # What was on its way out before may be gone by now.
    until("nothing is left", lambda: not everything() - before)
