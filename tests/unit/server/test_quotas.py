"""What a key may use: at once, in requests and in tokens a minute, by a clock that the test turns."""

from contextlib import ExitStack

import pytest

from pilothouse.calls import Call
from pilothouse.errors import Overloaded
from pilothouse.server.quotas import Allowance, Quotas


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(quotas: Quotas, tenant: str = "a") -> tuple[str, float] | None:
    """What the next request of `tenant` is told, and in how many seconds it may come again; None where it is let in."""
    try:
        with quotas.taken(Call(tenant=tenant)):
            return None
    except Overloaded as error:
        return (error.message, error.retry_after) if error.code == "rate_limit_exceeded" else (str(error.code), 0.0)


def test_requests_at_once_are_counted_until_they_end() -> None:
    """The third of two is refused; one that ended, well or not, makes room."""
    quotas = Quotas(lambda _: Allowance(at_once=2), Clock())
    with ExitStack() as running:
        first = running.enter_context(ExitStack())
        first.enter_context(quotas.taken(Call(tenant="a")))
        running.enter_context(quotas.taken(Call(tenant="a")))
        assert refused(quotas) == ("this API key may have 2 requests at once; wait for one to end", 1.0)
        assert refused(quotas, "b") is None
        first.close()
        assert refused(quotas) is None
    with pytest.raises(ValueError, match="broken"), quotas.taken(Call(tenant="a")):
        raise ValueError("broken")
    with quotas.taken(Call(tenant="a")):
        assert refused(quotas) is None


def test_a_minute_s_requests_may_come_at_once_and_come_back_evenly() -> None:
    """Two a minute: two now, the third in 30 s; a refusal costs nothing, and nothing is saved beyond a minute's worth."""
    clock = Clock()
    quotas = Quotas(lambda _: Allowance(requests_per_minute=2), clock)
    assert (refused(quotas), refused(quotas)) == (None, None)
    for _ in range(3):
        assert refused(quotas) == ("this API key may use 2 requests a minute; ask again in 30 s", 30.0)
    clock.now += 29.0
    assert refused(quotas) == ("this API key may use 2 requests a minute; ask again in 1 s", pytest.approx(1.0))
    clock.now += 1.0
    assert refused(quotas) is None
    clock.now += 3600
    assert [refused(quotas) is None for _ in range(3)] == [True, True, False]


def test_tokens_are_charged_when_an_answer_ends() -> None:
    """An answer that goes over is finished; the next waits until what is owed has come back."""
    clock = Clock()
    quotas = Quotas(lambda _: Allowance(tokens_per_minute=60), clock)
    call = Call(tenant="a", prompt_tokens=1000)  # of an earlier request on the same stream
    with quotas.taken(call):
        call.prompt_tokens += 50
        call.completion_tokens += 40
    assert refused(quotas) == ("this API key may use 60 tokens a minute; ask again in 31 s", 31.0)
    clock.now += 31
    assert refused(quotas) is None


def test_limits_are_those_of_the_moment() -> None:
    """A changed file counts for the next request; a name without limits is never counted."""
    limits = {"a": Allowance(at_once=1)}
    quotas = Quotas(lambda name: limits.get(name, Allowance()), Clock())
    with quotas.taken(Call(tenant="a")):
        assert refused(quotas) is not None
        limits["a"] = Allowance(at_once=2)
        assert refused(quotas) is None
        limits.clear()
        assert refused(quotas) is None
