"""One request to one answer: the path every protocol takes.

A request is planned (`planning`), its rows are computed, and the engine's chunks become choices. Protocols differ only in how a `ChatRequest`
was spelled and how the `Chunk`s are written down, so the same request gives the same text and usage over each.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from pilothouse import calls, content
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.chat.tools import ToolFilter
from pilothouse.engines.base import Engine, Job
from pilothouse.errors import InvalidRequest, PilothouseError, Retryable
from pilothouse.joining import join
from pilothouse.merging import merged
from pilothouse.messages import Answer, ChatRequest, Chunk, Defaults, FinishReason, Tool, Usage
from pilothouse.planning import Planner

_OPTIONS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "n")


class Observer(Protocol):
    """Where the numbers of a request go; `metrics.Metrics` in a server, `Unobserved` elsewhere."""

    def first_token(self, seconds: float) -> None: ...
    def next_token(self, seconds: float) -> None: ...
    def tokens(self, usage: Usage) -> None: ...
    def outcome(self, protocol: str, outcome: str) -> None: ...


class Unobserved:
    """Forgets everything."""

    def first_token(self, seconds: float) -> None: ...
    def next_token(self, seconds: float) -> None: ...
    def tokens(self, usage: Usage) -> None: ...
    def outcome(self, protocol: str, outcome: str) -> None: ...


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
        async with aclosing(self.stream(request, protocol=protocol)) as chunks:
            return join([chunk async for chunk in chunks])

    async def answers(self, requests: tuple[ChatRequest, ...], *, protocol: str = "python") -> tuple[Answer, ...]:
        """Several prompts of one client, computed side by side; the first failure withdraws the others."""
        if len(requests) == 1:
            return (await self.answer(requests[0], protocol=protocol),)
        rows: list[list[Chunk]] = [[] for _ in requests]
        async with aclosing(self.streams(requests, protocol=protocol)) as chunks:
            async for row, chunk in chunks:
                rows[row].append(chunk)
        return tuple(join(row) for row in rows)

    async def streams(self, requests: tuple[ChatRequest, ...], *, protocol: str = "python") -> AsyncGenerator[tuple[int, Chunk], None]:
        """Chunks of several prompts as they come, each with its prompt's index. All of them are judged, and have a place, before any starts."""
        if len(requests) == 1:
            async with aclosing(self.stream(requests[0], protocol=protocol)) as only:
                async for chunk in only:
                    yield 0, chunk
            return
        for request in requests:
            self.planner.judge(request)
        self.engine.reserve(sum(request.n for request in requests), requests[0].tenant or calls.current().tenant)
        async with aclosing(merged([self.stream(request, protocol=protocol) for request in requests])) as chunks:
            async for item in chunks:
                yield item

    async def stream(self, request: ChatRequest, *, protocol: str = "python") -> AsyncGenerator[Chunk, None]:
        """Chunks of all choices as they come. A refusal is raised before the first one; closing the generator frees the rows."""
        started = last = time.monotonic()
        call = calls.current()
        call.outcome, call.operation = "cancelled", "chat" if request.messages else "text_completion"
        call.options = {name: value for name in _OPTIONS if (value := getattr(request, name)) is not None}
        if protocol.endswith("_stream"):
            call.options["stream"] = True
        unfinished: dict[int, int] = {}  # tokens of each choice whose usage has not come
        kept = content.kept()
        row = kept.ask(request) if kept is not None else 0
        request = replace(request, tenant=request.tenant or call.tenant, request_id=request.request_id or call.id)
        try:
            jobs = await self.planner.jobs(request)
            if request.echo:
                yield Chunk(text=self.planner.prompt_text(request), index=0)
            called = bool(request.tools) and (request.tool_choice is None or request.tool_choice.mode != "none")
            async with aclosing(self._rows(jobs)) as chunks:
                async for chunk in _with_tools(request.tools, chunks) if called else chunks:
                    now = time.monotonic()
                    unfinished[chunk.index] = unfinished.get(chunk.index, 0) + len(chunk.tokens)
                    if chunk.tokens:
                        if last == started:
                            call.first_token_seconds = call.first_token_seconds or now - started
                            self._observe.first_token(now - started)
                        else:
                            self._observe.next_token(now - last)
                        last = now
                    if kept is not None:
                        kept.tell(row, chunk)
                    if chunk.usage:
                        del unfinished[chunk.index]
                        _count(call, chunk)
                        self._observe.tokens(chunk.usage)
                    yield chunk
            call.outcome = "ok"
        except PilothouseError as error:
            call.outcome = "refused" if isinstance(error, InvalidRequest | Retryable) else "failed"
            raise
        except Exception:
            call.outcome = "failed"
            raise
        finally:
            if unfinished:  # what was computed for a client that left counts for it, too
                call.prompt_tokens += len(jobs[0].prompt) if 0 in unfinished else 0
                call.completion_tokens += sum(unfinished.values())
            self._observe.outcome(protocol, call.outcome)

    # -- from rows to chunks ---------------------------------------------------------------------------------------------------

    def _rows(self, jobs: list[Job]) -> AsyncGenerator[Chunk, None]:
        """The chunks of one row, or of several as they come."""
        if len(jobs) == 1:
            return _closing(self.engine.generate(jobs[0]))
        self.engine.reserve(len(jobs), jobs[0].tenant, sum(len(job.prompt) for job in jobs))
        return _several([_closing(self.engine.generate(job)) for job in jobs])


async def _several(rows: list[AsyncGenerator[Chunk, None]]) -> AsyncGenerator[Chunk, None]:
    async with aclosing(merged(rows)) as chunks:
        async for _, chunk in chunks:
            yield chunk


async def _with_tools(tools: tuple[Tool, ...], chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Text that is a tool call becomes `tool_calls`; all other text passes as it comes."""
    filters: dict[int, ToolFilter] = {}
    async for chunk in chunks:
        filtered = filters.setdefault(chunk.index, ToolFilter(tools))
        text = filtered.feed(chunk.text)
        if chunk.finish_reason is None:
            if text or chunk.logprobs:
                yield replace(chunk, text=text)
            continue
        rest, calls = filtered.finish()
        reason = FinishReason.TOOL_CALLS if calls and chunk.finish_reason is FinishReason.STOP else chunk.finish_reason
        yield replace(chunk, text=text + rest, tool_calls=calls, finish_reason=reason)


def _count(call: calls.Call, chunk: Chunk) -> None:
    """Add a choice's usage to its call: the prompt once, the answers together."""
    assert chunk.usage is not None
    if chunk.finish_reason is not None:
        call.finish_reasons += (chunk.finish_reason.value,)
    if chunk.queue_seconds is not None:
        call.queue_seconds = max(call.queue_seconds or 0.0, chunk.queue_seconds)
    if chunk.index == 0:
        call.prompt_tokens += chunk.usage.prompt_tokens
        call.cached_tokens += chunk.usage.cached_tokens
    call.completion_tokens += chunk.usage.completion_tokens


def _closing(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """An engine's iterator is an async generator: it is closed, not left to the collector, so that its row is free within a step."""
    assert isinstance(chunks, AsyncGenerator)
    return chunks
