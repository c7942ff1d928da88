"""An engine with its sampler: a row is open in both or in neither, and a step goes from tokens to tokens."""

from collections.abc import Callable, Sequence

from pilothouse.engines.base import Guidance, Job, StepEngine
from pilothouse.engines.entry import Entry
from pilothouse.engines.ledger import Ledger
from pilothouse.engines.plan import Limits, Share
from pilothouse.engines.sampling import Sampled, Sampler
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import EngineFailed, PilothouseError
from pilothouse.messages import Sampling


class Bench:
    """What the ledger asks things of; made and used on the engine's thread.

    `on_failure` hears of what broke for one request alone; what breaks the engine is raised.
    """

    def __init__(self, engine: StepEngine, vocabulary: int, guidance: Guidance | None, on_failure: Callable[[BaseException], None]) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.extend = engine.extend
        self.rollback = engine.rollback
        self._sampler = Sampler(vocabulary, guidance)
        self._on_failure = on_failure

    def admit(self, row: int, entry: Entry) -> int | None:
        """Open `row`; tokens that need not be fed, or None for "no room now". Raises the request's own errors: a guide that can't be followed."""
        cached = self.engine.admit(row, entry.tokens, entry.job.tenant, entry.answered)
        if cached is None:
            return None
        try:
            self._sampler.open(row, entry.job, entry.tokens[len(entry.job.prompt) :])
        except PilothouseError:
            self.engine.withdraw(row)
            raise
        except Exception as error:
            self.engine.withdraw(row)
            self._on_failure(error)
            raise EngineFailed from error
        return cached

    def withdraw(self, row: int) -> None:
        self._sampler.close(row)
        self.engine.withdraw(row)

    def compute(self, shares: Sequence[Share]) -> list[list[Sampled]]:
        """One step; tokens for each share that answers, in order."""
        asked = [(share.entry.row, share.drafts) for share in shares if share.wanted]
        logits = self.engine.step([share.work() for share in shares])
        return self._sampler.sample(logits, asked) if asked else []

    def answer_once(self, limits: Limits, now: float) -> None:
        """Warm up, and answer two tokens the way every answer goes: one with the prompt, one in a step of its own. Raises what goes wrong."""
        self.engine.warm_up()
        prompt = tuple(range(min(4, self.vocabulary, max(1, limits.context - 1))))
        waiting = Waiting()
        waiting.add(Entry(Job("first", prompt, Sampling(temperature=0.0), max_tokens=2), now))
        ledger = Ledger(self, waiting, limits)
        while len(waiting) or ledger.running:
            plan = ledger.plan(now)
            for _, ending in plan.ended:
                if isinstance(ending, Exception):
                    raise ending
            if plan.shares:
                ledger.account(plan, [[sample.token for sample in samples] for samples in self.compute(plan.shares)])

    def close(self) -> None:
        self.engine.close()
