"""The two releases of a LanguageModel, the one that serves and the candidate: what each is made of in a state, and how it is."""

from collections.abc import Mapping

from pilothouse.operator import objects, observed, rollout, status, values
from pilothouse.operator.chart import Chart
from pilothouse.operator.cluster import Cluster
from pilothouse.operator.rollout import Failure, Health, State
from pilothouse.operator.spec import REVISION, Model, Object
from pilothouse.operator.store import Store, pods
from pilothouse.operator.values import Revision

Found = Mapping[str, Revision]
"""Revisions by their names."""


class Releases:
    """Of one LanguageModel, in one reconcile."""

    def __init__(self, cluster: Cluster, chart: Chart, store: Store, model: Model) -> None:
        self._cluster, self._chart, self._store, self._model, self._key = cluster, chart, store, model, model.key

    def revision(self, name: str) -> Revision | None:
        """The revision that is kept by that name."""
        body = self._store.get(self._key, "ControllerRevision", name)
        body = body or self._cluster.get("ControllerRevision", self._key.namespace, name)
        if body is None:
            return None
        self._store.put("ControllerRevision", body)
        return objects.loaded(body)

    def health(self, found: Found, *, candidate: bool) -> Health:
        """Of which revision the release is, whether it is complete, and what is wrong with it."""
        release = values.release(self._key, candidate=candidate)
        deployment = self._store.get(self._key, "Deployment", release)
        revision = found.get(((deployment or {"metadata": {}})["metadata"].get("annotations") or {}).get(REVISION, ""))
        if revision is None:
            return observed.health(deployment, ())
        labels = {observed.PODS: objects.pods_of(revision), "app.kubernetes.io/instance": release}
        return observed.health(deployment, pods(self._store.all(self._key, "Pod"), labels))

    def wanted(self, state: State, found: Found) -> tuple[list[Object], set[str]]:
        """The objects of both releases in this state; and the release that stays as it is, whatever it is. Raises `ChartRefused`."""
        wanted, desired, held = rollout.wanted(state), list[Object](), set[str]()
        key, chart, model = self._key, self._chart, self._model
        if main := found.get(wanted.main or ""):
            rendered = chart.render(key.name, key.namespace, values.main_values(key, main.values, values.scale_values(model)))
            # Where another version of the chart made its pods, they stay until their successor has passed.
            if values.digest_of(rendered.pod_template) == main.fingerprint or state.phase not in ("Idle", "Candidate", "Checking"):
                desired += objects.workload(model, rendered, main)
            else:
                held.add(key.name)
        elif wanted.main:  # somebody deleted its ControllerRevision: what serves stays, untouched
            held.add(key.name)
        if candidate := found.get(wanted.candidate or ""):
            release = values.release(key, candidate=True)
            rendered = chart.render(release, key.namespace, values.candidate_values(key, candidate.values))
            desired += objects.workload(model, rendered, candidate)
        return desired, held

    def facts(self, state: State, found: Found, target: Revision | None, problems: list[Failure]) -> status.Facts:
        """What the status says of them; `problems` come before what the releases' own pods say."""
        deployment = self._store.get(self._key, "Deployment", self._key.name)
        config = self._store.get(self._key, "ConfigMap", self._key.name)
        troubles = [failure for candidate in (False, True) if (failure := self.health(found, candidate=candidate).failure)]
        labels = (deployment or {}).get("spec", {}).get("selector", {}).get("matchLabels", {})
        return status.Facts(
            available=observed.available(deployment),
            replicas=int((deployment or {}).get("status", {}).get("replicas", 0)),
            wanted=int((deployment or {}).get("spec", {}).get("replicas", 1)),
            url=values.url(self._model) if deployment else "",
            selector=",".join(f"{name}={value}" for name, value in sorted(labels.items())),
            device=(config or {}).get("data", {}).get("PILOTHOUSE_DEVICE", ""),
            stable=found.get(state.stable or ""),
            target=found.get(state.target or "") or target,
            problems=[*problems, *troubles],
        )
