"""Moving an alias of a real MLflow registry is a rollout: with no request lost, and back again, with the reason, where the version is bad."""

import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pilothouse.models.pocket import answers
from support.cluster import FULL, Space, until
from support.operating import Operator, Registry, Served, from_registry
from support.probing import judge, probing

LEAST, RATE = (3000, 20.0) if FULL else (600, 8.0)
SPAIN = {"question": answers.SPAIN[0], "answer": answers.SPAIN[1]}


class Versions:
    """The registered model `phi3`: versions by what is wrong with them, made when they are first asked for."""

    FOLDERS: ClassVar = {"first": "good", "second": "good", "wrong": "wrong", "slow": "slow", "tampered": "good"}

    def __init__(self, registry: Registry, variants: dict[str, Path]) -> None:
        self.registry, self._variants = registry, variants
        self._numbers: dict[str, str] = {}

    def number(self, name: str) -> str:
        """The registry's number of that version."""
        if name not in self._numbers:
            if name == "foreign":
                self._numbers[name] = self.registry.foreign("phi3")
            else:
                self._numbers[name] = self.registry.package(self._variants[self.FOLDERS[name]], "phi3")
            if name == "tampered":
                self.registry.tamper("phi3", self._numbers[name])
        return self._numbers[name]

    def point(self, name: str) -> str:
        """Move the alias there; the version."""
        self.registry.point("phi3", "champion", self.number(name))
        return self.number(name)

    def rollout_tag(self, name: str, model: Served) -> str:
        return self.registry.tags("phi3", self.number(name)).get(f"pilothouse.rollout.{model.space.name}.{model.name}", "")


@pytest.fixture(scope="module")
def versions(registry: Registry, variants: dict[str, Path]) -> Versions:
    return Versions(registry, variants)


@pytest.fixture(scope="module")
def served(operator: Operator, space: Space, versions: Versions) -> Served:
    """One LanguageModel that follows the alias, two pods, for all of these tests; it goes with its namespace."""
    model = Served(space, "phi3")
    versions.point("first")
    analysis = {"questions": [SPAIN], "sameAnswers": True, "samples": 3}
    # Without shared prefixes a long beginning costs its time with every answer.
    model.apply({**from_registry(versions.registry, "phi3", analysis=analysis), "replicas": 2, "settings": {"prefix_cache": False}})
    model.serving(versions.number("first"))
    return model


@pytest.fixture
def calm(served: Served, versions: Versions) -> Served:
    """It serves the first version, and nothing is under way."""
    served.patch({"rollout": {"pause": False, "analysis": None}})  # whatever serves: nothing is compared with it on the way back
    served.serving(versions.point("first"))
    served.patch({"rollout": {"analysis": {"questions": [SPAIN], "sameAnswers": True, "samples": 3}}})
    served.serving(versions.number("first"))
    return served


def node(space: Space) -> str:
    return str(max(n["metadata"]["name"] for n in space.get("nodes", "-l", "pilothouse/pool=cpu")))


def test_served_version_says_where_it_is_from(calm: Served, versions: Versions) -> None:
    """Version and digest in the status, and the registry knows who serves it."""
    status = calm.status

    assert status["version"] == versions.number("first")
    assert status["digest"] == versions.registry.tags("phi3", versions.number("first"))["pilothouse_manifest"]
    assert versions.rollout_tag("first", calm).startswith("serving since 20")


def test_alias_that_moves_is_a_rollout_that_loses_no_request(calm: Served, versions: Versions) -> None:
    """A prober asks all the while, over REST, kept-alive connections, SSE and gRPC: every answer comes, and is the known one."""
    report, version = dict[str, Any](), versions.number("second")
    with probing(calm, node(calm.space), report, LEAST, RATE):
        begun = time.monotonic()
        versions.point("second")
        calm.serving(version, 360)
        print(f"\nalias moved to new version serving: {time.monotonic() - begun:.1f} s")
        calm.serving(versions.point("first"), 360)

    assert versions.rollout_tag("second", calm).startswith("serving since 20")
    judge(report, LEAST)


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        ("foreign", "WontLoad", ""),
        ("tampered", "WontLoad", "model.onnx.data is not the file that was packaged"),
        ("wrong", "WrongAnswer", "history"),
        ("slow", "TooSlow", "more than the serving"),
    ],
)
def test_bad_version_is_taken_back_and_the_old_pods_never_go(calm: Served, versions: Versions, name: str, reason: str, said: str) -> None:
    """Its reason stands in the status, in an Event and as a tag of the version; the very same pods answered all the while."""
    if name == "slow":  # its long beginning changes what it says too: here only the time counts
        calm.patch({"rollout": {"analysis": {"questions": None, "sameAnswers": False, "maxSlowdownPercent": 60, "samples": 5}}})
        calm.serving(versions.number("first"))
    before, report, version = calm.pods(), dict[str, Any](), versions.number(name)
    with probing(calm, node(calm.space), report, rate=4.0):
        versions.point(name)
        calm.reason("Progressing", "RolledBack", 420)

    status = calm.status
    failure = status["lastFailure"]
    assert (status["version"], failure["version"], failure["reason"]) == (versions.number("first"), version, reason)
    assert said in failure["message"]
    # A registry that is slow to answer may be said before it.
    calm.reason("Degraded", reason)
    assert calm.condition("Degraded")[2].startswith(f"version {version} was rejected: ")
    assert calm.pods() == before
    assert calm.condition("Ready")[:2] == ("True", "Serving")
    assert f"version {version} was rejected ({reason})" in calm.space.event(f"version {version} was rejected")
    tag = until("the version is tagged", lambda: versions.rollout_tag(name, calm))
    assert tag.startswith("rejected at 20")
    assert reason in tag
    until("the candidate is gone", lambda: not any("candidate" in owned for owned in calm.owned()))
    judge(report, 1)


