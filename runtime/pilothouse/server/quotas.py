"""What one API key may use: requests at once, requests a minute, tokens a minute. Over it, 429 with the seconds until it is worth a try.

The limits stand beside the key in its file and belong to its name, so that two keys of one name share them. A minute's worth may be used at
once and comes back evenly. Tokens are known only when an answer ends: one that goes over is finished, and the next ones wait for it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pilothouse.calls import Call
from pilothouse.errors import Overloaded

CODE = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Allowance:
    """A name's limits; 0 is none."""

    at_once: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(slots=True)
class _Bucket:
    """A minute's worth, `left` of it at monotonic second `at`; below zero it is owed."""

    left: float
    at: float

    def fill(self, per_minute: int, now: float) -> None:
        self.left, self.at = min(per_minute, self.left + (now - self.at) * per_minute / 60), now


@dataclass(slots=True)
class _Used:
    running: int = 0
    buckets: dict[str, _Bucket] = field(default_factory=dict)

    def bucket(self, kind: str, per_minute: int, now: float) -> _Bucket:
        found = self.buckets.setdefault(kind, _Bucket(per_minute, now))
        found.fill(per_minute, now)
        return found


class Quotas:
    """Counts what each name uses. `allowance` answers a name's limits, as they are now."""

    def __init__(self, allowance: Callable[[str], Allowance], clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = allowance
        self._clock = clock
        self._used: dict[str, _Used] = {}

    @contextmanager
    def taken(self, call: Call) -> Iterator[None]:
        """One request of `call.tenant`, from here to the end of its answer. Raises `Overloaded` before anything is done for it."""
        allowed = self._allowance(call.tenant)
        if allowed == Allowance():
            yield
            return
        used = self._used.setdefault(call.tenant, _Used())
        self._demand(allowed, used)
        before = call.prompt_tokens + call.completion_tokens
        used.running += 1
        try:
            yield
        finally:
            used.running -= 1
            if allowed.tokens_per_minute:
                tokens = call.prompt_tokens + call.completion_tokens - before
                used.bucket("tokens", allowed.tokens_per_minute, self._clock()).left -= tokens

    def _demand(self, allowed: Allowance, used: _Used) -> None:
        now = self._clock()
        if allowed.at_once and used.running >= allowed.at_once:
            raise Overloaded(f"this API key may have {allowed.at_once} requests at once; wait for one to end", code=CODE)
        if per_minute := allowed.tokens_per_minute:
            owed = 1 - used.bucket("tokens", per_minute, now).left
            if owed > 0:
                raise _later(f"{per_minute} tokens", owed * 60 / per_minute)
        if per_minute := allowed.requests_per_minute:
            bucket = used.bucket("requests", per_minute, now)
            if bucket.left < 1:
                raise _later(f"{per_minute} requests", (1 - bucket.left) * 60 / per_minute)
            bucket.left -= 1


def _later(what: str, seconds: float) -> Overloaded:
    return Overloaded(f"this API key may use {what} a minute; ask again in {max(1, round(seconds))} s", retry_after=seconds, code=CODE)
