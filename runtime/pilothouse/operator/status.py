"""The resource's status: where the rollout is, so that any controller can go on, and what people read of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pilothouse.operator.rollout import Failure, Rejected, State
from pilothouse.operator.spec import Model, Object
from pilothouse.operator.values import Pinned, Revision

DOING = {
    "Installing": "its first revision starts",
    "Candidate": "a candidate of the new revision starts beside what serves",
    "Checking": "the candidate is asked",
    "Promoting": "pods of the new revision take the old ones' place",
    "Confirming": "the new revision is asked",
    "RollingBack": "pods of the old revision come back",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the conditions are made of, beside the state. `problems`: what is wrong now, the worst first."""

    available: int = 0
    replicas: int = 0
    wanted: int = 1
    complete: bool = False
    url: str = ""
    selector: str = ""
    device: str = ""
    stable: Revision | None = None
    target: Revision | None = None
    problems: Sequence[Failure] = field(default_factory=tuple)


def state_of(status: Mapping[str, Any]) -> State:
    """The state that a status holds."""
    rollout = status.get("rollout") or {}
    failure = rollout.get("failure")
    return State(
        phase=rollout.get("phase", "Idle"),
        stable=(status.get("stable") or {}).get("revision"),
        target=rollout.get("revision"),
        since=parsed(rollout["since"]) if "since" in rollout else 0.0,
        rejected=tuple(
            Rejected(r["revision"], r["reason"], r["message"], r.get("retry", ""), r.get("version")) for r in status.get("rejected") or ()
        ),
        failure=Failure(failure["reason"], failure["message"], final=True) if failure else None,
    )


def resolved_of(status: Mapping[str, Any], uri: str) -> Pinned | None:
    """What the registry last said of `uri`, for as long as it says nothing."""
    found = status.get("resolved")
    if not found or found.get("asked") != uri:
        return None
    return Pinned(found["uri"], found["version"], found.get("digest"))


def compose(model: Model, state: State, facts: Facts, pinned: Pinned | None, pending: Sequence[Object], now: float) -> Object:
    """The whole status. Fields that no longer hold are None, so that a merge patch takes them away."""
    stable, target = facts.stable, facts.target
    shown = stable or (target if facts.available else None)
    rejected = [_without_none(vars_of(r)) for r in state.rejected]
    made: Object = {
        "observedGeneration": model.generation,
        "model": named(model),
        "version": shown.version if shown else None,
        "digest": shown.digest if shown else None,
        "device": facts.device or None,
        "url": facts.url or None,
        "replicas": facts.replicas,
        "readyReplicas": facts.available,
        "selector": facts.selector or None,
        "stable": _without_none({"revision": stable.name, "version": stable.version, "digest": stable.digest}) if stable else None,
        "resolved": None,
        "rollout": _without_none(
            {
                "phase": state.phase,
                "revision": state.target,
                "version": target.version if target and state.target else None,
                "since": stamped(state.since) if state.since else None,
                "failure": {"reason": state.failure.reason, "message": state.failure.message} if state.failure else None,
            }
        ),
        "rejected": rejected or None,
        "lastFailure": model.status.get("lastFailure"),
        "pending": list(pending) or None,
    }
    if pinned and model.registered:
        made["resolved"] = _without_none(
            {"asked": model.registered.uri, "uri": pinned.uri, "version": pinned.version, "digest": pinned.digest}
        )
    made["conditions"] = conditions(model, state, facts, now)
    return made


def conditions(model: Model, state: State, facts: Facts, now: float) -> list[Object]:
    """Ready, Progressing and Degraded; a condition keeps the time of its last change of status."""
    before = {c["type"]: c for c in model.status.get("conditions", ())}
    made = []
    for kind, (status, reason, message) in {
        "Ready": _ready(state, facts), "Progressing": _progressing(model, state, facts), "Degraded": _degraded(state, facts),
    }.items():  # fmt: skip
        old = before.get(kind, {})
        since = old["lastTransitionTime"] if old.get("status") == status else stamped(now)
        made.append(
            {"type": kind, "status": status, "reason": reason, "message": message[:1000], "lastTransitionTime": since,
             "observedGeneration": model.generation}
        )  # fmt: skip
    return made


def _ready(state: State, facts: Facts) -> tuple[str, str, str]:
    if facts.wanted == 0 and not facts.available:
        return "False", "ScaledToZero", "replicas is 0"
    if state.stable is None and state.phase in ("Confirming", "Failed"):
        return "False", "NotChecked", "the first revision has not passed its checks"
    if facts.available:
        return "True", "Serving", f"{facts.available} of {facts.wanted} pods answer"
    problem = next(iter(facts.problems), None)
    return "False", problem.reason if problem else "Starting", problem.message if problem else "no pod answers yet"


def _progressing(model: Model, state: State, facts: Facts) -> tuple[str, str, str]:
    if state.phase in DOING:
        version = f" (version {facts.target.version})" if facts.target and facts.target.version else ""
        if state.phase == "Checking" and model.policy.pause:
            return "True", "Paused", f"the candidate{version} waits: rollout.pause is true"
        waits = ", once there are pods: replicas is 0" if facts.wanted == 0 and state.phase in ("Installing", "Promoting") else ""
        return "True", state.phase, DOING[state.phase] + version + waits
    if state.phase == "Failed":
        return "False", "Failed", "the first revision failed; change the resource, or its annotation pilothouse.org/retry"
    if model.policy.pause:
        return "False", "Paused", "nothing new comes in: rollout.pause is true"
    if state.rejected:
        return (
            "False",
            "RolledBack",
            "what is asked for was rejected; it is tried again when the resource, the alias or pilothouse.org/retry changes",
        )
    return "False", "UpToDate", "what is asked for serves" if state.stable else "nothing to roll out yet"


def _degraded(state: State, facts: Facts) -> tuple[str, str, str]:
    for problem in facts.problems:
        return "True", problem.reason, problem.message
    if state.rejected:
        last = state.rejected[0]
        version = f"version {last.version}" if last.version else f"revision {last.revision}"
        return "True", last.reason, f"{version} was rejected: {last.message}"
    return "False", "AsExpected", "nothing is wrong"


def failed(revision: str, version: str | None, failure: Failure, now: float) -> Object:
    """The last failure, which stays until the next one."""
    return _without_none(
        {"revision": revision, "version": version, "reason": failure.reason, "message": failure.message[:1000], "time": stamped(now)}
    )


def named(model: Model) -> str:
    """The source in a few words, for `kubectl get`."""
    source = model.spec["source"]
    if model.registered:
        return model.registered.uri
    if "pvc" in source:
        return "/".join(part for part in (f"pvc:{source['pvc']['claimName']}", source["pvc"].get("path")) if part)
    if "imageVolume" in source:
        return str(source["imageVolume"]["reference"])
    return "image"


def differs(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether writing `new` would change `old`."""
    return any(old.get(name) != value for name, value in new.items())


def vars_of(entry: Rejected) -> Object:
    return {
        "revision": entry.revision, "reason": entry.reason, "message": entry.message[:1000], "retry": entry.retry or None,
        "version": entry.version,
    }  # fmt: skip


def _without_none(value: Object) -> Object:
    return {name: item for name, item in value.items() if item is not None}


def stamped(now: float) -> str:
    return datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")


def parsed(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
