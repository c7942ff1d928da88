"""One request to one answer: the path every protocol takes.

A request is planned (`planning`), its rows are computed, and the engine's chunks become choices. Protocols differ only in how a `ChatRequest`
was spelled and how the `Chunk`s are written down, so the same request gives the same text and usage over each.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial

from pilothouse import calls
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.chat.tools import ToolFilter
from pilothouse.engines.base import Engine, Job
from pilothouse.engines.mailbox import Take, pour
from pilothouse.joining import join
from pilothouse.merging import merged
from pilothouse.messages import Answer, ChatRequest, Chunk, Defaults, FinishReason, Tool
from pilothouse.planning import Planner
from pilothouse.tally import Observer, Tally, Unobserved

Pauses = AsyncGenerator[None, None]
"""A stream that is poured: it yields where its taker wants no more for now, and goes on when it is asked on. Closing it frees the rows."""

RowTake = Callable[[int, Chunk], bool]
"""A `Take` for several prompts, each chunk with its prompt's index."""


class Answerer:
    """Answers `ChatRequest`s on one engine with one model's tokenizer, template and defaults."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        defaults: Defaults | None = None,
        check: Callable[[ChatRequest], None],
        most_tokens: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self.engine = engine
        self.planner = Planner(engine, tokenizer, template, defaults=defaults, check=check, most_tokens=most_tokens)
        self._observe = observer or Unobserved()

    async def answer(self, request: ChatRequest, *, protocol: str = "python") -> Answer:
        """The whole answer; the same chunks as `stream`, joined."""
        return (await self.answers((request,), protocol=protocol))[0]

    async def answers(self, requests: tuple[ChatRequest, ...], *, protocol: str = "python") -> tuple[Answer, ...]:
        """Several prompts of one client, computed side by side; the first failure withdraws the others."""
        rows: list[list[Chunk]] = [[] for _ in requests]

        def take(row: int, chunk: Chunk) -> bool:
            rows[row].append(chunk)
            return True

        async with aclosing(self.pour(requests, take, protocol=protocol)) as pauses:
            async for _ in pauses:
                pass
        return tuple(join(row) for row in rows)

    async def stream(self, request: ChatRequest, *, protocol: str = "python") -> AsyncGenerator[Chunk, None]:
        """Chunks of all choices, one by one, for a reader who asks for each. A refusal is raised before the first one; closing the generator frees the rows."""
        waiting: deque[Chunk] = deque()

        def take(chunk: Chunk) -> bool:
            waiting.append(chunk)
            return False

        async with aclosing(self._one(request, take, protocol)) as pauses:
            async for _ in pauses:
                while waiting:
                    yield waiting.popleft()

    def pour(self, requests: tuple[ChatRequest, ...], take: RowTake, *, protocol: str = "python") -> Pauses:
        """Chunks of several prompts to `take`, in the moment they come. All prompts are judged, and have a place, before any starts: a refusal is
        raised before the first chunk."""
        rows = [self._one(request, partial(take, row), protocol) for row, request in enumerate(requests)]
        return rows[0] if len(rows) == 1 else self._together(requests, rows)

    async def _together(self, requests: tuple[ChatRequest, ...], rows: list[Pauses]) -> Pauses:
        for request in requests:
            self.planner.judge(request)
        self.engine.reserve(sum(request.n for request in requests), requests[0].tenant or calls.current().tenant)
        async with aclosing(merged(rows)) as pauses:
            async for _ in pauses:
                yield

    async def _one(self, request: ChatRequest, take: Take, protocol: str) -> Pauses:
        """One prompt's chunks, counted and filtered on their way to `take`."""
        with Tally(request, protocol, self._observe) as tally:
            jobs = await self.planner.jobs(
                request, request_id=request.request_id or tally.call.id, tenant=request.tenant or tally.call.tenant
            )
            tally.prompt_tokens = len(jobs[0].prompt)
            if request.echo and not take(Chunk(text=self.planner.prompt_text(request), index=0)):
                yield
            counted = partial(tally.count, take)
            called = bool(request.tools) and (request.tool_choice is None or request.tool_choice.mode != "none")
            async with aclosing(self._rows(jobs, _with_tools(request.tools, counted) if called else counted)) as pauses:
                async for _ in pauses:
                    yield

    # -- from rows to chunks ---------------------------------------------------------------------------------------------------

    def _rows(self, jobs: list[Job], take: Take) -> Pauses:
        """The chunks of one row, or of several as they come."""
        if len(jobs) > 1:
            self.engine.reserve(len(jobs), jobs[0].tenant, sum(len(job.prompt) for job in jobs))
        rows = [_row(self.engine.generate(job), take) for job in jobs]
        return rows[0] if len(rows) == 1 else _all(rows)


async def _row(chunks: AsyncIterator[Chunk], take: Take) -> Pauses:
    """An engine's iterator is an async generator: it is closed, not left to the collector, so that its row is free within a step."""
    assert isinstance(chunks, AsyncGenerator)
    async with aclosing(chunks):
        while not await pour(chunks, take):
            yield


async def _all(rows: list[Pauses]) -> Pauses:
    async with aclosing(merged(rows)) as pauses:
        async for _ in pauses:
            yield


def _with_tools(tools: tuple[Tool, ...], take: Take) -> Take:
    """Text that is a tool call becomes `tool_calls`; all other text passes as it comes."""
    filters: dict[int, ToolFilter] = {}

    def filtered(chunk: Chunk) -> bool:
        through = filters.setdefault(chunk.index, ToolFilter(tools))
        text = through.feed(chunk.text)
        if chunk.finish_reason is None:
            return take(chunk._replace(text=text)) if text or chunk.logprobs else True
        rest, calls = through.finish()
        reason = FinishReason.TOOL_CALLS if calls and chunk.finish_reason is FinishReason.STOP else chunk.finish_reason
        return take(chunk._replace(text=text + rest, tool_calls=calls, finish_reason=reason))

    return filtered
