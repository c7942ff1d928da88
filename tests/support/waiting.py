"""Waiting for what another process does, with a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 120.0


def waited(find: Callable[[], T | None], otherwise: str) -> T:
    """What `find` finds at last; `otherwise` says what was missing when patience is over."""
    until = time.monotonic() + PATIENCE
    while (found := find()) is None:
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)
    return found
