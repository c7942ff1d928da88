"""What the runtime sees of an engine: jobs go in, streams of chunks come out. The thread behind it is the worker's."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from pilothouse.engines.base import Capabilities, Guidance, Job, Stats, StepEngine, TokenEngine, Vocabulary
from pilothouse.engines.door import Door
from pilothouse.engines.entry import Entry
from pilothouse.engines.mailbox import Mailbox, Stream
from pilothouse.engines.worker import GivenUp, Hooks, Left, Request, Worker
from pilothouse.engines.writer import Writer
from pilothouse.errors import ContextLengthExceeded, InvalidRequest
from pilothouse.messages import Guide

JOIN_SECONDS = 10.0  # how long `stop` waits for the step that runs


class Loop:
    """An `Engine` made of a `StepEngine` or a `TokenEngine`. Methods may be called from any thread, `generate` from one with an
    event loop that runs.

    The callbacks are called on the engine's thread (`on_failure` also on a caller's) and must be quick: `on_queue` hears for how many seconds
    a job waited, `on_cancel` that a client left before its answer was complete, `on_failure` what the engine raised.
    """

    def __init__(
        self,
        make: Callable[[], StepEngine | TokenEngine],
        vocabulary: Vocabulary,
        *,
        guidance: Callable[[], Guidance] | None = None,
        queue: int = 64,
        queue_tokens: int = 0,
        queue_seconds: float = 60.0,
        request_seconds: float = 600.0,
        speculation: bool = True,
        on_queue: Callable[[float], None] = lambda seconds: None,
        on_cancel: Callable[[], None] = lambda: None,
        on_failure: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` builds the engine, on its thread; again after a failure. `guidance` is built there too, once."""
        self._vocabulary = vocabulary
        self._clock = clock
        self._on_failure = on_failure
        self._door = Door(queue, queue_tokens)
        self._worker = Worker(
            make, vocabulary, guidance, self._door, Hooks(on_queue, on_cancel, on_failure), clock,
            queue_seconds=queue_seconds, request_seconds=request_seconds, speculation=speculation,
        )  # fmt: skip
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        worker = self._worker
        return f"<Loop {self.name} on {self.device}: {'open' if self._door.is_open else 'shut'}, {worker.steps} steps, {worker.rows!r}>"

    @property
    def name(self) -> str:
        return self._worker.name

    @property
    def device(self) -> str:
        return self._worker.device

    @property
    def capabilities(self) -> Capabilities:
        return self._worker.capabilities

    @property
    def context(self) -> int:
        return self._worker.context

    @property
    def progressed(self) -> float:
        """Monotonic seconds of the last step or the last sign of idleness; stands still in a hung step."""
        return self._worker.progressed

    def start(self) -> None:
        """Start the thread; returns when the engine has answered, raises what loading or answering raised."""
        ready: Future[None] = Future()
        # A hung step can't keep the process.
        self._thread = threading.Thread(target=self._worker.run, args=(ready,), name="engine", daemon=True)
        self._thread.start()
        ready.result()

    def generate(self, job: Job) -> Stream:
        """Queue `job`. Refusals are raised by this call, with nothing queued: `Overloaded`, `NotReady`, `InvalidRequest`."""
        self.reserve(1, job.tenant, len(job.prompt))
        self._check(job)
        writer, put = Writer(job, self._vocabulary), self._worker.inbox.put
        request = Request(Entry(job, self._clock()), writer, Mailbox(asyncio.get_running_loop(), writer.write))
        self._door.enter(request.entry, self._worker.rows, partial(put, request))
        return Stream(request.mailbox, partial(put, Left(request)))

    def prepare(self, guide: Guide) -> None:
        """Compile `guide` ahead, on the caller's thread; the compiled one is kept for the row that will ask for it."""
        if self._worker.guidance is not None:
            self._worker.guidance.compile(guide)

    def reserve(self, jobs: int, tenant: str = "", tokens: int = 0, *, ahead: int = 0) -> None:
        """Raise `Overloaded` unless `jobs` more, with `tokens` of prompt in all, could be queued now for `tenant`, behind `ahead` others.

        Nothing is held: queue them before the event loop turns.
        """
        self._door.check(jobs, self._worker.rows, tenant, tokens, ahead)

    def give_up(self) -> None:
        """A step hangs: whoever runs ends with `EngineFailed`, whoever waits with `NotReady`, and nobody is let in.

        Should the step come back after all, the engine is made anew.
        """
        if self._door.is_open:
            self._worker.given_up = True
            self._door.shut()
            self._on_failure(TimeoutError("a step hangs"))
            self._worker.end_all()
            self._worker.inbox.put(GivenUp())

    def stop(self) -> None:
        """End the thread; jobs that run or wait end with `NotReady`, at once. A step that hangs is left behind after 10 s."""
        self._door.shut(stopping=True)
        if self._thread is None:
            return
        self._worker.end_all()
        self._thread.join(JOIN_SECONDS)

    def stats(self) -> Stats:
        worker, inside = self._worker, self._door.inside
        rows = worker.rows
        running = len(rows.running) if rows else 0
        return Stats(
            waiting=max(0, inside - running),
            running=running,
            rows=rows.limits.rows if rows else 0,
            kv_used=worker.kv_used,
            alive=self._door.is_open,
            broken=worker.broken,
            steps=worker.steps,
            idle=not inside and not worker.given_up,
        )

    def describe(self) -> dict[str, Any]:
        return dict(self._worker.facts)

    def _check(self, job: Job) -> None:
        if not job.prompt:
            raise InvalidRequest("prompt is empty; send at least one token", field="prompt")
        if job.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
        if len(job.prompt) >= self.context:
            raise ContextLengthExceeded(
                f"prompt: {len(job.prompt)} tokens leave no room for an answer in a context of {self.context}; shorten it", field="prompt"
            )
