"""What every protocol test starts from."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest

with warnings.catch_warnings():
    # MLServer reads a deprecated name of Starlette's when it is imported; once imported it is silent.
    warnings.simplefilter("ignore")
    import mlserver.grpc.converters  # noqa: F401  # for its side effect, before any test

from pilothouse.errors import PilothouseError
from pilothouse.protocols.limits import Limits
from pilothouse.settings import Settings

Refusal = tuple[type[PilothouseError], str, str | None]


@pytest.fixture(scope="session")
def limits() -> Limits:
    """The default limits over a vocabulary of 1000 tokens."""
    return Limits.from_settings(Settings(), vocabulary=1000)


@pytest.fixture(scope="session")
def refusal() -> Callable[..., Refusal]:
    """Calls a function that must refuse, and returns the error's class, message and field."""

    def call(function: Callable[..., Any], *args: Any) -> Refusal:
        with pytest.raises(PilothouseError) as caught:
            function(*args)
        return type(caught.value), caught.value.message, caught.value.field

    return call
