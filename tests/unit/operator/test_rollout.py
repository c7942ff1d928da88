"""The rollout's state machine: what comes in has passed, what fails goes back, and every state can be gone on from."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.operator.rollout import PASSED, Failure, Health, Outcome, Rejected, Seen, State, Wanted, step, wanted
from pilothouse.operator.spec import Policy

CANDIDATE, IN_PLACE, NO_SMOKE, PAUSED = Policy(), Policy(strategy="InPlace"), Policy(smoke=False), Policy(pause=True)
WRONG = Failure("WrongAnswer", "it said Paris", final=True)
DEAD = Failure("WontLoad", "its file was changed", final=True)
SERVING = State(stable="old", since=1.0)


def up(revision: str) -> Health:
    return Health(revision, complete=True)


def broken(revision: str, failure: Failure = DEAD) -> Health:
    return Health(revision, failure=failure)


def test_first_revision_is_installed_and_then_asked() -> None:
    """There is nothing beside which a candidate could start."""
    state, outcome = step(CANDIDATE, State(), Seen("new"), 1.0)
    assert (state.phase, wanted(state), outcome) == ("Installing", Wanted("new"), None)

    state, _ = step(CANDIDATE, state, Seen("new", main=up("new")), 2.0)
    assert (state.phase, wanted(state)) == ("Confirming", Wanted("new", None, "main"))

    state, outcome = step(CANDIDATE, state, Seen("new", main=up("new"), verdict=PASSED), 3.0)
    assert (state, outcome) == (State("Idle", "new", None, 3.0), Outcome("Promoted", "new"))


def test_first_revision_that_breaks_is_waited_for() -> None:
    """What was missing may come: a Secret, a claim, a quota."""
    state = State("Installing", None, "new", 1.0)

    assert step(CANDIDATE, state, Seen("new", main=broken("new")), 9.0) == (state, None)


@pytest.mark.parametrize(("policy", "before", "waits"), [(CANDIDATE, State(), "Installing"), (IN_PLACE, SERVING, "Promoting")])
def test_nobody_is_asked_where_there_are_no_pods(policy: Policy, before: State, waits: str) -> None:
    """Scaled to nothing is complete, and neither right nor wrong: it is asked when there are pods, also where they went in the middle."""
    none = Seen("new", main=Health("new", complete=True, empty=True))
    state = replace(before, phase=waits, target="new")
    assert step(policy, state, none, 2.0) == (state, None)

    state, _ = step(policy, state, Seen("new", main=up("new")), 3.0)
    assert wanted(state).check == "main"
    state, _ = step(policy, state, replace(none, verdict=WRONG), 4.0)
    assert (state.phase, state.rejected) == (waits, ())

    assert step(NO_SMOKE, State("Installing", None, "new", 1.0), none, 5.0)[0].stable == "new"


def test_first_revision_that_answers_wrongly_stays_to_be_looked_at() -> None:
    """It never counts as good; the retry annotation asks again."""
    state, outcome = step(CANDIDATE, State("Confirming", None, "new", 1.0), Seen("new", main=up("new"), verdict=WRONG), 2.0)

    assert (state.phase, state.stable, wanted(state)) == ("Failed", None, Wanted("new"))
    assert outcome == Outcome("RolledBack", "new", WRONG)
    assert step(CANDIDATE, state, Seen("new"), 3.0) == (state, None)
    assert step(CANDIDATE, state, Seen("new", retry="again"), 3.0)[0].phase == "Installing"


def test_candidate_starts_beside_what_serves_and_comes_in_when_it_passed() -> None:
    """The serving release has the old revision until then."""
    state, _ = step(CANDIDATE, SERVING, Seen("new", main=up("old")), 2.0)
    assert wanted(state) == Wanted("old", "new")
    assert step(CANDIDATE, state, Seen("new", main=up("old")), 3.0) == (state, None)

    state, _ = step(CANDIDATE, state, Seen("new", main=up("old"), candidate=up("new")), 4.0)
    assert wanted(state) == Wanted("old", "new", "candidate")

    state, _ = step(CANDIDATE, state, Seen("new", main=up("old"), candidate=up("new"), verdict=PASSED), 5.0)
    assert wanted(state) == Wanted("new")
    assert step(CANDIDATE, state, Seen("new", main=up("old")), 6.0) == (state, None), "the old pods being well is not the new ones' arrival"

    state, outcome = step(CANDIDATE, state, Seen("new", main=up("new")), 7.0)
    assert (state, outcome) == (State("Idle", "new", None, 7.0), Outcome("Promoted", "new"))


@pytest.mark.parametrize(
    ("phase", "seen", "failure"),
    [
        ("Candidate", Seen("new", main=up("old"), candidate=broken("new")), DEAD),
        ("Checking", Seen("new", main=up("old"), candidate=broken("new")), DEAD),
        ("Checking", Seen("new", main=up("old"), candidate=up("new"), verdict=WRONG), WRONG),
    ],
)
def test_candidate_that_fails_never_touches_what_serves(phase: str, seen: Seen, failure: Failure) -> None:
    """It is taken away, remembered, and not tried again by itself."""
    state, outcome = step(CANDIDATE, replace(SERVING, phase=phase, target="new"), seen, 5.0)

    assert wanted(state) == Wanted("old")
    assert outcome == Outcome("RolledBack", "new", failure)
    assert state.rejected == (Rejected("new", failure.reason, failure.message),)
    assert step(CANDIDATE, state, Seen("new", main=up("old")), 6.0) == (state, None)
    assert step(CANDIDATE, state, Seen("newer", main=up("old")), 6.0)[0].phase == "Candidate"
    assert step(CANDIDATE, state, Seen("new", main=up("old"), retry="2"), 6.0)[0].phase == "Candidate"


def test_what_is_not_the_revisions_fault_is_waited_for() -> None:
    """A quota, a registry that is down, no room: it goes on when that is over."""
    state = replace(SERVING, phase="Candidate", target="new")
    blocked = broken("new", Failure("QuotaExceeded", "exceeded quota: small"))

    assert step(CANDIDATE, state, Seen("new", main=up("old"), candidate=blocked), 999.0) == (state, None)


def test_an_old_candidates_trouble_is_not_the_new_ones() -> None:
    """The Deployment still shows the one before."""
    state = replace(SERVING, phase="Candidate", target="newer")

    assert step(CANDIDATE, state, Seen("newer", main=up("old"), candidate=broken("new")), 5.0) == (state, None)


def test_promotion_that_breaks_goes_back() -> None:
    """The old pods come back, and only then is it over."""
    state, outcome = step(CANDIDATE, replace(SERVING, phase="Promoting", target="new"), Seen("new", main=broken("new")), 5.0)
    assert (state.phase, wanted(state), outcome) == ("RollingBack", Wanted("old"), None)
    assert step(CANDIDATE, state, Seen("new", main=broken("new")), 6.0) == (state, None)

    state, outcome = step(CANDIDATE, state, Seen("new", main=up("old")), 7.0)
    assert (state.phase, state.stable, outcome) == ("Idle", "old", Outcome("RolledBack", "new", DEAD))


def test_alias_that_moves_back_ends_the_rollout() -> None:
    """At any point: nothing is held against what was on its way."""
    for phase, after in (("Candidate", "Idle"), ("Checking", "Idle"), ("Promoting", "RollingBack"), ("Confirming", "RollingBack")):
        state, _ = step(CANDIDATE, replace(SERVING, phase=phase, target="new"), Seen("old", main=up("old")), 5.0)
        assert (state.phase, wanted(state), state.rejected) == (after, Wanted("old"), ())


def test_alias_that_moves_on_replaces_the_candidate() -> None:
    """The newest target is the one that is tried."""
    state, outcome = step(CANDIDATE, replace(SERVING, phase="Checking", target="new"), Seen("newer", verdict=PASSED), 5.0)

    assert (wanted(state), outcome) == (Wanted("old", "newer"), Outcome("Superseded", "new"))


def test_going_back_to_what_serves_forgives() -> None:
    """An alias that was set to a bad version, back, and to it again: it is tried again."""
    state = replace(SERVING, rejected=(Rejected("new", "WontLoad", "..."),))

    assert step(CANDIDATE, state, Seen("old"), 5.0)[0].rejected == ()


def test_same_pods_are_no_rollout() -> None:
    """Values that change no pod (a network policy, labels of the Service) take effect at once."""
    assert step(CANDIDATE, SERVING, Seen("new", same_pods=True), 5.0) == (replace(SERVING, stable="new"), None)


def test_pause_begins_nothing_and_lets_nothing_in() -> None:
    """What is under way waits before it reaches users."""
    assert step(PAUSED, SERVING, Seen("new"), 5.0) == (SERVING, None)
    checking = replace(SERVING, phase="Checking", target="new")
    assert step(PAUSED, checking, Seen("new", candidate=up("new"), verdict=PASSED), 5.0) == (checking, None)


@pytest.mark.parametrize(("policy", "after"), [(IN_PLACE, "Confirming"), (NO_SMOKE, "Idle")])
def test_in_place_asks_afterwards(policy: Policy, after: str) -> None:
    """Without room for a candidate pods are replaced first; without smoke nothing is asked."""
    state, _ = step(policy, SERVING, Seen("new", main=up("old")), 2.0)
    assert wanted(state) == Wanted("new")

    state, _ = step(policy, state, Seen("new", main=up("new")), 3.0)
    assert state.phase == after
    if after == "Confirming":
        state, _ = step(policy, state, Seen("new", main=up("new"), verdict=WRONG), 4.0)
        assert wanted(state) == Wanted("old")


def test_unknown_target_changes_nothing_that_serves() -> None:
    """A registry that is down: what is under way goes on, nothing new begins."""
    assert step(CANDIDATE, SERVING, Seen(None), 5.0) == (SERVING, None)
    checking = replace(SERVING, phase="Checking", target="new")
    assert step(CANDIDATE, checking, Seen(None, candidate=up("new"), verdict=PASSED), 5.0)[0].phase == "Promoting"


REVISIONS = st.sampled_from(["a", "b", "c"])
HEALTHS = st.builds(Health, st.none() | REVISIONS, st.booleans(), st.none() | st.sampled_from([DEAD, Failure("Unschedulable", "no node")]))
SEEN = st.builds(Seen, st.none() | REVISIONS, st.booleans(), HEALTHS, HEALTHS, st.none() | st.sampled_from([PASSED, WRONG]))


@settings(max_examples=400, deadline=None)
@given(st.lists(SEEN, max_size=30), st.sampled_from([CANDIDATE, IN_PLACE, NO_SMOKE, PAUSED]))
def test_whatever_happens_only_what_passed_becomes_stable(worlds: list[Seen], policy: Policy) -> None:
    """From any state, in any world: stable changes only by a promotion or to the same pods, and what serves is stable or on its way."""
    state = State()
    for now, seen in enumerate(worlds, 1):
        after, outcome = step(policy, state, seen, float(now))
        if after.stable != state.stable:
            same = state.phase == "Idle" and seen.same_pods
            assert same or outcome == Outcome("Promoted", after.stable or "")
            if policy.smoke and not same:
                assert state.phase == "Promoting" or seen.verdict == PASSED
        assert (after.target is None) == (after.phase == "Idle")
        assert wanted(after).main in (after.stable, after.target)
        if after.phase in ("Candidate", "Checking"):
            assert wanted(after).main == after.stable is not None
        state = after


def test_steps_settle() -> None:
    """In a world that stays as it is, no state goes round in a circle."""
    for policy in (CANDIDATE, IN_PLACE, NO_SMOKE, PAUSED):
        for verdict in (None, PASSED, WRONG):
            state, seen = SERVING, Seen("new", main=up("new"), candidate=up("new"), verdict=verdict)
            phases = []
            for now in range(12):
                state, _ = step(policy, state, seen, float(now))
                phases.append(state.phase)
            assert len(set(phases[-3:])) == 1
