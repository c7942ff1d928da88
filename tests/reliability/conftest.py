"""The servers under load: one process of each kind, shared by the session."""

import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():  # MLServer uses names that newer Starlettes deprecate
    warnings.simplefilter("ignore")
    import mlserver  # noqa: F401  # the import is the point

from reliability.clients import Clients
from support.server import Served, served

FULL = os.environ.get("PILOTHOUSE_TEST_DEPTH") == "full"


@pytest.fixture(scope="session")
def quick() -> Iterator[Served]:
    """Answers at once, many at a time, at most sixteen tokens each unless asked for fewer."""
    with served(scripted=True, rows=64, queue=2000, queue_tokens=0, max_tokens=16, upload_seconds=3) as server:
        yield server


@pytest.fixture(scope="session")
def hold() -> Iterator[Path]:
    """While this file is there, a prompt that says so hangs."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "hold"


@pytest.fixture(scope="session")
def slow(hold: Path) -> Iterator[Served]:
    """Eight answers at a time, a token each hundredth of a second; it breaks and hangs by command, and takes a second to be made again."""
    variables = {"SCRIPTED_STEP_SECONDS": "0.01", "SCRIPTED_LOAD_SECONDS": "1", "SCRIPTED_HOLD": str(hold)}
    with served(scripted=True, environment=variables, rows=8, queue=256, queue_tokens=0, stall_seconds=1.5, drain_seconds=2) as server:
        yield server


@pytest.fixture
async def asks(quick: Served) -> AsyncIterator[Clients]:
    """Clients of `quick`."""
    async with Clients(quick.rest, quick.grpc, quick.model) as clients:
        yield clients


@pytest.fixture
async def asks_slow(slow: Served) -> AsyncIterator[Clients]:
    """Clients of `slow`."""
    async with Clients(slow.rest, slow.grpc, slow.model) as clients:
        yield clients