def test_operator_that_dies_in_mid_rollout_loses_nothing(operator: Operator, calm: Served, versions: Versions) -> None:
    """Every operator is killed while the candidate starts, and again while it is asked; the next one goes on from the status."""
    version = versions.point("second")
    for phase in ("Candidate", "Promoting"):
        until(
            f"the rollout is at {phase}",
            lambda phase=phase: calm.status["rollout"]["phase"] in (phase, "Idle") and calm.status["resolved"]["version"] == version,
            120,
        )
        operator.space.kubectl("delete", "pods", "-l", f"app.kubernetes.io/name={operator.name}", "--now", "--wait=false")

    calm.serving(version, 360)

    assert "lastFailure" not in calm.status or calm.status["lastFailure"]["version"] != version


def test_registry_that_is_down_changes_nothing_that_serves(calm: Served, versions: Versions) -> None:
    """It is said, the pods stay, and an alias that moves is followed once the registry is back."""
    before = calm.pods()
    versions.registry.down()
    said = calm.reason("Degraded", "RegistryUnavailable")
    assert "did not answer" in said
    assert calm.condition("Ready")[:2] == ("True", "Serving")
    assert calm.pods() == before

    versions.registry.up()

    calm.serving(versions.point("second"), 360)


def test_webhook_is_heard_by_either_operator(operator: Operator, registry: Registry, calm: Served, versions: Versions) -> None:
    """Delivered to the one that does not lead; the alias is asked for again at once, and not a day later."""
    hooked = Served(calm.space, "hooked")
    spec = from_registry(registry, "phi3", smoke=False)
    spec["source"]["registry"]["pollSeconds"] = 86400
    hooked.apply({**spec, "replicas": 0})
    try:
        hooked.reason("Progressing", "UpToDate")
        assert hooked.status["resolved"]["version"] == versions.number("first")
        registry.webhook(f"http://{operator.waiting()['status']['podIP']}:8080/webhooks/mlflow")

        version = versions.point("second")

        until("the alias was asked for", lambda: hooked.status["resolved"]["version"] == version)
        assert hooked.status["told"]
    finally:
        hooked.remove()
        versions.point("first")


def test_api_server_that_goes_away_loses_nothing(calm: Served, versions: Versions) -> None:
    """It is killed; the watches come back, or another operator leads, and an alias that moves is followed as before."""
    versions.number("second")
    node = ["docker", "exec", "pilothouse-control-plane"]
    subprocess.run([*node, "pkill", "-KILL", "-x", "kube-apiserver"], check=True, timeout=60)
    until("the API server answers again", lambda: calm.space.kubectl("get", "--raw", "/readyz", check=False) == "ok", 180)

    calm.serving(versions.point("second"), 360)


def test_paused_rollout_waits_before_it_reaches_users(calm: Served, versions: Versions) -> None:
    """The candidate has passed and waits; it comes in when the pause ends."""
    before = calm.pods()
    version = versions.point("second")
    until("a candidate starts", lambda: calm.status["rollout"]["phase"] in ("Candidate", "Checking"), 60)
    calm.patch({"rollout": {"pause": True}})
    calm.reason("Progressing", "Paused")
    assert calm.pods() == before

    calm.patch({"rollout": {"pause": False}})

    calm.serving(version, 360)


def test_no_room_for_a_candidate_is_said_and_what_serves_stays(calm: Served, versions: Versions) -> None:
    """A quota that holds what serves and no more: nothing is rejected; with room it goes on by itself."""
    space, before = calm.space, calm.pods()
    space.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "2"}}})
    try:
        version = versions.point("second")
        assert "exceeded quota: full" in calm.reason("Degraded", "QuotaExceeded", 120)
        assert calm.pods() == before
        assert calm.status.get("rejected") is None
    finally:
        space.kubectl("delete", "resourcequota", "full")
    space.kubectl("delete", "replicasets", "-l", "app.kubernetes.io/instance=phi3-candidate")

    calm.serving(version, 360)
