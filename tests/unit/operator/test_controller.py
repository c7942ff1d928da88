"""The reconcile over an API server in memory: what is at rest costs nothing, and a controller may die at any call of any rollout."""

import copy
import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from pilothouse.operator.chart import ChartRefused, Rendered
from pilothouse.operator.cluster import Refused, Unreachable
from pilothouse.operator.controller import Controller
from pilothouse.operator.registry import RegistryUnavailable
from pilothouse.operator.spec import KIND, REVISION, Key, Object, Registered
from pilothouse.operator.store import Store
from pilothouse.operator.turn import Tools
from pilothouse.operator.values import Pinned

KEY = Key("models", "phi3")
PASSED = json.dumps({"checks": [{"name": "parity", "problem": None}]})
FAILED = json.dumps({"checks": [{"name": "parity", "problem": "no answer"}]})


class Died(Exception):
    """The process was killed."""


class Api:
    """Objects by kind and name. A Deployment's pods are there at once, a check ends at once; `dies` counts down to a kill."""

    identity = "here"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.numbers = itertools.count(1)
        self.calls = 0
        self.dies: int | None = None
        self.bad: set[str] = set()  # versions whose check fails
        self.events: list[str] = []
        self.seen_main: list[str] = []  # the versions that the serving Deployment was given, in order

    def _called(self) -> None:
        self.calls += 1
        if self.dies is not None:
            self.dies -= 1
            if self.dies < 0:
                raise Died

    def _stamp(self, body: Object) -> Object:
        body["metadata"]["resourceVersion"] = str(next(self.numbers))
        body["metadata"].setdefault("uid", f"uid-{next(self.numbers)}")
        self.objects[body["kind"], body["metadata"]["name"]] = body
        return copy.deepcopy(body)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        self._called()
        return copy.deepcopy(self.objects.get((kind, name)))

    def deployments(self, namespace: str, selector: str) -> list[Object]:
        self._called()
        return []

    def apply(self, body: Object) -> Object:
        self._called()
        kept = self.objects.get((body["kind"], body["metadata"]["name"]), {"metadata": {}})
        if {k: v for k, v in kept.items() if k not in ("metadata", "status")} | {"metadata": None} == {**body, "metadata": None}:
            return copy.deepcopy(kept)
        made = copy.deepcopy(body)
        made["metadata"] |= {"uid": kept["metadata"].get("uid", f"uid-{next(self.numbers)}")}
        made["metadata"]["generation"] = kept["metadata"].get("generation", 0) + 1
        if body["kind"] == "Deployment":
            made["status"] = {
                "observedGeneration": made["metadata"]["generation"],
                "replicas": 1,
                "updatedReplicas": 1,
                "availableReplicas": 1,
            }
            if body["metadata"]["name"] == KEY.name:
                self.seen_main.append(body["spec"]["template"]["version"])
        return self._stamp(made)

    def create(self, body: Object) -> Object | None:
        self._called()
        if body["kind"] == "Event":
            self.events.append(body["reason"])
            return body
        if (body["kind"], body["metadata"]["name"]) in self.objects:
            return None
        made = copy.deepcopy(body)
        if body["kind"] == "Pod":
            made["status"] = {"phase": "Succeeded"}
        return self._stamp(made)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._called()
        self.objects.pop((kind, name), None)

    def write_status(self, key: Key, status: Object, resource_version: str) -> Object:
        self._called()
        body = copy.deepcopy(self.objects[KIND, key.name])
        if body["metadata"]["resourceVersion"] != resource_version:
            raise Refused(409, "changed")
        body["status"] = {k: v for k, v in {**body.get("status", {}), **copy.deepcopy(status)}.items() if v is not None}
        return self._stamp(body)

    def tell(self, key: Key, when: str) -> None:
        self._called()
        body = copy.deepcopy(self.objects[KIND, key.name])
        body["status"] = {**body.get("status", {}), "told": when}
        self._stamp(body)

    def logs(self, namespace: str, pod: str) -> str:
        self._called()
        return FAILED if self.objects["Pod", pod]["spec"]["version"] in self.bad else PASSED


class Chart:
    """Two objects and a test pod for any values; refuses `profile: none`."""

    def render(self, release: str, namespace: str, values: Mapping[str, Any]) -> Rendered:
        if values.get("profile") == "none":
            raise ChartRefused("no such profile")
        version = values["podAnnotations"].get("pilothouse.org/version", "")
        labels = {"app.kubernetes.io/instance": release}

        def made(kind: str, **more: Any) -> Object:
            return {"kind": kind, "metadata": {"name": release, "namespace": namespace, "labels": dict(labels)}, **more}

        template = {"metadata": {"labels": {}, "annotations": {}}, "version": version}
        deployment = made("Deployment", spec={"replicas": 1, "template": template, "selector": {"matchLabels": labels}})
        check = made("Pod", spec={"version": version, "containers": [{"args": []}]})
        check["metadata"]["annotations"] = {"helm.sh/hook": "test"}
        return Rendered((made("ConfigMap", data={"PILOTHOUSE_DEVICE": "cpu"}), deployment), check)


