"""No stream is dropped: a prober inside the cluster asks all the time while pods come and go, and every answer must be the known one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster import FULL, SMALL, Release, Space
from support.probing import judge, probing

LEAST = 6000 if FULL else 3000


@pytest.fixture(scope="module")
def pair(space: Space) -> Iterator[Release]:
    """Two pods of the embedded model, on two nodes."""
    release = Release(space)
    release.install({"replicas": 2})
    yield release
    release.uninstall()


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
