"""OpenAI's `/v1/responses` bodies to `ChatRequest`: a chat under other names, of which nothing is stored.

The rules are those of `openai`: every field is honoured, refused by name, or ignored because it changes no token. What only a server that
stores responses can do is refused; `store` left out is taken, for every client leaves it out, and the answer says that it was not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import ChatRequest, Defaults
from pilothouse.protocols import options as sampling
from pilothouse.protocols.fields import Fields, shown, spelled
from pilothouse.protocols.limits import Limits, at_most, short
from pilothouse.protocols.options import options, strings
from pilothouse.protocols.response_items import conversation
from pilothouse.protocols.schema import guide
from pilothouse.protocols.tools import tools

IGNORED = ("prompt_cache_options", "prompt_cache_retention")
LOGPROBS = "message.output_text.logprobs"
"""What `include` may ask for."""
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512  # entries of `metadata`, and the characters of each

NAMES = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}
"""What this wire calls the fields of a chat."""

_STATELESS = "nothing is stored here, send the whole conversation as input"
REFUSED = {name: reason.replace("response_format", "text.format") for name, reason in sampling.REFUSED.items()} | {
    "context_management": "no conversation is shortened here",
    "conversation": _STATELESS,
    "max_completion_tokens": "send max_output_tokens",
    "max_tokens": "send max_output_tokens",
    "max_tool_calls": "it counts calls of OpenAI's own tools, and none of them runs here",
    "moderation": "there is no moderation model here",
    "n": "a response is one answer",
    "previous_response_id": _STATELESS,
    "prompt": "no prompts are stored here, send instructions and input",
    "reasoning": "this model does not reason apart from its answer",
}
HINTS = {name: hint.replace("max_tokens", "max_output_tokens") for name, hint in sampling.HINTS.items() if hint != "send n"} | {
    "functions": "send tools",
    "logprobs": f'send include with "{LOGPROBS}"',
    "messages": "send input",
    "reasoning_effort": "this model does not reason apart from its answer",
    "response_format": "send text with a format",
}


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """One request, and what its response repeats of it."""

    request: ChatRequest
    model: str | None
    stream: bool
    said: Mapping[str, Any]

    def options(self, defaults: Defaults) -> dict[str, Any]:
        """The options in force, as a response lists them. `defaults` are the model's."""
        asked = self.request
        return {
            **self.said,
            "background": False,
            "max_output_tokens": asked.max_tokens,
            "max_tool_calls": None,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": defaults.temperature if asked.temperature is None else asked.temperature,
            "top_logprobs": asked.logprobs or 0,
            "top_p": defaults.top_p if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "user": asked.user,
        }


def response(body: Any, limits: Limits) -> ResponseRequest:
    """A `/v1/responses` body. Raises `InvalidRequest` that names the field."""
    fields = Fields(body)
    model, stream = fields.text("model"), _streaming(fields)
    fields.refuse(REFUSED)
    _stateless(fields)
    instructions, metadata = fields.text("instructions"), _metadata(fields.object("metadata"))
    tags = {name: fields.text(name) for name in ("prompt_cache_key", "safety_identifier")}
    for name, tag in tags.items():
        short(name, tag)
    turns = conversation(fields.need("input"), instructions, limits)
    text = fields.object("text") or Fields({}, "text")
    text.refuse({"verbosity": "ask for it in a message"})
    form = guide(text, limits, "format", flat=True)
    text.finish()
    given, choice = tools(fields, limits, flat=True)
    longest, logprobs = fields.integer("max_output_tokens"), _logprobs(fields)
    common = options(fields, limits) | {"max_tokens": longest}
    fields.finish(IGNORED, HINTS)
    request = ChatRequest(messages=turns, logprobs=logprobs, guide=form, tools=given, tool_choice=choice, **common)
    limits.check(request, NAMES)
    said = {"instructions": instructions, "metadata": metadata, **tags, **_repeated(body)}
    return ResponseRequest(request, model, stream, said)


@contextmanager
def own_names() -> Iterator[None]:
    """Whoever refuses a request within speaks of a chat's fields; its client reads this wire's names."""
    try:
        yield
    except InvalidRequest as error:
        raise error.renamed(NAMES | {"logprobs": "include"}) from None  # their number was judged: it is all of them that are refused


def _streaming(fields: Fields) -> bool:
    stream = fields.boolean("stream") or False
    choices = fields.object("stream_options")
    if choices is not None:
        if not stream:
            raise InvalidRequest("stream_options is only allowed with stream true", field="stream_options")
        choices.boolean("include_obfuscation")  # padding against onlookers: OpenAI's own, never sent here
        choices.finish()
    return stream


def _stateless(fields: Fields) -> None:
    """Fields of which one value asks for nothing that is not done here, and is taken."""
    for name, reason in (("background", "an answer is given to whoever waits for it"), ("store", "nothing is stored here, leave it out")):
        if fields.boolean(name):
            raise Unsupported(f"{name} true is not supported: {reason}", field=name)
    if fields.choice("truncation", "disabled", "auto") == "auto":
        raise Unsupported("truncation auto is not supported: leave out the oldest of input", field="truncation")
    fields.choice("service_tier", "auto", "default")


def _metadata(fields: Fields | None) -> dict[str, str]:
    """The client's own notes, which its response repeats."""
    if fields is None:
        return {}
    notes = fields.left()
    at_most("metadata", len(notes), MAX_METADATA, "entries")
    for key, value in notes.items():
        place = fields.path(spelled(key))
        if len(Fields.a_text(key, "metadata")) > MAX_KEY or len(Fields.a_text(value, place)) > MAX_VALUE:
            raise InvalidRequest(f"{place} is too long: a key has at most {MAX_KEY} characters, a value {MAX_VALUE}", field=place)
    return notes


def _logprobs(fields: Fields) -> int | None:
    wanted, top = strings(fields.items("include"), "include"), fields.integer("top_logprobs")
    for index, name in enumerate(wanted):
        if name != LOGPROBS:
            path = f"include[{index}]"
            raise Unsupported(f"{path} {shown(name)} is not supported: of what can be included there is {LOGPROBS} here", field=path)
    if top is not None and not wanted:
        raise InvalidRequest(f'top_logprobs is only allowed with include ["{LOGPROBS}"]', field="top_logprobs")
    return (top or 0) if wanted else None


def _repeated(body: Mapping[str, Any]) -> dict[str, Any]:
    """What was judged and is repeated as it came, with its defaults."""
    form = (body.get("text") or {}).get("format") or {"type": "text"}
    named_form = {"name": None, "description": None, "schema": None, "strict": None} if form["type"] == "json_schema" else {}
    alike = body.get("parallel_tool_calls")
    return {
        "text": {"format": named_form | form},
        "tools": [{"description": None, "parameters": None} | tool | {"strict": False} for tool in body.get("tools") or []],
        "tool_choice": body.get("tool_choice") or "auto",
        "parallel_tool_calls": True if alike is None else alike,
    }
