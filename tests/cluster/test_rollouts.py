"""No stream is dropped: a prober inside the cluster asks all the time while pods come and go, and every answer must be the known one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.cluster import FULL, SMALL, Release, Space, until

RATE = 20.0  # requests a second, of four kinds in turn
LEAST = 6000 if FULL else 3000
IMAGE = "pilothouse:0.1.0-onnx"
SCRIPT = Path(__file__).with_name("prober.py")


@pytest.fixture(scope="module")
def pair(space: Space) -> Iterator[Release]:
    """Two pods of the embedded model, on two nodes."""
    release = Release(space)
    release.install({"replicas": 2})
    yield release
    release.uninstall()


@contextmanager
def probing(release: Release, node: str, report: dict[str, Any], least: int = 1) -> Iterator[None]:
    """A prober on `node` for as long as the block runs, and until it has asked often enough; `report` is filled at the end."""
    space = release.space
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prober"}, "data": {"prober.py": SCRIPT.read_text()}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "prober"},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "prober",
                        "image": IMAGE,
                        "command": ["python3", "/prober/prober.py", f"http://{release.full}:8080", f"{release.full}:8081"],
                        "args": [str(RATE), str(least), "900" if FULL else "420"],
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": [{"name": "script", "mountPath": "/prober"}],
                    }
                ],
                "volumes": [{"name": "script", "configMap": {"name": "prober"}}],
            },
        },
    )
    try:
        until("the prober asks", lambda: "probing" in space.kubectl("logs", "prober", check=False), 60)
        yield
        space.kubectl("exec", "prober", "--", "touch", "/tmp/stop")
        ended = until("the prober ends", lambda: space.get("pod", "prober")["status"]["phase"] in ("Succeeded", "Failed"), 900)
        assert ended
        report.update(json.loads(space.kubectl("logs", "prober").strip().splitlines()[-1]))
    finally:
        space.kubectl("delete", "pod", "prober", "--now", "--ignore-not-found", "--wait")


def judge(report: dict[str, Any], least: int) -> None:
    """Success 1.0000; not judged where the prober itself could not keep its rate."""
    print(f"\nprober: {json.dumps({k: v for k, v in report.items() if k != 'failures'})}")
    assert report["failed"] == 0, json.dumps(report["failures"], indent=1)
    if report["rate_kept"] < 0.9 * RATE:
        pytest.skip(f"not judged: the prober kept {report['rate_kept']} of {RATE} requests a second; the machine is too busy")
    assert report["requests"] >= least


def test_no_stream_is_dropped_through_five_events(pair: Release) -> None:
    """Upgrade, restart, a deleted pod, a drained node, an upgrade back: REST, kept-alive, SSE and gRPC streams all get their known answer."""
    space, report = pair.space, {}
    stays, goes = sorted(n["metadata"]["name"] for n in space.get("nodes", "-l", "pilothouse/pool=cpu"))
    try:
        with probing(pair, stays, report, LEAST):
            pair.upgrade({"replicas": 2, "settings": {"max_n": 4}})
            pair.stopped()
            space.kubectl("rollout", "restart", f"deployment/{pair.full}")
            space.kubectl("rollout", "status", f"deployment/{pair.full}", "--timeout=120s")
            pair.stopped()
            space.kubectl("delete", "pod", pair.numbering(2)[0]["metadata"]["name"], "--wait")
            space.kubectl("rollout", "status", f"deployment/{pair.full}", "--timeout=120s")
            space.kubectl(
                "drain", goes, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app.kubernetes.io/name=pilothouse"
            )
            space.kubectl("rollout", "status", f"deployment/{pair.full}", "--timeout=120s")
            assert {pod["spec"]["nodeName"] for pod in pair.pods()} == {stays}
            space.kubectl("uncordon", goes)
            pair.upgrade({"replicas": 2})
            pair.stopped()
    finally:
        space.kubectl("uncordon", goes)

    judge(report, LEAST)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"image": {"tag": "no-such-tag", "pullPolicy": "Never"}}, "ErrImageNeverPull"),
        ({"model": {"source": "pvc", "pvc": {"claimName": "empty"}}}, "no-model"),
    ],
    ids=["image that isn't there", "model that can't load"],
)
def test_bad_upgrade_never_takes_the_old_pods_away_and_is_rolled_back(pair: Release, wrong: dict[str, Any], reason: str) -> None:
    """`helm upgrade --rollback-on-failure` fails, says so, and leaves the very same pods, which answered all the while."""
    space, report = pair.space, {}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    space.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "empty"}, "spec": claim})
    node = space.get("nodes", "-l", "pilothouse/pool=cpu")[0]["metadata"]["name"]
    before = {pod["metadata"]["uid"] for pod in pair.numbering(2)}
    with probing(pair, node, report):
        values = {**SMALL, "replicas": 2, **wrong}
        said = pair.helm("upgrade", "--rollback-on-failure", "--wait", "--timeout", "25s", values=values, check=False)

    assert "UPGRADE FAILED" in said
    assert "rollback" in said.lower() or "rolled back" in said.lower()
    pair.stopped()
    assert {pod["metadata"]["uid"] for pod in pair.numbering(2)} == before
    (last, *_) = json.loads(pair.helm("history", "-o", "json"))[::-1]
    assert last["status"] == "deployed"
    assert last["description"].startswith("Rollback to")
    assert any(word in space.kubectl("get", "events", "-o", "json") for word in (reason, "BackOff"))
    judge(report, 1)
