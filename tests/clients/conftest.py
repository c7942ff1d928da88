"""One server of the pocket model for all foreign clients, shared by the session."""

from collections.abc import Iterator

import pytest

from support.server import Served, served


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """A running server of ours on free loopback ports."""
    with served() as running:
        yield running
