"""MLServer uses names that newer Starlettes deprecate: it is imported once, here, where that is no failure."""

import logging
import os
import warnings
from collections.abc import Iterator

import pytest

from pilothouse.server.logs import Json
from support import planted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlserver  # noqa: F401  # the import is the point


@pytest.fixture(scope="session", autouse=True)
def _logged() -> Iterator[None]:
    """In a whole run, all that these servers log is searched at its end for the secret that was planted into them."""
    if not (place := os.environ.get(planted.PLACE)):
        yield
        return
    handler = logging.FileHandler(f"{place}/in-process-{os.getpid()}.log")
    handler.setFormatter(Json())
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    handler.close()
