"""The checks of a rollout: the chart's own test pod, run for a revision and once more for the one it is compared with; and what they found."""

import json
from collections.abc import Mapping
from typing import Any

from pilothouse.operator import analysis, objects, rollout, values
from pilothouse.operator.chart import Chart
from pilothouse.operator.cluster import Cluster, Refused
from pilothouse.operator.rollout import Failure, State
from pilothouse.operator.spec import Model, Object
from pilothouse.operator.store import Store
from pilothouse.operator.values import Revision

Report = Mapping[str, Any]


class Checks:
    """The checks of one LanguageModel in one reconcile. `reports` are kept by their pod's uid: a log is read once. `problems` fills on the way."""

    def __init__(self, cluster: Cluster, chart: Chart, store: Store, model: Model, reports: dict[str, Report]) -> None:
        self._cluster, self._chart, self._store, self._model, self._reports = cluster, chart, store, model, reports
        self.problems: list[Failure] = []

    def verdict(self, state: State, found: Mapping[str, Revision]) -> Failure | None:
        """`PASSED`, what was wrong, or None while a check is still to end."""
        which, policy = rollout.wanted(state).check, self._model.policy.analysis
        if which is None or (report := self._read(which, state)) is None:
            return None
        baseline = None
        if self._compares(state, found, report) and (baseline := self._read("baseline", state)) is None:
            return None
        return analysis.judge(policy, report, baseline)

    def wanted(self, state: State, found: Mapping[str, Revision]) -> list[Object]:
        """The pods that must be there in this state."""
        which, revision = rollout.wanted(state).check, found.get(state.target or "")
        if which is None or revision is None:
            return []
        made = [self._pod(which, revision, state)]
        report = self._read(which, state)
        # One after the other: asked at the same time, the two would slow each other down.
        if report is not None and self._compares(state, found, report):
            made.append(self._pod("baseline", found[state.stable or ""], state))
        return made

    def _compares(self, state: State, found: Mapping[str, Revision], report: Report) -> bool:
        """Whether the serving revision is to be asked too: the candidate passed by itself, and the policy compares."""
        policy = self._model.policy.analysis
        return (
            state.phase == "Checking"
            and policy.compares
            and (state.stable or "") in found
            and analysis.judge(policy, report, None) == rollout.PASSED
        )

    def _pod(self, which: objects.Which, revision: Revision, state: State) -> Object:
        key, scale = self._model.key, values.scale_values(self._model)
        candidate = which == "candidate"
        asked = values.candidate_values(key, revision.values) if candidate else values.main_values(key, revision.values, scale)
        rendered = self._chart.render(values.release(key, candidate=candidate), key.namespace, asked)
        return objects.check(self._model, rendered, revision, objects.check_name(self._model, which, state))

    def _read(self, which: objects.Which, state: State) -> Report | None:
        """The report of a check's pod, once it has ended."""
        pod = self._store.get(self._model.key, "Pod", objects.check_name(self._model, which, state))
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return None
        phase, uid = pod.get("status", {}).get("phase"), pod["metadata"]["uid"]
        if phase not in ("Succeeded", "Failed"):
            if trouble := objects.check_trouble(pod):
                self.problems.append(trouble)
            return None
        if uid not in self._reports:
            try:
                text = self._cluster.logs(self._model.key.namespace, pod["metadata"]["name"])
            except Refused as refusal:
                text = refusal.message
            self._reports[uid] = _parsed(text, pod)
        return self._reports[uid]


def _parsed(text: str, pod: Mapping[str, Any]) -> Report:
    """The JSON among a check's lines; else why there is none."""
    try:
        found: Report = json.loads(text[text.index("{") : text.rindex("}") + 1])
        return found
    except ValueError:
        said = pod.get("status", {}).get("reason") or (text.strip().splitlines() or ["it said nothing"])[-1]
        return {"checks": [], "problem": f"the check ended without a report: {said[:300]}"}
