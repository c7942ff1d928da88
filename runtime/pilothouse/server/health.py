"""Liveness and readiness, each with its reason.

Live: the event loop answers (this code runs), no engine has failed for good or stood still with work to do. Ready: every model is loaded and warm, its
engine is alive on the promised device, and the server is not on its way out. No model at all is not ready.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

LOOK_SECONDS = 0.5  # how often watchers look for what sends no event: an engine's death


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "draining"  # lame duck: not ready, and still answering
    CLOSED = "stopped"  # no new requests


class Model(Protocol):
    """The part of `mlserver.MLModel` that health reads; `stats` and `describe` are ours and may be missing on a foreign one."""

    @property
    def name(self) -> str: ...
    @property
    def ready(self) -> bool: ...


@dataclass(slots=True)
class _Progress:
    """The last step count seen of an engine, and since when it has been busy without another."""

    steps: int
    stuck_since: float | None = None


class Health:
    """The one place that knows the server's state; REST, gRPC and the kubelet read it through the same two answers."""

    def __init__(self, models: Callable[[], Iterable[Model]], *, stall_seconds: float, device: str = "auto") -> None:
        self._models = models
        self._stall_seconds = stall_seconds
        self._device = device
        self._progress: dict[str, _Progress] = {}
        self._phase = Phase.STARTING
        self._changed = asyncio.Event()

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def leaving(self) -> bool:
        """Whether the server is on its way out: clients should not keep their connections."""
        return self._phase in (Phase.LEAVING, Phase.CLOSED)

    def stalled(self, now: float | None = None) -> str | None:
        """Why the process is not live, None if it is."""
        for model in self._models():
            stats = _ask(model, "stats")
            if stats is not None and stats.broken:
                return f"the engine of {model.name} failed and could not be built again"
        return next(
            (f"the engine of {model.name} has made no progress for {seconds:.0f} s with work to do" for model, seconds in self.stuck(now)),
            None,
        )

    def stuck(self, now: float | None = None) -> Iterator[tuple[Model, float]]:
        """The models whose engines have stood still for too long with work to do, each with the seconds of it."""
        now = time.monotonic() if now is None else now
        for model in self._models():
            stats = _ask(model, "stats")
            if stats is None:
                continue
            seen = self._progress.setdefault(model.name, _Progress(stats.steps))
            if stats.idle or stats.steps != seen.steps:
                seen.steps, seen.stuck_since = stats.steps, None
            elif seen.stuck_since is None:
                seen.stuck_since = now
            elif now - seen.stuck_since >= self._stall_seconds:
                yield model, now - seen.stuck_since

    def unready(self) -> str | None:
        """Why the server takes no traffic, None if it does."""
        if self.leaving:
            return f"the server is {self._phase.value}"
        models = list(self._models())
        if not models:
            return "no model is loaded" if self._phase is Phase.SERVING else "the model is loading"
        return next((reason for model in models if (reason := self.unfit(model))), None)

    def unfit(self, model: Model) -> str | None:
        """Why `model` can't answer, None if it can; the server's own phase is left out, so that a lame duck still answers."""
        if not model.ready:
            return f"model {model.name} is loading"
        stats = _ask(model, "stats")
        if stats is not None and not stats.alive:
            return f"the engine of model {model.name} is not alive"
        if self._device != "auto":
            found = (_ask(model, "describe") or {}).get("device")
            if found is not None and not str(found).startswith(self._device):
                return f"model {model.name} runs on {found} and not on {self._device} as promised (setting device)"
        return None

    async def watch(self) -> AsyncIterator[str | None]:
        """`unready()` now, and again whenever it changes; ends when the server has closed."""
        last: Any = object()
        while True:
            reason, closed, changed = self.unready(), self._phase is Phase.CLOSED, self._changed
            if reason != last:
                yield reason
                last = reason
            if closed:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()

    async def closed(self) -> None:
        """Returns when no new requests are taken."""
        while self._phase is not Phase.CLOSED:
            await self._changed.wait()


def _ask(model: Model, name: str) -> Any:
    """What `model.<name>()` says, None where the model has no such method or is not loaded yet."""
    ask = getattr(model, name, None)
    return ask() if ask is not None and model.ready else None
