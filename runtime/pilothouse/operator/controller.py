"""One reconcile: look, decide, write down, make it so. Level-triggered: what woke it is of no interest, and doing it again changes nothing."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pilothouse.operator import objects, observed, rollout, status, values
from pilothouse.operator.applying import Applied, Applier, Taken
from pilothouse.operator.chart import Chart, ChartRefused
from pilothouse.operator.checking import Checks, Report
from pilothouse.operator.cluster import Cluster, Refused, Unreachable
from pilothouse.operator.following import Following
from pilothouse.operator.registry import NotRegistered, Registry, RegistryUnavailable
from pilothouse.operator.rollout import Failure, Health, Outcome, Seen, State
from pilothouse.operator.spec import KIND, REVISION, Key, Model, Object, read
from pilothouse.operator.store import Store, pods
from pilothouse.operator.values import Revision

log = logging.getLogger("pilothouse.operator")

RESYNC = 600.0  # seconds after which everything is applied again, whatever the watches said
REFUSED = 15.0  # seconds until what the API server or the chart refused is tried again
KEPT = 3  # revisions that nothing refers to
Found = Mapping[str, Revision]


@dataclass
class Memory:
    """What is only known to this process about one LanguageModel: all of it can be found again."""

    following: Following = field(default_factory=Following)
    next_resync: float = 0.0
    applied: Applied = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What a reconcile works with."""

    cluster: Cluster
    chart: Chart
    registry: Registry
    store: Store


