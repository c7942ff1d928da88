"""The nouns every room speaks: what a client asks for and what it gets back.

Frozen, and importing nothing of the package: protocols translate a wire into a `ChatRequest`, the runtime answers with `Chunk`s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple


class FinishReason(StrEnum):
    """Why a choice ended. Exactly one per choice, on its last chunk."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for; `arguments` is the JSON text it wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is plain text: whatever looks like a control token in it stays text."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is its JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`none`, `auto`, `required`, or `function` with the one name that must be called."""

    mode: Literal["none", "auto", "required", "function"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Guide:
    """The shape an answer must have: any JSON object, or JSON that fits `schema` (JSON text)."""

    kind: Literal["json_object", "json_schema"]
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The defaults change nothing; temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request, the same over every protocol.

    Exactly one of `messages` (rendered with the model's template) and `prompt` (goes in as it is) is set. `None` means "the model's
    default": the runtime fills it in from the model's configuration, so that every protocol gets the same one.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None  # None: none; 0: the chosen token's; k: the k likeliest beside it
    guide: Guide | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    echo: bool = False  # completions only: the prompt's text stands before the answer
    user: str | None = None
    request_id: str | None = None  # for logs; the wire's own id is the protocol's business
    tenant: str = ""  # the name of the API key, "" without keys


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets where it says nothing: the model's own configuration."""

    max_length: int | None = 300  # prompt and answer together; None: the context window
    max_tokens: int | None = None  # the answer alone; wins over max_length
    temperature: float = 0.2
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its log-probability (natural logarithm, after penalties and bias, before temperature)."""

    token: str
    id: int
    logprob: float
    raw: bytes
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `completion_tokens` counts every sampled token, the closing end token included; `cached_tokens` the prompt tokens not computed anew."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Chunk(NamedTuple):
    """A piece of one choice's answer. Joined texts are the unary answer; the last chunk of a choice has `finish_reason` and `usage`.

    A tuple, for there is one for each token: it is made in a third of a frozen dataclass's time.
    """

    text: str = ""
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    queue_seconds: float | None = None  # of the last chunk: how long the choice waited for its row


@dataclass(frozen=True, slots=True)
class Choice:
    """A whole choice: its chunks joined."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A unary answer: all choices, and the usage of all of them (the prompt counted once)."""

    choices: tuple[Choice, ...]
    usage: Usage