class Registry:
    """An alias in memory."""

    def __init__(self) -> None:
        self.version, self.down, self.calls = "1", False, 0
        self.tags: dict[str, str] = {}

    def resolve(self, model: Registered) -> Pinned:
        self.calls += 1
        if self.down:
            raise RegistryUnavailable("it is down")
        return Pinned(f"models:/phi3/{self.version}", self.version, f"sha256:{self.version}")

    def tag(self, model: Registered, version: str, key: Key, value: str) -> None:
        if self.down:
            raise RegistryUnavailable("it is down")
        self.tags[version] = value.split(" ")[0]


class World:
    """One LanguageModel, its API server and its registry; controllers come and go."""

    def __init__(self, **rollout: Any) -> None:
        self.api, self.registry, self.now = Api(), Registry(), 1000.0
        source = {"registry": {"uri": "models:/phi3@champion", "trackingUri": "http://mlflow", "pollSeconds": 10}}
        metadata = {"namespace": KEY.namespace, "name": KEY.name, "generation": 1}
        self.api._stamp({"kind": KIND, "metadata": metadata, "spec": {"source": source, "rollout": rollout}})
        self.begin()

    def begin(self) -> None:
        """A new process, which has listed everything."""
        self.store = Store()
        self.watch()
        self.controller = Controller(Tools(self.api, Chart(), self.registry, self.store), lambda: self.now)  # type: ignore[arg-type]

    def watch(self) -> None:
        for (kind, _), body in self.api.objects.items():
            self.store.put(kind, copy.deepcopy(body))
        for body in self.store.all(KEY):
            if (body["kind"], body["metadata"]["name"]) not in self.api.objects:
                self.store.drop(body["kind"], body)

    def once(self) -> None:
        """One reconcile; whatever it dies of, another process follows."""
        self.now += 11
        try:
            self.controller.reconcile(KEY)
        except (Died, Unreachable):
            self.api.dies = None
            self.begin()
        self.watch()

    def settle(self) -> Object:
        """Reconcile until nothing changes any more; the status."""
        still = 0
        for _ in range(60):
            before = self.api.objects[KIND, KEY.name].get("status", {})
            self.once()
            same = before == self.api.objects[KIND, KEY.name].get("status") and not before.get("pending")
            still = still + 1 if same else 0
            if still == 3:
                return dict(before)
        raise AssertionError(f"it does not settle: {before}")

    def conditions(self) -> dict[str, tuple[str, str]]:
        return {c["type"]: (c["status"], c["reason"]) for c in self.api.objects[KIND, KEY.name]["status"]["conditions"]}


def test_first_version_is_served_and_then_nothing_costs_a_call() -> None:
    """Level-triggered: looking again asks the API server nothing."""
    world = World()
    status = world.settle()
    assert (status["version"], status["digest"], status["device"]) == ("1", "sha256:1", "cpu")
    assert world.conditions() == {"Ready": ("True", "Serving"), "Progressing": ("False", "UpToDate"), "Degraded": ("False", "AsExpected")}
    assert (world.api.events, world.registry.tags) == (["Promoted"], {"1": "serving"})

    calls = world.api.calls
    for _ in range(5):
        world.once()
    assert world.api.calls == calls


def test_good_version_comes_in_and_the_candidate_goes() -> None:
    """The serving Deployment gets it once, after the check."""
    world = World()
    world.settle()
    world.registry.version = "2"
    status = world.settle()

    assert status["version"] == "2"
    assert world.api.seen_main == ["1", "2"]
    assert not [name for _, name in world.api.objects if "candidate" in name or "check" in name]
    assert world.registry.tags == {"1": "serving", "2": "serving"}


def test_bad_version_never_reaches_the_serving_deployment() -> None:
    """It is tagged, told and remembered; moving the alias on brings the next one in."""
    world = World()
    world.settle()
    world.registry.version, world.api.bad = "2", {"2"}
    status = world.settle()

    assert (status["version"], status["lastFailure"]["version"], status["lastFailure"]["reason"]) == ("1", "2", "SmokeFailed")
    assert world.api.seen_main == ["1"]
    assert (world.api.events, world.registry.tags["2"]) == (["Promoted", "RolledBack"], "rejected")
    assert world.conditions()["Degraded"] == ("True", "SmokeFailed")
    world.registry.version = "3"
    assert world.settle()["version"] == "3"
    assert world.conditions()["Degraded"] == ("False", "AsExpected")


