"""What is counted of one request's answer while its chunks pass: its call's account, the metrics, the texts that a trace may keep.

Pure and synchronous: it neither waits for a chunk nor knows where one goes.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from pilothouse import calls, content
from pilothouse.errors import InvalidRequest, Retryable
from pilothouse.messages import ChatRequest, Chunk, Usage

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


class Tally:
    """Entered when the request is, left when its answer ends, however it does: that is its outcome."""

    __slots__ = ("_kept", "_last", "_observe", "_protocol", "_row", "_started", "_unfinished", "call", "prompt_tokens")

    def __init__(self, request: ChatRequest, protocol: str, observer: Observer) -> None:
        self._started = self._last = time.monotonic()
        self._protocol = protocol
        self._observe = observer
        self._unfinished: dict[int, int] = {}  # tokens of each choice whose usage has not come
        self.prompt_tokens = 0  # once they are known
        self.call = call = calls.current()
        call.outcome, call.operation = "cancelled", "chat" if request.messages else "text_completion"
        call.options = {name: value for name in _OPTIONS if (value := getattr(request, name)) is not None}
        if protocol.endswith("_stream"):
            call.options["stream"] = True
        self._kept = content.kept()
        self._row = self._kept.ask(request) if self._kept is not None else 0

    def count(self, take: Callable[[Chunk], bool], chunk: Chunk) -> bool:
        """Note that `chunk` passes, now, right after it has gone to `take`, whose answer this is."""
        try:
            return take(chunk)
        finally:
            unfinished = self._unfinished
            unfinished[chunk.index] = unfinished.get(chunk.index, 0) + len(chunk.tokens)
            if chunk.tokens:
                now = time.monotonic()
                if self._last != self._started:
                    self._observe.next_token(now - self._last)
                else:
                    self._first(now - self._started)
                self._last = now
            if self._kept is not None:
                self._kept.tell(self._row, chunk)
            if chunk.usage is not None:
                del unfinished[chunk.index]
                self._add(chunk, chunk.usage)
                self._observe.tokens(chunk.usage)

    def _first(self, waited: float) -> None:
        self.call.first_token_seconds = self.call.first_token_seconds or waited
        self._observe.first_token(waited)

    def _add(self, chunk: Chunk, usage: Usage) -> None:
        """A choice's usage to its call's: the prompt once, the answers together."""
        call = self.call
        if chunk.finish_reason is not None:
            call.finish_reasons += (chunk.finish_reason.value,)
        if chunk.queue_seconds is not None:
            call.queue_seconds = max(call.queue_seconds or 0.0, chunk.queue_seconds)
        if chunk.index == 0:
            call.prompt_tokens += usage.prompt_tokens
            call.cached_tokens += usage.cached_tokens
        call.completion_tokens += usage.completion_tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        call = self.call
        if error is None:
            call.outcome = "ok"
        elif isinstance(error, Exception):
            call.outcome = "refused" if isinstance(error, InvalidRequest | Retryable) else "failed"
        if self._unfinished:  # what was computed for a client that left counts for it, too
            call.prompt_tokens += self.prompt_tokens if 0 in self._unfinished else 0
            call.completion_tokens += sum(self._unfinished.values())
        self._observe.outcome(self._protocol, call.outcome)
