"""The one thread that owns an engine: decide, compute and account (driver), write (writer), one step after the other.

Event loops tell it things through one queue and hear from it once per step, so neither waits for the other. With nothing to do the thread
sleeps on that queue.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from pilothouse.engines.base import Capabilities, Guidance, Job, Stats, StepEngine, TokenEngine, Vocabulary
from pilothouse.engines.door import Door
from pilothouse.engines.driver import Driver, Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.mailbox import Mailbox, Outbox, Said, Stream
from pilothouse.engines.plan import Ending, Limits, Outcome, Plan
from pilothouse.engines.relay import Relay
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.waiting import Waiting
from pilothouse.engines.writer import Writer
from pilothouse.errors import ContextLengthExceeded, EngineFailed, InvalidRequest
from pilothouse.messages import FinishReason, Guide

JOIN_SECONDS = 10.0  # how long `stop` waits for the step that runs


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """One job as the thread knows it: its place, its text, its reader."""

    entry: Entry
    writer: Writer
    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class _Left:
    """The reader of a request is gone."""

    request: _Request


class _Stop:
    """The thread is to end."""


class _GivenUp:
    """Nobody waits for the step any more that the thread comes back from."""


class Loop:
    """An `Engine` made of a `StepEngine` or a `TokenEngine`.

    The callbacks are called on the engine's thread (`on_failure` also on a caller's) and must be quick: `on_queue` hears for how many seconds
    a job waited, `on_cancel` that a client left before its answer was complete, `on_failure` what the engine raised.
    """

    name = "none"
    device = "none"
    capabilities = Capabilities()
    context = 0

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
        self._make = make
        self._vocabulary = vocabulary
        self._make_guidance = guidance
        self._guidance: Guidance | None = None
        self._seconds = (queue_seconds, request_seconds)
        self._speculation = speculation
        self._on_queue, self._on_cancel, self._on_failure = on_queue, on_cancel, on_failure
        self._clock = clock

        self._inbox: SimpleQueue[_Request | _Left | _Stop | _GivenUp] = SimpleQueue()  # its put may run in a destructor
        self._outbox = Outbox()
        self._waiting = Waiting()
        self._requests: dict[Entry, _Request] = {}
        self._driver: Driver | None = None
        self._rows: Driver | None = None  # the driver, while its engine is whole
        self._thread: threading.Thread | None = None
        self._facts: dict[str, Any] = {}

        self._door = Door(queue, queue_tokens)
        self._given_up = False  # a step hangs, and those who waited for it have been told
        self._steps = 0
        self._kv_used = 0.0
        self._broken = False
        self.progressed = clock()  # monotonic seconds of the last step or the last sign of idleness; stands still in a hung step

    def __repr__(self) -> str:
        return f"<Loop {self.name} on {self.device}: {'open' if self._door.is_open else 'shut'}, {self._steps} steps, {self._rows!r}>"

    # -- what the runtime sees, from any thread --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; returns when the engine has answered, raises what loading or answering raised."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="engine", daemon=True)  # a hung step can't keep the process
        self._thread.start()
        ready.result()

    def generate(self, job: Job) -> Stream:
        """Queue `job`. Refusals are raised by this call, with nothing queued: `Overloaded`, `NotReady`, `InvalidRequest`."""
        self.reserve(1, job.tenant, len(job.prompt))
        self._check(job)
        writer = Writer(job, self._vocabulary)
        request = _Request(Entry(job, self._clock()), writer, Mailbox(asyncio.get_running_loop(), writer.write))
        self._door.enter(request.entry, self._rows, partial(self._inbox.put, request))
        return Stream(request.mailbox, partial(self._inbox.put, _Left(request)))

    def prepare(self, guide: Guide) -> None:
        """Compile `guide` ahead, on the caller's thread; the compiled one is kept for the row that will ask for it."""
        if self._guidance is not None:
            self._guidance.compile(guide)

    def reserve(self, jobs: int, tenant: str = "", tokens: int = 0, *, ahead: int = 0) -> None:
        """Raise `Overloaded` unless `jobs` more, with `tokens` of prompt in all, could be queued now for `tenant`, behind `ahead` others.

        Nothing is held: queue them before the event loop turns.
        """
        self._door.check(jobs, self._rows, tenant, tokens, ahead)

    def give_up(self) -> None:
        """A step hangs: whoever runs ends with `EngineFailed`, whoever waits with `NotReady`, and nobody is let in.

        Should the step come back after all, the engine is made anew.
        """
        if self._door.is_open:
            self._given_up = True
            self._door.shut()
            self._on_failure(TimeoutError("a step hangs"))
            self._end_all()
            self._inbox.put(_GivenUp())

    def stop(self) -> None:
        """End the thread; jobs that run or wait end with `NotReady`, at once. A step that hangs is left behind after 10 s."""
        self._door.shut(stopping=True)
        if self._thread is None:
            return
        self._end_all()
        self._thread.join(JOIN_SECONDS)

    def stats(self) -> Stats:
        rows, inside = self._rows, self._door.inside
        running = len(rows.running) if rows else 0
        return Stats(
            waiting=max(0, inside - running),
            running=running,
            rows=rows.limits.rows if rows else 0,
            kv_used=self._kv_used,
            alive=self._door.is_open,
            broken=self._broken,
            steps=self._steps,
            idle=not inside and not self._given_up,
        )

    def describe(self) -> dict[str, Any]:
        return dict(self._facts)

    def _check(self, job: Job) -> None:
        if not job.prompt:
            raise InvalidRequest("prompt is empty; send at least one token", field="prompt")
        if job.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
        if len(job.prompt) >= self.context:
            raise ContextLengthExceeded(
                f"prompt: {len(job.prompt)} tokens leave no room for an answer in a context of {self.context}; shorten it", field="prompt"
            )

    # -- the thread ------------------------------------------------------------------------------------------------------------

    def _run(self, ready: "Future[None]") -> None:
        try:
            self._build()
        except BaseException as error:
            self._close()
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            rebuilt = False
            while not self._serve(rebuilt):
                rebuilt = True
        finally:
            self._broken = not self._door.stopping
            self._door.shut()
            self._close()
            self._end_all()

    def _build(self) -> None:
        """An engine that has answered once, and its driver."""
        if self._guidance is None and self._make_guidance is not None:
            self._guidance = self._make_guidance()
        engine = self._make()
        queue_seconds, request_seconds = self._seconds
        limits = Limits(
            rows=min(engine.rows, engine.tokens_per_step),
            context=engine.context,
            tokens_per_step=engine.tokens_per_step,
            drafts=self._speculation and engine.capabilities.rollback,
            lone_drafts=engine.capabilities.lone_drafts,
            sharing=engine.capabilities.prefix_cache,
            turn=None if isinstance(engine, TokenEngine) else engine.turn,
            stages=1 if isinstance(engine, TokenEngine) else engine.stages,
            queue_seconds=queue_seconds,
            request_seconds=request_seconds,
        )
        if isinstance(engine, TokenEngine):
            driver: Driver = Relay(engine, self._waiting, limits)
        else:
            driver = Stepping(engine, self._vocabulary.size, self._guidance, self._waiting, limits, self._on_failure)
        self._driver = driver
        driver.answer_once(self._clock())
        self.name, self.device, self.capabilities, self.context = engine.name, engine.device, engine.capabilities, engine.context
        self._facts = engine.describe()
        self._rows = driver
        self._given_up = False
        self._door.open()

    def _serve(self, rebuilt: bool) -> bool:
        """Serve with one engine. True: over; False: it broke, and another one has taken its place."""
        driver, begun = self._driver, self._steps
        assert driver is not None
        try:
            while self._listen(driver):
                self._turn(driver)
            return True
        except Exception as error:
            self._fail(driver, error)
            if self._door.stopping or (rebuilt and self._steps == begun):
                return True
        try:
            self._build()
        except Exception as error:
            self._on_failure(error)
            return True
        return False

    def _listen(self, driver: Driver) -> bool:
        """Take in what was said since the last step; sleep while there is nothing to do. False: stop."""
        while True:
            self._kv_used, self.progressed = driver.usage(), self._clock()
            try:
                said = self._inbox.get(block=not driver.running and not len(self._waiting))
            except Empty:
                return True
            if isinstance(said, _Stop):
                return False
            if isinstance(said, _GivenUp):
                if self._given_up:
                    raise TimeoutError("a step came back after it had been given up")
            elif isinstance(said, _Request):
                self._requests[said.entry] = said
                self._waiting.add(said.entry)
            elif driver.withdraw(said.request.entry):
                self._forget(said.request.entry)
                self._on_cancel()

    def _turn(self, driver: Driver) -> None:
        """One step."""
        plan = driver.plan(self._clock())
        for entry in plan.admitted:
            self._door.begin(entry)
            if (request := self._requests.get(entry)) is not None:  # else it has been given up just now
                request.writer.cached, request.writer.queued = entry.cached, self._clock() - entry.arrived
                self._on_queue(request.writer.queued)
        for entry, ending in plan.ended:
            self._end(entry, ending)
        self._outbox.flush()  # these need not wait for the step
        if plan.shares:
            self._answer(plan, driver)
            self._steps += 1
        self._outbox.flush()

    def _answer(self, plan: Plan, driver: Driver) -> None:
        """Tokens to readers: the last of a row says why it ends, unless its text does so before. First tokens go first."""
        for outcome, answer in sorted(driver.step(plan), key=_later):
            request = self._requests.get(outcome.entry)
            if request is None:
                continue  # this step was given up, and now it has come back
            writer = request.writer
            writer.cached = outcome.entry.cached
            if outcome.error is not None:
                self._end(outcome.entry, outcome.error)
            elif not writer.decides:
                self._outbox.put(request.mailbox, Said(answer[: outcome.kept], outcome.reason))
                if outcome.reason is not None:
                    self._forget(outcome.entry)
            else:
                for chunk in writer.write(answer[: outcome.kept], outcome.reason):
                    self._outbox.put(request.mailbox, chunk)
                if writer.ended:
                    driver.withdraw(outcome.entry)
                    self._forget(outcome.entry)

    def _fail(self, driver: Driver, error: Exception) -> None:
        """The engine broke: nobody new, its rows end, its memory is freed; those who wait go on waiting."""
        self._door.shut()
        self._on_failure(error)
        self._rows = None
        driver.abandon()
        for entry in [entry for entry in self._waiting if entry not in self._requests]:
            self._waiting.remove(entry)  # given up
        waiting = set(self._waiting)
        for entry in [entry for entry in self._requests if entry not in waiting]:
            self._end(entry, EngineFailed())
        self._outbox.flush()
        self._close()

    def _end(self, entry: Entry, ending: Ending) -> None:
        """An end without a token of its own."""
        request = self._requests.get(entry)
        if request is not None:
            self._outbox.put(request.mailbox, Said((), ending) if isinstance(ending, FinishReason) else ending)
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if self._requests.pop(entry, None) is not None:
            self._door.leave(entry)

    def _end_all(self) -> None:
        """Nobody is left waiting for a thread that is gone, or hangs. The door is shut: nobody comes after."""
        outbox = Outbox()
        while True:
            try:
                said = self._inbox.get_nowait()
            except Empty:
                break
            if isinstance(said, _Request):
                self._requests[said.entry] = said
        for request in list(self._requests.values()):
            failed = request.entry.begun and not self._door.stopping
            outbox.put(request.mailbox, EngineFailed() if failed else self._door.refusal())
            self._forget(request.entry)
        outbox.flush()
        if self._door.stopping:
            self._inbox.put(_Stop())

    def _close(self) -> None:
        """Free the engine; one that is broken may not even close."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                driver.close()
            except Exception as error:
                self._on_failure(error)


def _later(told: tuple[Outcome, Sequence[Sampled]]) -> bool:
    """Whether its row has answered before."""
    outcome, _ = told
    return outcome.entry.answered > outcome.kept