@pytest.mark.parametrize("bad", [False, True], ids=["good version", "bad version"])
@pytest.mark.parametrize("strategy", ["Candidate", "InPlace"])
def test_controller_may_die_at_any_call(strategy: str, bad: bool) -> None:
    """Whatever the call, the next process ends where this one would have; nothing bad gets in, and events and tags are told."""
    calm = World(strategy=strategy)
    calm.settle()
    before = calm.api.calls
    calm.registry.version, calm.api.bad = "2", {"2"} if bad else set()
    calm.settle()
    for call in range(calm.api.calls - before):
        world = World(strategy=strategy)
        world.settle()
        world.registry.version, world.api.bad = "2", {"2"} if bad else set()
        world.api.dies = call
        status = world.settle()

        assert status["version"] == ("1" if bad else "2"), call
        assert world.registry.tags == calm.registry.tags, call
        assert set(world.api.events) == set(calm.api.events), call
        assert {name for name in world.api.objects if name[0] != "ControllerRevision"} == {
            name for name in calm.api.objects if name[0] != "ControllerRevision"
        }, call
        if strategy == "Candidate":
            assert world.api.seen_main == calm.api.seen_main, call


def test_registry_that_is_down_costs_nothing_and_tags_come_later() -> None:
    """What serves stays; what is owed is delivered when it is back."""
    world = World()
    world.settle()
    world.registry.version = "2"
    while world.api.objects[KIND, KEY.name]["status"]["rollout"]["phase"] != "Promoting":
        world.once()
    world.registry.down = True
    for _ in range(6):
        world.once()
    assert world.api.objects[KIND, KEY.name]["status"]["version"] == "2"
    assert world.conditions()["Degraded"] == ("True", "RegistryUnavailable")
    assert "2" not in world.registry.tags

    world.registry.down = False
    world.settle()

    assert world.registry.tags["2"] == "serving"


def test_new_process_without_a_registry_knows_what_it_said() -> None:
    """From the status."""
    world = World()
    world.settle()
    world.registry.down = True
    world.begin()
    world.once()

    assert world.conditions()["Ready"] == ("True", "Serving")
    assert world.api.seen_main == ["1"]


def test_values_that_the_chart_refuses_change_nothing() -> None:
    """Its own words stand in the condition, and what serves is kept as it is."""
    world = World()
    world.settle()
    body = world.api.objects[KIND, KEY.name]
    body["spec"]["profile"] = "none"
    world.api._stamp(body)
    world.watch()
    world.once()

    assert world.conditions()["Degraded"] == ("True", "InvalidSpec")
    assert world.conditions()["Ready"] == ("True", "Serving")
    assert ("Deployment", KEY.name) in world.api.objects


def test_lost_revision_never_takes_what_serves_away() -> None:
    """Somebody deletes the ControllerRevision of what serves, while the registry is down."""
    world = World()
    world.settle()
    for kind, name in list(world.api.objects):
        if kind == "ControllerRevision":
            del world.api.objects[kind, name]
    world.registry.down = True
    world.begin()
    for _ in range(3):
        world.once()

    assert ("Deployment", KEY.name) in world.api.objects


def test_somebody_elses_object_is_left_alone() -> None:
    """By name, with the way out."""
    world = World()
    world.api._stamp({"kind": "ConfigMap", "metadata": {"name": KEY.name, "namespace": KEY.namespace}, "data": {"mine": "yes"}})
    for _ in range(4):
        world.once()

    assert world.conditions()["Degraded"] == ("True", "NameTaken")
    assert world.api.objects["ConfigMap", KEY.name]["data"] == {"mine": "yes"}


def test_check_of_another_attempt_or_other_questions_is_another_pod() -> None:
    """A report is never read for what it did not ask."""
    world = World()
    world.settle()
    world.registry.version = "2"
    while world.api.objects[KIND, KEY.name]["status"]["rollout"]["phase"] != "Checking":
        world.once()
    (first,) = [name for kind, name in world.api.objects if kind == "Pod"]
    body = world.api.objects[KIND, KEY.name]
    body["spec"]["rollout"] = {"analysis": {"questions": [{"question": "What is MLflow?"}]}, "pause": True}
    world.api._stamp(body)
    world.watch()
    world.once()

    (second,) = [name for kind, name in world.api.objects if kind == "Pod"]
    assert second != first
    assert world.api.objects["Pod", second]["metadata"]["labels"][REVISION]


def test_webhook_reaches_the_operator_that_works_by_the_status() -> None:
    """Whichever operator heard it: the registry is asked once, before the next look was due."""
    world = World()
    world.settle()
    body = world.api.objects[KIND, KEY.name]
    body["spec"]["source"]["registry"]["pollSeconds"] = 86400
    world.api._stamp(body)
    world.watch()
    world.settle()
    asked = world.registry.calls
    world.once()
    assert world.registry.calls == asked

    other = Controller(Tools(world.api, Chart(), world.registry, world.store), lambda: world.now)  # type: ignore[arg-type]
    other.tell("another model")
    other.tell("phi3")
    world.watch()
    for _ in range(3):
        world.once()

    assert world.registry.calls == asked + 1
