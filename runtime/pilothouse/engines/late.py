"""Whose time is over: waiting has a bound, and so has an answer."""

from collections.abc import Collection

from pilothouse.engines.entry import Entry
from pilothouse.engines.plan import Ending, Limits
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import DeadlineExceeded, Overloaded


def late(waiting: Waiting, running: Collection[Entry], limits: Limits, now: float) -> list[tuple[Entry, Ending]]:
    """Those whose time is over at `now` (monotonic seconds), each with what its client hears."""
    over: list[tuple[Entry, Ending]] = [(entry, _too_long()) for entry in running if now - entry.arrived > limits.request_seconds]
    if not len(waiting):
        return over
    resumed = [entry for entry in waiting if entry.begun and now - entry.arrived > limits.request_seconds]
    queued = [entry for entry in waiting if not entry.begun and now - entry.arrived > limits.queue_seconds]
    over += [(entry, _too_long()) for entry in resumed]
    return over + [(entry, _queued_too_long(limits.queue_seconds)) for entry in queued]


def _too_long() -> DeadlineExceeded:
    return DeadlineExceeded("the answer took longer than the server allows; ask for fewer tokens with max_tokens")


def _queued_too_long(seconds: float) -> Overloaded:
    return Overloaded(f"no row became free within {seconds:g} s; try again later", retry_after=max(1.0, seconds / 4))
