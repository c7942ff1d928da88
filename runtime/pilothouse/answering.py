"""One request to one answer: the path every protocol takes.

Text becomes token ids here, defaults are filled in here, and the engine's chunks become choices here. Protocols differ only in how a
`ChatRequest` was spelled and how the `Chunk`s are written down, so the same request gives the same text and usage over each.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, TypeVar

from pilothouse import calls, content
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.chat.tools import ToolFilter, guide_for
from pilothouse.engines.base import Engine, Job
from pilothouse.errors import ContextLengthExceeded, InvalidRequest, PilothouseError, Retryable, Unsupported
from pilothouse.merging import merged
from pilothouse.messages import Answer, ChatRequest, Choice, Chunk, Defaults, FinishReason, Sampling, TokenLogprob, Tool, ToolCall, Usage

T = TypeVar("T")

LEAST_ANSWER = 256  # tokens a prompt near the default max_length still gets, where the window has them
_OPTIONS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "n")
INLINE_BYTES = 4096  # texts up to this are tokenised on the event loop (about a millisecond), longer ones off it


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
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults or Defaults()
        self._check = check
        self._most_tokens = most_tokens
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
        if len(requests) > 1:
            for request in requests:
                self._judge(request)
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
            jobs = await self._jobs(request)
            if request.echo:
                yield Chunk(text=self._prompt_text(request), index=0)
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

    # -- from a request to jobs ------------------------------------------------------------------------------------------------

    def _judge(self, request: ChatRequest) -> None:
        """Refuse by name what is out of bounds or beyond this model and engine."""
        self._check(request)
        can, name = self.engine.capabilities, self.engine.name
        for field, asked, able in (
            ("logprobs", request.logprobs is not None, can.logprobs),
            ("seed", request.seed is not None, can.seed),
            ("frequency_penalty", bool(request.frequency_penalty), can.penalties),
            ("presence_penalty", bool(request.presence_penalty), can.penalties),
            ("repetition_penalty", (request.repetition_penalty or 1.0) != 1.0, can.repetition_penalty),
            ("min_p", bool(request.min_p), can.min_p),
            ("ignore_eos", request.ignore_eos, can.own_ends),
            ("stop_token_ids", bool(request.stop_token_ids and request.min_tokens), can.own_ends),
            ("logit_bias", bool(request.logit_bias), can.logit_bias),
            ("response_format", request.guide is not None, can.guidance),
        ):
            if asked and not able:
                raise Unsupported(f"{field} is not supported by this model's engine ({name}); leave it out", field=field)
        if request.messages and self.template is None:
            raise Unsupported("messages need a chat template and this model has none; send its raw form as prompt", field="messages")
        if request.tools and not (self.template and self.template.renders_tools):
            raise Unsupported("tools are not supported: this model's chat template does not render them; leave tools out", field="tools")

    async def _jobs(self, request: ChatRequest) -> list[Job]:
        self._judge(request)
        self.engine.reserve(request.n, request.tenant)  # a full queue refuses before any work
        size = sum(len(m.content) for m in request.messages) + (len(request.prompt) if isinstance(request.prompt, str) else 0)
        if size > INLINE_BYTES or request.tools:
            prompt = await asyncio.to_thread(self._encode, request)
        else:
            prompt = self._encode(request)
        jobs = self._plan(request, tuple(prompt))
        if jobs[0].guide is not None:
            await asyncio.to_thread(self.engine.prepare, jobs[0].guide)
        return jobs

    def _encode(self, request: ChatRequest) -> list[int]:
        if isinstance(request.prompt, tuple):
            return list(request.prompt)
        if request.prompt is not None:
            return self.tokenizer.encode(request.prompt)
        assert self.template is not None  # judged
        return self.template.ids(request.messages, request.tools)

    def _plan(self, request: ChatRequest, prompt: tuple[int, ...]) -> list[Job]:
        """The rows of a request, with every default filled in."""
        window = self.engine.context
        field = "messages" if request.messages else "prompt"
        if not prompt:
            raise InvalidRequest("prompt is empty; send at least one character", field=field)
        if len(prompt) >= window:
            raise ContextLengthExceeded(
                f"{field} has {len(prompt)} tokens; this model's context window is {window} and the answer needs at least one: shorten it",
                field=field,
            )
        room = window - len(prompt)
        d = self.defaults
        if request.max_tokens is not None:
            wanted = request.max_tokens
        elif d.max_tokens is not None:
            wanted = d.max_tokens
        elif d.max_length is not None:
            wanted = max(d.max_length - len(prompt), LEAST_ANSWER)
        else:
            wanted = room
        most = min(wanted, room, self._most_tokens or room)
        sampling = Sampling(
            temperature=_or(request.temperature, d.temperature),
            top_p=_or(request.top_p, d.top_p),
            top_k=_or(request.top_k, d.top_k),
            min_p=_or(request.min_p, d.min_p),
            repetition_penalty=_or(request.repetition_penalty, d.repetition_penalty),
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=request.logit_bias,
            seed=request.seed,
        )
        end = frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self.tokenizer.end_ids)
        job = Job(
            id=request.request_id or "",
            prompt=prompt,
            sampling=sampling,
            max_tokens=most,
            min_tokens=min(request.min_tokens, most),
            end_ids=end,
            stop=request.stop or d.stop,
            logprobs=request.logprobs,
            guide=request.guide or (guide_for(request.tools, request.tool_choice) if request.tools and request.tool_choice else None),
            tenant=request.tenant,
        )
        if request.n == 1:
            return [job]
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        return [replace(job, index=i, sampling=replace(sampling, seed=seed)) for i, seed in enumerate(seeds)]

    def _prompt_text(self, request: ChatRequest) -> str:
        return request.prompt if isinstance(request.prompt, str) else self.tokenizer.decode(list(request.prompt or ()))

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


def join(chunks: Iterable[Chunk]) -> Answer:
    """Chunks of a finished stream, joined choice by choice. The prompt is counted once."""
    texts: dict[int, list[str]] = {}
    logprobs: dict[int, list[TokenLogprob]] = {}
    calls: dict[int, tuple[ToolCall, ...]] = {}
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, FinishReason] = {}
    usages: list[Usage] = []
    for chunk in chunks:
        texts.setdefault(chunk.index, []).append(chunk.text)
        logprobs.setdefault(chunk.index, []).extend(chunk.logprobs)
        tokens.setdefault(chunk.index, []).extend(chunk.tokens)
        if chunk.tool_calls:
            calls[chunk.index] = chunk.tool_calls
        if chunk.finish_reason is not None:
            reasons[chunk.index] = chunk.finish_reason
        if chunk.usage is not None:
            usages.append(chunk.usage)
    return Answer(
        choices=tuple(
            Choice(
                index=i,
                text="".join(texts[i]),
                finish_reason=reasons[i],
                logprobs=tuple(logprobs[i]),
                tool_calls=calls.get(i, ()),
                tokens=tuple(tokens[i]),
            )
            for i in sorted(texts)
        ),
        usage=total(usages),
    )


def total(usages: Iterable[Usage]) -> Usage:
    """The usage of all choices of one request: the prompt once, the answers together."""
    all_of = list(usages)
    return Usage(
        prompt_tokens=max((u.prompt_tokens for u in all_of), default=0),
        completion_tokens=sum(u.completion_tokens for u in all_of),
        cached_tokens=min((u.cached_tokens for u in all_of), default=0),
    )


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


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _closing(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """An engine's iterator is an async generator: it is closed, not left to the collector, so that its row is free within a step."""
    assert isinstance(chunks, AsyncGenerator)
    return chunks