class Controller:
    """Reconciles one LanguageModel at a time and key; several keys at once are fine."""

    def __init__(self, tools: Tools, clock: Callable[[], float] = time.time) -> None:
        self._tools, self._clock = tools, clock
        self._memories: dict[str, Memory] = {}

    def poke(self, name: str) -> list[Key]:
        """The registry says that the model of that name changed: whoever serves it asks again at once."""
        found = []
        for body in self._tools.store.models():
            model = read(body)
            if model.registered and model.registered.name == name:
                self._memories.setdefault(model.uid, Memory()).following.next_poll = 0.0
                found.append(model.key)
        return found

    def reconcile(self, key: Key) -> float | None:
        """Bring the LanguageModel one step on. Answers after how many seconds it wants to be asked again; None: not by itself.

        Raises `Unreachable` where the API server does not answer: the same again, later.
        """
        store, now = self._tools.store, self._clock()
        body = store.model(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            # The garbage collector takes everything away by its owner reference; nothing is left to do.
            self._forget(key, body)
            return None
        memory = self._memories.setdefault(body["metadata"]["uid"], Memory())
        if now >= memory.next_resync:
            live = self._tools.cluster.get(KIND, key.namespace, key.name)
            if live is None or live["metadata"]["uid"] != body["metadata"]["uid"]:
                self._forget(key, body)
                store.forget(key)
                return 0.0 if live and store.put(KIND, live) else None
            store.put(KIND, live)
            body = live
            memory.applied.clear()
            memory.next_resync = now + RESYNC * random.uniform(0.8, 1.2)
        return _Turn(self._tools, read(body), memory, now).take()

    def _forget(self, key: Key, body: Object | None) -> None:
        if body is None:
            self._tools.store.forget(key)
        else:
            self._memories.pop(body["metadata"]["uid"], None)


class _Turn:
    """One reconcile of one LanguageModel."""

    def __init__(self, tools: Tools, model: Model, memory: Memory, now: float) -> None:
        self.cluster, self.chart, self.registry, self.store = tools.cluster, tools.chart, tools.registry, tools.store
        self.model, self.memory, self.now, self.key = model, memory, now, model.key
        self.applier = Applier(self.cluster, self.store, model, memory.applied)
        self.checks = Checks(self.cluster, self.chart, self.store, model, memory.reports)
        self.problems: list[Failure] = []
        self.pending: list[Object] = list(model.status.get("pending") or ())

    def take(self) -> float:
        """Look, decide, write down, make it so; after how many seconds to look again."""
        state = status.state_of(self.model.status)
        target = self._target()
        found = {name: kept for name in (state.stable, state.target) if name and (kept := self._stored(name))}
        after, outcome = rollout.step(self.model.policy, state, self._seen(state, target, found), self.now)
        if target and target.name in (after.target, after.stable):
            found[target.name] = target
            self._keep(target)
        last = self._owe(outcome, found) if outcome else None
        if after != state:
            # Written down before anything is done: whoever comes after this process goes on from here.
            log.info("%s: %s -> %s (%s)", self.key, state.phase, after.phase, after.target or after.stable)
            self._write(after, found, target, last)
        made = self._make(after, found)
        self._settle()
        self._write(after, found, target, last)
        self._prune_revisions(after)
        if not made:
            return REFUSED
        if after != state:
            return 0.0
        due = min(self.memory.next_resync, self.memory.following.next_poll if self.model.registered else float("inf"))
        return max(1.0, due - self.now)

    # -- looking ------------------------------------------------------------------------------------------------------------------

    def _target(self) -> Revision | None:
        """What resource and registry ask for now; None while that is not known."""
        pinned = None
        if registered := self.model.registered:
            following = self.memory.following
            pinned = following.look(self.registry, registered, self.model.status, self.now)
            self.problems += [following.failure] if following.failure else []
            if pinned is None:
                return None
        wanted = values.chart_values(self.model, pinned)
        whole = values.main_values(self.key, wanted, values.scale_values(self.model))
        try:
            rendered = self.chart.render(self.key.name, self.key.namespace, whole)
        except ChartRefused as refusal:
            self.problems.append(Failure("InvalidSpec", str(refusal)))
            return None
        return values.revision(self.key, wanted, rendered.pod_template, pinned)

    def _seen(self, state: State, target: Revision | None, found: Found) -> Seen:
        stable, coming = found.get(state.stable or ""), found.get(state.target or "") or target
        return Seen(
            target=target.name if target else None,
            same_pods=bool(target and stable and target.fingerprint == stable.fingerprint),
            main=self._health(found, candidate=False),
            candidate=self._health(found, candidate=True),
            verdict=self.checks.verdict(state, found),
            retry=self.model.retry,
            version=coming.version if coming else None,
        )

    def _health(self, found: Found, *, candidate: bool) -> Health:
        release = values.release(self.key, candidate=candidate)
        deployment = self.store.get(self.key, "Deployment", release)
        revision = found.get(((deployment or {"metadata": {}})["metadata"].get("annotations") or {}).get(REVISION, ""))
        if revision is None:
            return observed.health(deployment, ())
        labels = {observed.PODS: objects.pods_of(revision), "app.kubernetes.io/instance": release}
        return observed.health(deployment, pods(self.store.all(self.key, "Pod"), labels))

    def _stored(self, name: str) -> Revision | None:
        body = self.store.get(self.key, "ControllerRevision", name) or self.cluster.get("ControllerRevision", self.key.namespace, name)
        if body is None:
            return None
        self.store.put("ControllerRevision", body)
        return objects.loaded(body)

    # -- doing --------------------------------------------------------------------------------------------------------------------

    def _keep(self, revision: Revision) -> None:
        numbers = [int(body.get("revision", 0)) for body in self.store.all(self.key, "ControllerRevision")]
        self.applier.create(objects.stored(self.model, revision, max(numbers, default=0) + 1))

    def _make(self, state: State, found: Found) -> bool:
        """Make the cluster hold what the state wants, and nothing else of ours. False where that was refused."""
        try:
            desired, held = self._workloads(state, found)
            checks = self.checks.wanted(state, found)
            for body in desired:
                self.applier.apply(body)
            for body in checks:
                self.applier.create(body)
            self.applier.prune({(body["kind"], body["metadata"]["name"]) for body in (*desired, *checks)}, held)
        except ChartRefused as refusal:
            self.problems.insert(0, Failure("InvalidSpec", str(refusal)))
            return False
        except Taken as refusal:
            self.problems.insert(0, Failure("NameTaken", refusal.message))
            return False
        except Refused as refusal:
            self.problems.insert(0, Failure("ApplyRefused", refusal.message))
            return False
        return True

    def _workloads(self, state: State, found: Found) -> tuple[list[Object], set[str]]:
        """The objects of both releases; and the release that stays as it is, whatever it is."""
        wanted, desired, held = rollout.wanted(state), list[Object](), set[str]()
        if main := found.get(wanted.main or ""):
            rendered = self.chart.render(
                self.key.name, self.key.namespace, values.main_values(self.key, main.values, values.scale_values(self.model))
            )
            # Where another version of the chart made its pods, they stay until their successor has passed.
            if values.digest_of(rendered.pod_template) == main.fingerprint or state.phase not in ("Idle", "Candidate", "Checking"):
                desired += objects.workload(self.model, rendered, main)
            else:
                held.add(self.key.name)
        elif wanted.main:  # somebody deleted its ControllerRevision: what serves stays, untouched
            held.add(self.key.name)
        if candidate := found.get(wanted.candidate or ""):
            release = values.release(self.key, candidate=True)
            rendered = self.chart.render(release, self.key.namespace, values.candidate_values(self.key, candidate.values))
            desired += objects.workload(self.model, rendered, candidate)
        return desired, held

    def _prune_revisions(self, state: State) -> None:
        named = {state.stable, state.target, *(r.revision for r in state.rejected)}
        kept = [b for b in self.store.all(self.key, "ControllerRevision") if objects.owned(b, self.model)]
        spare = sorted((b for b in kept if b["metadata"]["name"] not in named), key=lambda b: int(b.get("revision", 0)))
        for body in spare[:-KEPT]:
            self.applier.delete(body)

    # -- telling ------------------------------------------------------------------------------------------------------------------

    def _owe(self, outcome: Outcome, found: Found) -> Object | None:
        """What ended: an Event and a tag on the registry's version, both owed in the status until they are delivered."""
        revision = found.get(outcome.revision)
        version = revision.version if revision else None
        named = f"version {version}" if version else f"revision {outcome.revision}"
        failure = outcome.failure
        if outcome.kind == "Promoted":
            message, tag = f"{named} serves", f"serving since {status.stamped(self.now)}"
        elif failure:
            message, tag = (
                f"{named} was rejected ({failure.reason}): {failure.message}",
                f"rejected at {status.stamped(self.now)}, {failure.reason}: {failure.message}",
            )
        else:
            message, tag = f"{named} was given up: something else is asked for", ""
        owed: Object = {"reason": outcome.kind, "message": message[:1000]}
        if tag and version and self.model.registered:
            owed |= {"tag": tag[:1000], "version": version}
        self.pending = [*self.pending, owed][-10:]
        return status.failed(outcome.revision, version, failure, self.now) if failure else None

    def _settle(self) -> None:
        """Deliver what is owed; what can't be delivered now stays owed."""
        owed: list[Object] = []
        for one in self.pending:
            if "reason" in one:
                warning = one["reason"] == "RolledBack"
                body = objects.event(
                    self.model, one["reason"], one["message"], warning=warning, at=status.stamped(self.now), reporter=self.cluster.identity
                )
                self.cluster.create(body)
            rest: Object = {name: one[name] for name in ("tag", "version") if name in one}
            if rest and self.model.registered:
                try:
                    self.registry.tag(self.model.registered, rest["version"], self.key, rest["tag"])
                except NotRegistered as failure:
                    log.warning("%s: %s", self.key, failure)
                except RegistryUnavailable as failure:
                    self.problems.append(Failure("RegistryUnavailable", str(failure)))
                    owed.append(rest)
        self.pending = owed

    def _write(self, state: State, found: Found, target: Revision | None, last: Object | None) -> None:
        made = status.compose(self.model, state, self._facts(state, found, target), self.memory.following.resolved, self.pending, self.now)
        if last:
            made["lastFailure"] = last
        if not status.differs(made, self.model.status):
            return
        try:
            body = self.cluster.write_status(self.key, made, self.model.body["metadata"]["resourceVersion"])
        except Refused as refusal:
            if refusal.status in (404, 409):
                live = self.cluster.get(KIND, self.key.namespace, self.key.name)
                if live:
                    self.store.put(KIND, live)
                raise Unreachable(f"{self.key} changed meanwhile") from None
            raise
        self.store.put(KIND, body)
        self.model = replace(self.model, body=body)

    def _facts(self, state: State, found: Found, target: Revision | None) -> status.Facts:
        deployment = self.store.get(self.key, "Deployment", self.key.name)
        config = self.store.get(self.key, "ConfigMap", self.key.name)
        problems = [*self.problems, *self.checks.problems]
        problems += [failure for candidate in (False, True) if (failure := self._health(found, candidate=candidate).failure)]
        labels = (deployment or {}).get("spec", {}).get("selector", {}).get("matchLabels", {})
        return status.Facts(
            available=observed.available(deployment),
            replicas=int((deployment or {}).get("status", {}).get("replicas", 0)),
            wanted=int((deployment or {}).get("spec", {}).get("replicas", 1)),
            url=f"http://{self.key.name}.{self.key.namespace}.svc:8080" if deployment else "",
            selector=",".join(f"{name}={value}" for name, value in sorted(labels.items())),
            device=(config or {}).get("data", {}).get("PILOTHOUSE_DEVICE", ""),
            stable=found.get(state.stable or ""),
            target=found.get(state.target or "") or target,
            problems=problems,
        )
