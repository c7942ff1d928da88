"""OpenAI's request bodies, chat and completion, to `ChatRequest`.

Every field is honoured, refused by name, or listed in `IGNORED`: those speak of OpenAI's own storage, billing and abuse watch, change no
token of an answer, and clients send them by habit.
"""

from dataclasses import dataclass, replace
from typing import Any

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import ChatRequest
from pilothouse.protocols.conversation import messages
from pilothouse.protocols.fields import Fields, kind, valid_text, wrong_type
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.options import HINTS, REFUSED, integers, options
from pilothouse.protocols.schema import guide
from pilothouse.protocols.tools import tools

IGNORED = (
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
)

CHAT_REFUSED = REFUSED | {
    "audio": "this model writes text only",
    "function_call": "deprecated, send tool_choice",
    "functions": "deprecated, send tools",
    "moderation": "there is no moderation model here",
    "prediction": "repeated text is guessed ahead without being told",
    "reasoning_effort": "this model does not reason apart from its answer",
    "verbosity": "ask for it in a message",
    "web_search_options": "this server fetches nothing from the web",
}

COMPLETION_REFUSED = REFUSED | {
    "best_of": "send n, and choose by logprobs",
    "suffix": "this model does not fill gaps",
}


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A chat: one request, and how its answer is wanted."""

    request: ChatRequest
    model: str | None
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A completion: a request for each prompt; choice j of prompt i has index `i * n + j` in the answer."""

    requests: tuple[ChatRequest, ...]
    model: str | None
    stream: bool = False
    include_usage: bool = False


def model_name(body: Any) -> str | None:
    """The model a body names, None for the served one. Read before the rest is judged: an unknown model is 404 whatever else is wrong."""
    return Fields(body).text("model")


def chat(body: Any, limits: Limits) -> OpenAIRequest:
    """A `/v1/chat/completions` body. Raises `InvalidRequest` that names the field."""
    fields = Fields(body)
    model, (stream, include_usage) = fields.text("model"), _streaming(fields)
    request, names = read_chat(fields, limits)
    fields.finish(IGNORED, HINTS)
    limits.check(request, names)
    return OpenAIRequest(request, model, stream, include_usage)


def read_chat(fields: Fields, limits: Limits) -> tuple[ChatRequest, dict[str, str]]:
    """The chat in `fields`, unchecked, and what this wire calls its fields; what is no part of a chat stays in `fields`."""
    fields.refuse(CHAT_REFUSED)
    modalities = fields.items("modalities")
    if modalities and modalities not in ([], ["text"]):
        raise Unsupported(f'{fields.path("modalities")} must be ["text"]: this model writes text only', field=fields.path("modalities"))
    conversation = messages(fields.need_items("messages"), limits, fields.path("messages"))
    names = {"logprobs": "top_logprobs"} | ({"max_tokens": "max_completion_tokens"} if "max_completion_tokens" in fields else {})
    given, choice = tools(fields, limits)
    request = ChatRequest(
        messages=conversation,
        logprobs=_chat_logprobs(fields),
        guide=guide(fields, limits),
        tools=given,
        tool_choice=choice,
        **options(fields, limits),
    )
    return request, names


def completion(body: Any, limits: Limits) -> CompletionRequest:
    """A `/v1/completions` body. Raises `InvalidRequest` that names the field."""
    fields = Fields(body)
    model, (stream, include_usage) = fields.text("model"), _streaming(fields)
    fields.refuse(COMPLETION_REFUSED)
    prompts = _prompts(fields.need("prompt"), fields.path("prompt"), limits)
    echo, logprobs = fields.boolean("echo") or False, fields.integer("logprobs")
    if echo and logprobs is not None:
        raise Unsupported("logprobs with echo is not supported: log-probabilities are of the answer's tokens only", field="logprobs")
    names = {"max_tokens": "max_completion_tokens"} if "max_completion_tokens" in fields else {}
    common = ChatRequest(prompt="", echo=echo, logprobs=logprobs, guide=guide(fields, limits), **options(fields, limits))
    fields.finish(IGNORED, HINTS)
    requests = tuple(replace(common, prompt=prompt) for prompt in prompts)
    limits.check_rows(requests, "prompt", names)
    return CompletionRequest(requests, model, stream, include_usage)


def _streaming(fields: Fields) -> tuple[bool, bool]:
    stream = fields.boolean("stream") or False
    choices = fields.object("stream_options")
    if choices is None:
        return stream, False
    if not stream:
        raise InvalidRequest("stream_options is only allowed with stream true", field="stream_options")
    include_usage = choices.boolean("include_usage") or False
    choices.boolean("continuous_usage_stats")  # vLLM's, which GuideLLM always sends: usage is told once here, at the end
    choices.boolean("include_obfuscation")  # padding against onlookers: OpenAI's own, never sent here
    choices.finish()
    return stream, include_usage


def _chat_logprobs(fields: Fields) -> int | None:
    if fields.lacks("logprobs", "top_logprobs"):
        return None
    wanted, top = fields.boolean("logprobs"), fields.integer("top_logprobs")
    if top is not None and not wanted:
        raise InvalidRequest("top_logprobs is only allowed with logprobs true", field="top_logprobs")
    return (top or 0) if wanted else None


def _prompts(value: Any, path: str, limits: Limits) -> list[str | tuple[int, ...]]:
    """A string, a list of strings, a list of token ids, or a list of such lists: OpenAI's four forms."""
    if isinstance(value, str):
        return [valid_text(value, path)]
    if not isinstance(value, list):
        wrong_type(path, "a string, a list of strings, or token ids", value)
    if not value:
        raise InvalidRequest(f"{path} must not be empty", field=path)
    if isinstance(value[0], int):
        return [integers(value, path)]
    limits.count_rows(len(value), path)
    return [_prompt(one, f"{path}[{index}]", like=value[0]) for index, one in enumerate(value)]


def _prompt(value: Any, path: str, like: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and isinstance(like, str):
        return valid_text(value, path)
    if isinstance(value, list) and isinstance(like, list):
        return integers(value, path)
    alike = isinstance(like, str | list)
    return wrong_type(path, f"{kind(like)} as the first one is" if alike else "a string or a list of token ids", value)
