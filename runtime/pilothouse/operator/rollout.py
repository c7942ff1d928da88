"""The rollout as a state machine: pure, and whole in the resource's status, so that whoever reads the status can go on.

One `step` looks at the state and at the world and answers the next state; `wanted` says what the cluster must hold in a state. Nothing is
done on the way from one state to the next: the controller writes the state down first and then makes the cluster match it, so a
controller that dies between the two loses nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pilothouse.operator.spec import Policy

Phase = Literal["Idle", "Installing", "Candidate", "Checking", "Promoting", "Confirming", "RollingBack", "Failed"]
KEPT = 5  # rejected revisions that are remembered


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision does not come up, in words. `final`: waiting longer is useless, it is the revision's own fault."""

    reason: str
    message: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """A release's Deployment: of which `revision` it is (None: it isn't there), whether every pod is of it and available, and whether it is
    `empty`, scaled to no pod at all: complete then, but with nobody to ask."""

    revision: str | None = None
    complete: bool = False
    failure: Failure | None = None
    empty: bool = False

    def done(self, revision: str | None) -> bool:
        return self.complete and revision is not None and self.revision == revision

    def broken(self, revision: str | None) -> Failure | None:
        """A final failure of that very revision."""
        return self.failure if self.failure and self.failure.final and self.revision == revision else None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A revision that failed, and is not tried again until the target or the retry annotation changes."""

    revision: str
    reason: str
    message: str
    retry: str = ""
    version: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Where the rollout is. `stable` serves and has passed; `target` comes in; `since` is when the phase began (epoch seconds);
    `failure` is why it is going back."""

    phase: Phase = "Idle"
    stable: str | None = None
    target: str | None = None
    since: float = 0.0
    rejected: tuple[Rejected, ...] = ()
    failure: Failure | None = None

    def refuses(self, revision: str, retry: str) -> Rejected | None:
        return next((r for r in self.rejected if r.revision == revision and r.retry == retry), None)


@dataclass(frozen=True, slots=True)
class Seen:
    """The world at this moment. `target`: the revision that resource and registry ask for, None while that is not known; `same_pods`: it
    has the very pods of the stable one; `verdict`: None until the checks have ended, then their failure or `PASSED`."""

    target: str | None
    same_pods: bool = False
    main: Health = Health()
    candidate: Health = Health()
    verdict: Failure | None = None
    retry: str = ""
    version: str | None = None


