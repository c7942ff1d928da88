"""The bounds of one request, the same on every protocol.

Each protocol only translates; what comes out is checked here, once, so that no wire is a way around another's limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from pilothouse.errors import InvalidRequest, PilothouseError
from pilothouse.messages import ChatRequest
from pilothouse.protocols.fields import shown

INT32 = (1 << 31) - 1
INT64 = (1 << 63) - 1
MAX_BIASES = 1024  # entries of logit_bias
MAX_STOP_IDS = 128  # entries of stop_token_ids
MAX_NAME = 512  # characters of user, and of a message's name or tool_call_id


@dataclass(frozen=True, slots=True)
class Bound:
    """An interval of numbers; `open` leaves its lower end out."""

    low: float
    high: float
    open: bool = False

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and value <= self.high and (value > self.low if self.open else value >= self.low)

    def __str__(self) -> str:
        return f"above {self.low:g} and at most {self.high:g}" if self.open else f"between {self.low:g} and {self.high:g}"


SAMPLING: Mapping[str, Bound] = {
    "temperature": Bound(0, 2),
    "top_p": Bound(0, 1, open=True),
    "min_p": Bound(0, 1),
    "repetition_penalty": Bound(0.01, 2),  # logits are divided by it: next to 0 they would be no numbers, and break every row of the step
    "presence_penalty": Bound(-2, 2),
    "frequency_penalty": Bound(-2, 2),
}
BIAS = Bound(-100, 100)


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of the same names, and the size of the model's vocabulary. `max_tokens` 0: whatever the context window holds."""

    max_messages: int
    max_content_bytes: int
    max_rows: int
    max_n: int
    max_stop: int
    max_stop_bytes: int
    max_tools: int
    max_schema_bytes: int
    max_schema_depth: int
    max_top_logprobs: int
    max_tokens: int
    vocabulary: int

    @classmethod
    def from_settings(cls, settings: Any, vocabulary: int) -> Self:
        """Taken from any object with attributes of these names."""
        return cls(vocabulary=vocabulary, **{f.name: getattr(settings, f.name) for f in fields(cls) if f.name != "vocabulary"})

    @property
    def most_tokens(self) -> int:
        """The largest `max_tokens` that may be asked for."""
        return self.max_tokens or INT32

    def check_rows(self, requests: Sequence[ChatRequest], field: str, names: Mapping[str, str] | None = None) -> None:
        """Check the requests of one body together: their number, all their text, and each alone.

        Raises `InvalidRequest` that names `field` for the number of rows, else what `check` raises.
        """
        self.count_rows(len(requests), field)
        self._content(sum(content_bytes(r) for r in requests), field)
        for request in requests:
            self.check(request, names)

    def count_rows(self, rows: int, field: str) -> None:
        """Judge a number of rows, before any of them is built."""
        if not rows:
            raise InvalidRequest(f"{field} must have at least one row", field=field)
        at_most(field, rows, self.max_rows, "rows")

    def check(self, request: ChatRequest, names: Mapping[str, str] | None = None) -> None:
        """Check every parameter of `request`; `names` maps a field to what this wire calls it.

        Raises `InvalidRequest` that names the field, its value and its bound.
        """
        try:
            self._prompt(request)
            self._sampling(request)
            self._length(request)
            self._answer(request)
        except PilothouseError as error:
            raise error.renamed(names or {}) from None

    def _prompt(self, request: ChatRequest) -> None:
        if (request.prompt is None) == (not request.messages):
            raise InvalidRequest("exactly one of messages and prompt must be given", field="messages")
        at_most("messages", len(request.messages), self.max_messages, "messages")
        if request.prompt is not None and not len(request.prompt):
            raise InvalidRequest("prompt must not be empty", field="prompt")
        if isinstance(request.prompt, tuple):
            self._ids("prompt", request.prompt)
        for index, message in enumerate(request.messages):
            if message.name is not None:
                short(f"messages[{index}].name", message.name)
            if message.tool_call_id is not None:
                short(f"messages[{index}].tool_call_id", message.tool_call_id)
        self._content(content_bytes(request), "prompt" if request.messages == () else "messages")

    def _sampling(self, request: ChatRequest) -> None:
        for name, bound in SAMPLING.items():
            value = getattr(request, name)
            if value is not None and not bound.holds(value):
                raise InvalidRequest(f"{name} must be {bound}, not {shown(value)}", field=name)
        if request.top_k is not None:
            within("top_k", request.top_k, 0, INT32, " (0: all tokens)")
        if request.seed is not None:
            within("seed", request.seed, -INT64 - 1, INT64)
        if not request.logit_bias:
            return
        at_most("logit_bias", len(request.logit_bias), MAX_BIASES, "tokens")
        self._ids("logit_bias", tuple(token for token, _ in request.logit_bias))
        for token, bias in request.logit_bias:
            if not BIAS.holds(bias):
                raise InvalidRequest(f"logit_bias of token {token} must be {BIAS}, not {shown(bias)}", field="logit_bias")

    def _length(self, request: ChatRequest) -> None:
        if request.max_tokens is not None:
            within("max_tokens", request.max_tokens, 1, self.most_tokens)
        if request.min_tokens != 0:
            within("min_tokens", request.min_tokens, 0, request.max_tokens or self.most_tokens)
        if request.n != 1:
            within("n", request.n, 1, self.max_n)
        if request.stop:
            at_most("stop", len(request.stop), self.max_stop, "strings")
        for text in request.stop:
            if not text:
                raise InvalidRequest("stop must not hold an empty string", field="stop")
            if (size := len(text.encode())) > self.max_stop_bytes:
                raise InvalidRequest(f"stop has a string of {size} bytes; at most {self.max_stop_bytes} are taken", field="stop")
        if request.stop_token_ids:
            at_most("stop_token_ids", len(request.stop_token_ids), MAX_STOP_IDS, "tokens")
            self._ids("stop_token_ids", request.stop_token_ids)

    def _answer(self, request: ChatRequest) -> None:
        if request.logprobs is not None:
            within("logprobs", request.logprobs, 0, self.max_top_logprobs)
        if request.tools:
            at_most("tools", len(request.tools), self.max_tools, "tools")
        if request.user is not None:
            short("user", request.user)
        if request.guide is not None and request.guide.schema is not None:
            size = len(request.guide.schema.encode())
            if size > self.max_schema_bytes:
                raise InvalidRequest(
                    f"response_format has a schema of {size} bytes; at most {self.max_schema_bytes} are taken", field="response_format"
                )

    def _ids(self, field: str, ids: Sequence[int]) -> None:
        for token in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token < self.vocabulary:
                raise InvalidRequest(f"{field} has token {shown(token)}; the model's tokens are 0 to {self.vocabulary - 1}", field=field)

    def _content(self, size: int, field: str) -> None:
        if size > self.max_content_bytes:
            raise InvalidRequest(f"{field} has {size} bytes of text; at most {self.max_content_bytes} are taken", field=field)


def content_bytes(request: ChatRequest) -> int:
    """All text of a request in bytes of UTF-8: the prompt or the messages with their tool calls."""
    size = len(request.prompt.encode()) if isinstance(request.prompt, str) else 0
    for message in request.messages:
        size += len(message.content.encode())
        for call in message.tool_calls:
            size += len(call.arguments.encode()) + len(call.name.encode())
    return size


def within(name: str, value: int | None, low: int, high: int, note: str = "") -> None:
    """Refuse a number outside its bounds; None is inside."""
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}{note}, not {shown(value)}", field=name)


def at_most(name: str, count: int, most: int, things: str) -> None:
    """Refuse more `things` than are taken; to be asked before each of them costs anything."""
    if count > most:
        raise InvalidRequest(f"{name} has {count} {things}; at most {most} are taken", field=name)


def short(name: str, value: str | None) -> None:
    """Refuse a name that is longer than any has to be; None is none."""
    if value is not None and len(value) > MAX_NAME:
        raise InvalidRequest(f"{name} has {len(value)} characters; at most {MAX_NAME} are taken", field=name)
