"""The status holds the whole state, and says in words what people ask."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.operator.rollout import Failure, Rejected, State
from pilothouse.operator.spec import read
from pilothouse.operator.status import Facts, compose, conditions, differs, resolved_of, stamped, state_of
from pilothouse.operator.values import Pinned, Revision

OLD, NEW = Revision("phi3-1", {}, "f1", "1", "sha256:1"), Revision("phi3-2", {}, "f2", "2", "sha256:2")
WORDS = st.text("abc", min_size=1, max_size=5)


def model(status: dict[str, Any] | None = None, **rollout: Any) -> Any:
    source = {"registry": {"uri": "models:/phi3@champion", "trackingUri": "http://mlflow"}}
    metadata = {"namespace": "models", "name": "phi3", "uid": "1", "generation": 4}
    return read({"metadata": metadata, "spec": {"source": source, "rollout": rollout}, "status": status or {}})


@given(
    st.builds(
        State, st.sampled_from(["Candidate", "Checking", "Promoting", "Confirming", "RollingBack"]), st.just(OLD.name), st.just(NEW.name),
        st.integers(1, 2_000_000_000).map(float),
        st.lists(st.builds(Rejected, WORDS, WORDS, WORDS, WORDS, WORDS), max_size=3).map(tuple),
        st.none() | st.builds(Failure, WORDS, WORDS, st.just(True)),
    )
)  # fmt: skip
def test_state_survives_the_status(state: State) -> None:
    """Whoever reads it goes on from the very same state."""
    made = compose(model(), state, Facts(stable=OLD, target=NEW), None, (), 5.0)

    assert state_of(made) == state


def test_empty_status_is_the_first_state() -> None:
    """Nothing serves, nothing comes in."""
    assert state_of({}) == State()


def test_what_the_registry_said_is_kept_for_the_same_address() -> None:
    """For another alias it is worth nothing."""
    made = compose(model(), State(), Facts(), Pinned("models:/phi3/7", "7", "sha256:7"), (), 5.0)

    assert resolved_of(made, "models:/phi3@champion") == Pinned("models:/phi3/7", "7", "sha256:7")
    assert resolved_of(made, "models:/phi3@challenger") is None


def test_serving_version_is_shown_not_the_one_that_comes() -> None:
    """Until it has come in."""
    made = compose(
        model(), State("Candidate", OLD.name, NEW.name, 1.0), Facts(available=2, wanted=2, stable=OLD, target=NEW), None, (), 5.0
    )

    assert (made["version"], made["digest"], made["rollout"]["version"]) == ("1", "sha256:1", "2")


def test_condition_keeps_the_time_of_its_last_change() -> None:
    """A new message is no change of status."""
    first = conditions(model(), State(stable=OLD.name), Facts(available=1), 10.0)
    later = conditions(model({"conditions": first}), State(stable=OLD.name), Facts(available=2, wanted=2), 99.0)

    assert [c["lastTransitionTime"] for c in later] == [stamped(10.0)] * 3
    assert later[0]["message"] == "2 of 2 pods answer"


@pytest.mark.parametrize(
    ("state", "facts", "pause", "expected"),
    [
        (State(), Facts(), False, {"Ready": ("False", "Starting"), "Progressing": ("False", "UpToDate"), "Degraded": ("False", "AsExpected")}),
        (State(stable="a"), Facts(available=1), False, {"Ready": ("True", "Serving"), "Progressing": ("False", "UpToDate")}),
        (State(stable="a"), Facts(wanted=0), False, {"Ready": ("False", "ScaledToZero")}),
        (State("Confirming", None, "a", 1.0), Facts(available=1), False, {"Ready": ("False", "NotChecked"), "Progressing": ("True", "Confirming")}),
        (State("Checking", "a", "b", 1.0), Facts(available=1), True, {"Ready": ("True", "Serving"), "Progressing": ("True", "Paused")}),
        (
            State(stable="a", rejected=(Rejected("b", "WontLoad", "no", version="2"),)), Facts(available=1), False,
            {"Ready": ("True", "Serving"), "Progressing": ("False", "RolledBack"), "Degraded": ("True", "WontLoad")},
        ),
        (
            State(stable="a"), Facts(available=1, problems=[Failure("RegistryUnavailable", "gone")]), False,
            {"Ready": ("True", "Serving"), "Degraded": ("True", "RegistryUnavailable")},
        ),
    ],
)  # fmt: skip
def test_conditions_say_what_is(state: State, facts: Facts, pause: bool, expected: dict[str, tuple[str, str]]) -> None:
    """Ready is about users, Progressing about the rollout, Degraded about what somebody should look at."""
    found = {c["type"]: (c["status"], c["reason"]) for c in conditions(model(pause=pause), state, facts, 1.0)}

    assert {kind: found[kind] for kind in expected} == expected


def test_what_no_longer_holds_is_taken_away() -> None:
    """A merge patch removes what is None; what is the same is not written again."""
    made = compose(model(), State(), Facts(), None, (), 5.0)

    assert made["stable"] is None
    assert not differs(made, {name: value for name, value in made.items() if value is not None})
    assert differs(made, {})