PASSED = Failure("Passed", "every check passed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A rollout that has ended: what became of `revision`."""

    kind: Literal["Promoted", "RolledBack", "Superseded"]
    revision: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the cluster must hold: the revision of each release (None: no such release), and which release is to be checked."""

    main: str | None
    candidate: str | None = None
    check: Literal["main", "candidate"] | None = None


def wanted(state: State) -> Wanted:
    """The objects of a state. The serving release has the old revision until the new one has passed."""
    match state.phase:
        case "Idle" | "RollingBack":
            return Wanted(state.stable)
        case "Candidate":
            return Wanted(state.stable, state.target)
        case "Checking":
            return Wanted(state.stable, state.target, "candidate")
        case "Confirming":
            return Wanted(state.target, None, "main")
        case "Installing" | "Promoting" | "Failed":
            return Wanted(state.target)


def step(policy: Policy, state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    """The next state, or the same one; and what ended with it."""
    match state.phase:
        case "Idle":
            return _idle(policy, state, seen, now)
        case "Installing" | "Failed":
            return _install(policy, state, seen, now)
        case "Candidate" | "Checking":
            return _try(policy, state, seen, now)
        case "Promoting":
            return _promote(policy, state, seen, now)
        case "Confirming":
            return _confirm(state, seen, now)
        case "RollingBack":
            return _back(state, seen, now)


def _idle(policy: Policy, state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    if seen.target is None:
        return state, None
    if state.stable is None:
        return _to(state, "Installing", seen.target, now), None
    if seen.target == state.stable:
        # Whoever goes back to what serves gives what failed another chance.
        return (replace(state, rejected=()) if state.rejected else state), None
    if seen.same_pods:
        return replace(state, stable=seen.target), None
    if state.refuses(seen.target, seen.retry) or policy.pause:
        return state, None
    return _to(state, "Candidate" if policy.strategy == "Candidate" and policy.smoke else "Promoting", seen.target, now), None


def _install(policy: Policy, state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    """The first revision: there is nothing to go back to, so it is waited for, and what is wrong is said."""
    if seen.target is not None and seen.target != state.target:
        return _to(state, "Installing", seen.target, now), None
    if state.phase == "Failed":
        again = state.target is not None and state.refuses(state.target, seen.retry) is None
        return (_to(state, "Installing", state.target, now) if again else state), None
    if not seen.main.done(state.target) or (policy.smoke and seen.main.empty):
        return state, None
    return (_to(state, "Confirming", state.target, now), None) if policy.smoke else _arrived(state, now)


def _try(policy: Policy, state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    assert state.target
    if seen.target is not None and seen.target != state.target:
        over = Outcome("Superseded", state.target)
        if seen.target == state.stable or seen.same_pods or state.refuses(seen.target, seen.retry):
            return _to(state, "Idle", None, now), over
        return _to(state, "Candidate", seen.target, now), over
    if failure := seen.candidate.broken(state.target):
        return _rejected(_to(state, "Idle", None, now), state.target, failure, seen)
    if state.phase == "Candidate":
        return (_to(state, "Checking", state.target, now) if seen.candidate.done(state.target) else state), None
    if seen.verdict is None:
        return state, None
    if seen.verdict != PASSED:
        return _rejected(_to(state, "Idle", None, now), state.target, seen.verdict, seen)
    return (state if policy.pause else _to(state, "Promoting", state.target, now)), None


def _promote(policy: Policy, state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    """A third revision waits until this one has come in or gone back."""
    assert state.target
    if seen.target == state.stable and seen.target is not None:
        return _to(state, "RollingBack", state.target, now), None
    if failure := seen.main.broken(state.target):
        return replace(_to(state, "RollingBack", state.target, now), failure=failure), None
    if not seen.main.done(state.target):
        return state, None
    if policy.strategy == "InPlace" and policy.smoke:
        return (state if seen.main.empty else _to(state, "Confirming", state.target, now)), None
    return _arrived(state, now)


def _confirm(state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    """Asked after it came in: the first revision, and every one that came in place."""
    assert state.target
    if seen.target is not None and seen.target != state.target:
        if seen.target == state.stable:
            return _to(state, "RollingBack", state.target, now), None
        return _to(state, "Promoting" if state.stable else "Installing", seen.target, now), Outcome("Superseded", state.target)
    if seen.main.empty:  # nobody is there to be asked any more: it waits for pods, and is asked anew
        return _to(state, "Promoting" if state.stable else "Installing", state.target, now), None
    if seen.verdict is None:
        return state, None
    if seen.verdict == PASSED:
        return _arrived(state, now)
    if state.stable is None:
        return _rejected(_to(state, "Failed", state.target, now), state.target, seen.verdict, seen)
    return replace(_to(state, "RollingBack", state.target, now), failure=seen.verdict), None


def _back(state: State, seen: Seen, now: float) -> tuple[State, Outcome | None]:
    assert state.target
    if not seen.main.done(state.stable):
        return state, None
    calm = _to(state, "Idle", None, now)
    return _rejected(calm, state.target, state.failure, seen) if state.failure else (calm, Outcome("Superseded", state.target))


def _to(state: State, phase: Phase, target: str | None, now: float) -> State:
    return replace(state, phase=phase, target=target, since=now, failure=None)


def _arrived(state: State, now: float) -> tuple[State, Outcome | None]:
    assert state.target
    return replace(_to(state, "Idle", None, now), stable=state.target, rejected=()), Outcome("Promoted", state.target)


def _rejected(state: State, revision: str, failure: Failure, seen: Seen) -> tuple[State, Outcome | None]:
    entry = Rejected(revision, failure.reason, failure.message, seen.retry, seen.version)
    others = tuple(r for r in state.rejected if r.revision != revision)
    return replace(state, rejected=(entry, *others)[:KEPT]), Outcome("RolledBack", revision, failure)
