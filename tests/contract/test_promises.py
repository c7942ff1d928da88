"""The core of the contract, the same checks that `pilothouse smoke` and the chart's `helm test` run."""

import pytest

from pilothouse.smoke import checks


@pytest.mark.parametrize("check", [*checks.CHECKS, checks.grpc_answers], ids=lambda check: check.__name__)
def test_promise_holds(check: object, target: checks.Target) -> None:
    """Each check's own docstring is its rule."""
    check(target)  # type: ignore[operator]  # a check raises where its promise does not hold
