"""One reconcile: look, decide, write down, make it so. Level-triggered: what woke it is of no interest, and doing it again changes nothing."""

import logging
from dataclasses import dataclass, field, replace

from pilothouse.operator import objects, rollout, status, values
from pilothouse.operator.applying import Applied, Applier, Taken
from pilothouse.operator.chart import Chart, ChartRefused
from pilothouse.operator.checking import Checks, Report
from pilothouse.operator.cluster import Cluster, Refused, Unreachable
from pilothouse.operator.following import Following
from pilothouse.operator.owed import Owed
from pilothouse.operator.registry import Registry
from pilothouse.operator.releases import Found, Releases
from pilothouse.operator.rollout import Failure, Seen, State
from pilothouse.operator.spec import KIND, Model, Object
from pilothouse.operator.store import Store
from pilothouse.operator.values import Revision

log = logging.getLogger("pilothouse.operator")

REFUSED = 15.0  # seconds until what the API server or the chart refused is tried again
KEPT = 3  # revisions that nothing refers to


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


class Turn:
    """One reconcile of one LanguageModel."""

    def __init__(self, tools: Tools, model: Model, memory: Memory, now: float) -> None:
        self.cluster, self.chart, self.registry, self.store = tools.cluster, tools.chart, tools.registry, tools.store
        self.model, self.memory, self.now, self.key = model, memory, now, model.key
        self.applier = Applier(self.cluster, self.store, model, memory.applied)
        self.checks = Checks(self.cluster, self.chart, self.store, model, memory.reports)
        self.releases = Releases(self.cluster, self.chart, self.store, model)
        self.owed = Owed(self.cluster, self.registry, model, now)
        self.problems: list[Failure] = []

    def take(self) -> float:
        """Look, decide, write down, make it so; after how many seconds to look again."""
        state = status.state_of(self.model.status)
        target = self._target()
        found = {name: kept for name in (state.stable, state.target) if name and (kept := self.releases.revision(name))}
        after, outcome = rollout.step(self.model.policy, state, self._seen(state, target, found), self.now)
        if target and target.name in (after.target, after.stable):
            found[target.name] = target
            self._keep(target)
        last = self.owed.add(outcome, found.get(outcome.revision)) if outcome else None
        if after != state:
            # Written down before anything is done: whoever comes after this process goes on from here.
            log.info("%s: %s -> %s (%s)", self.key, state.phase, after.phase, after.target or after.stable)
            self._write(after, found, target, last)
        made = self._make(after, found)
        if trouble := self.owed.settle():
            self.problems.append(trouble)
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
            main=self.releases.health(found, candidate=False),
            candidate=self.releases.health(found, candidate=True),
            verdict=self.checks.verdict(state, found),
            retry=self.model.retry,
            version=coming.version if coming else None,
        )

    # -- doing --------------------------------------------------------------------------------------------------------------------

    def _keep(self, revision: Revision) -> None:
        numbers = [int(body.get("revision", 0)) for body in self.store.all(self.key, "ControllerRevision")]
        self.applier.create(objects.stored(self.model, revision, max(numbers, default=0) + 1))

    def _make(self, state: State, found: Found) -> bool:
        """Make the cluster hold what the state wants, and nothing else of ours. False where that was refused."""
        try:
            desired, held = self.releases.wanted(state, found)
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

    def _prune_revisions(self, state: State) -> None:
        named = {state.stable, state.target, *(r.revision for r in state.rejected)}
        kept = [b for b in self.store.all(self.key, "ControllerRevision") if objects.owned(b, self.model)]
        spare = sorted((b for b in kept if b["metadata"]["name"] not in named), key=lambda b: int(b.get("revision", 0)))
        for body in spare[:-KEPT]:
            self.applier.delete(body)

    # -- telling ------------------------------------------------------------------------------------------------------------------

    def _write(self, state: State, found: Found, target: Revision | None, last: Object | None) -> None:
        facts = self.releases.facts(state, found, target, [*self.problems, *self.checks.problems])
        made = status.compose(self.model, state, facts, self.memory.following.resolved, self.owed.pending, self.now)
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
