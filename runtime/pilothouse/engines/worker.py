"""The one thread that owns an engine: decide, compute and account (driver), write (writer), one step after the other.

Event loops tell it things through one queue and hear from it once per step, so neither waits for the other. With nothing to do the thread
sleeps on that queue.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from pilothouse.engines.base import Capabilities, Guidance, StepEngine, TokenEngine, Vocabulary
from pilothouse.engines.door import Door
from pilothouse.engines.driver import Driver, Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.mailbox import Mailbox, Outbox, Said
from pilothouse.engines.plan import Ending, Limits, Outcome, Plan
from pilothouse.engines.relay import Relay
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.waiting import Waiting
from pilothouse.engines.writer import Writer
from pilothouse.errors import EngineFailed
from pilothouse.messages import FinishReason


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One job as the thread knows it: its place, its text, its reader."""

    entry: Entry
    writer: Writer
    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Left:
    """The reader of a request is gone."""

    request: Request


class Stop:
    """The thread is to end."""


class GivenUp:
    """Nobody waits for the step any more that the thread comes back from."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called on the engine's thread (`failure` also on a caller's); they must be quick."""

    queue: Callable[[float], None]  # for how many seconds a job waited
    cancel: Callable[[], None]  # a client left before its answer was complete
    failure: Callable[[BaseException], None]  # what the engine raised


class Worker:
    """An engine's thread. Others `put` into `inbox`, read what is public here, and call `end_all`."""

    def __init__(
        self,
        make: Callable[[], StepEngine | TokenEngine],
        vocabulary: Vocabulary,
        make_guidance: Callable[[], Guidance] | None,
        door: Door,
        hooks: Hooks,
        clock: Callable[[], float],
        *,
        queue_seconds: float,
        request_seconds: float,
        speculation: bool,
    ) -> None:
        """`make` builds the engine, again after a failure; `make_guidance` is called once. Both on the thread."""
        self._make, self._make_guidance = make, make_guidance
        self._vocabulary = vocabulary
        self._door, self._hooks, self._clock = door, hooks, clock
        self._seconds = (queue_seconds, request_seconds)
        self._speculation = speculation

        self.inbox: SimpleQueue[Request | Left | Stop | GivenUp] = SimpleQueue()  # its put may run in a destructor
        self._outbox = Outbox()
        self._waiting = Waiting()
        self._requests: dict[Entry, Request] = {}
        self._driver: Driver | None = None

        self.guidance: Guidance | None = None
        self.name, self.device, self.capabilities, self.context = "none", "none", Capabilities(), 0  # the engine's
        self.facts: dict[str, Any] = {}
        self.rows: Driver | None = None  # the driver, while its engine is whole
        self.given_up = False  # a step hangs, and those who waited for it have been told
        self.steps = 0
        self.kv_used = 0.0
        self.broken = False
        self.progressed = clock()  # monotonic seconds of the last step or the last sign of idleness; stands still in a hung step

    def run(self, ready: "Future[None]") -> None:
        """The thread: build the engine, of which `ready` hears, and serve until told to stop. An engine that breaks is built anew."""
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
            self.broken = not self._door.stopping
            self._door.shut()
            self._close()
            self.end_all()

    def _build(self) -> None:
        """An engine that has answered once, and its driver."""
        if self.guidance is None and self._make_guidance is not None:
            self.guidance = self._make_guidance()
        engine = self._make()
        queue_seconds, request_seconds = self._seconds
        limits = Limits(
            rows=min(engine.rows, engine.tokens_per_step),
            context=engine.context,
            tokens_per_step=engine.tokens_per_step,
            tokens_alone=0 if isinstance(engine, TokenEngine) else engine.tokens_alone,
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
            driver = Stepping(engine, self._vocabulary.size, self.guidance, self._waiting, limits, self._hooks.failure)
        self._driver = driver
        driver.answer_once(self._clock())
        self.name, self.device, self.capabilities, self.context = engine.name, engine.device, engine.capabilities, engine.context
        self.facts = engine.describe()
        self.rows = driver
        self.given_up = False
        self._door.open()

    def _serve(self, rebuilt: bool) -> bool:
        """Serve with one engine. True: over; False: it broke, and another one has taken its place."""
        driver, begun = self._driver, self.steps
        assert driver is not None
        try:
            while self._listen(driver):
                self._turn(driver)
            return True
        except Exception as error:
            self._fail(driver, error)
            if self._door.stopping or (rebuilt and self.steps == begun):
                return True
        try:
            self._build()
        except Exception as error:
            self._hooks.failure(error)
            return True
        return False

    def _listen(self, driver: Driver) -> bool:
        """Take in what was said since the last step; sleep while there is nothing to do. False: stop."""
        while True:
            self.kv_used, self.progressed = driver.usage(), self._clock()
            if self.inbox.empty() and (driver.running or len(self._waiting)):
                return True
            said = self.inbox.get()
            if isinstance(said, Stop):
                return False
            if isinstance(said, GivenUp):
                if self.given_up:
                    raise TimeoutError("a step came back after it had been given up")
            elif isinstance(said, Request):
                self._requests[said.entry] = said
                self._waiting.add(said.entry)
            elif driver.withdraw(said.request.entry):
                self._forget(said.request.entry)
                self._hooks.cancel()

    def _turn(self, driver: Driver) -> None:
        """One step."""
        plan = driver.plan(self._clock())
        for entry in plan.admitted:
            self._door.begin(entry)
            if (request := self._requests.get(entry)) is not None:  # else it has been given up just now
                request.writer.cached, request.writer.queued = entry.cached, self._clock() - entry.arrived
                self._hooks.queue(request.writer.queued)
        for entry, ending in plan.ended:
            self._end(entry, ending)
        self._outbox.flush()  # these need not wait for the step
        if plan.shares:
            self._answer(plan, driver)
            self.steps += 1
        self._outbox.flush()

    def _answer(self, plan: Plan, driver: Driver) -> None:
        """Tokens to readers: the last of a row says why it ends, unless its text does so before. First tokens go first."""
        told = driver.step(plan)
        if len(told) > 1:
            told.sort(key=_later)
        for outcome, answer in told:
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
        self._hooks.failure(error)
        self.rows = None
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

    def end_all(self) -> None:
        """Nobody is left waiting for a thread that is gone, or hangs. The door is shut: nobody comes after."""
        outbox = Outbox()
        while True:
            try:
                said = self.inbox.get_nowait()
            except Empty:
                break
            if isinstance(said, Request):
                self._requests[said.entry] = said
        for request in list(self._requests.values()):
            failed = request.entry.begun and not self._door.stopping
            outbox.put(request.mailbox, EngineFailed() if failed else self._door.refusal())
            self._forget(request.entry)
        outbox.flush()
        if self._door.stopping:
            self.inbox.put(Stop())

    def _close(self) -> None:
        """Free the engine; one that is broken may not even close."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                driver.close()
            except Exception as error:
                self._hooks.failure(error)


def _later(told: tuple[Outcome, Sequence[Sampled]]) -> bool:
    """Whether its row has answered before."""
    outcome, _ = told
    return outcome.entry.answered > outcome.kept
