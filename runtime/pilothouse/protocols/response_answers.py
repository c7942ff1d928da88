"""A `response` object as OpenAI's clients parse it: whole, or as it stands at one moment of its stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.messages import Answer, Choice, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols.logprobs import chat_logprobs


@dataclass(frozen=True, slots=True)
class Head:
    """What a response says from its first moment to its last: its id (`resp_...`), when it was asked for (seconds since 1970), the model, and
    the options in force."""

    id: str
    created: int
    model: str
    options: Mapping[str, Any]

    def item_id(self, kind: str, index: int = 0) -> str:
        """The id of one item of the output: `msg` for the message, `fc` for the calls, numbered."""
        return f"{kind}_{self.id.removeprefix('resp_')}{index:02}"


def response(head: Head, status: str, output: Sequence[Mapping[str, Any]] = (), **known: Any) -> dict[str, Any]:
    """The object in `status`; what is not `known` yet is null."""
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "status": status,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": head.model,
        "output": list(output),
        "usage": None,
        **head.options,
        **known,
    }


def answer(head: Head, completed: int, told: Answer) -> dict[str, Any]:
    """The response to one choice that ended at `completed`, in seconds since 1970."""
    (choice,) = told.choices
    return ended(head, completed, choice, told.usage)


def ended(head: Head, completed: int, choice: Choice, counts: Usage) -> dict[str, Any]:
    """A response that came to its end, or to the end of its tokens."""
    whole = choice.finish_reason is not FinishReason.LENGTH
    ending = {"completed_at": completed} if whole else {"incomplete_details": {"reason": "max_output_tokens"}}
    return response(head, "completed" if whole else "incomplete", output(head, choice), usage=usage(counts), **ending)


def usage(counts: Usage) -> dict[str, Any]:
    """`usage`, in tokens. Nothing is written to a cache that anybody pays for."""
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.total_tokens,
    }


def output(head: Head, choice: Choice) -> list[dict[str, Any]]:
    """The items of an answer: its text, which may be empty where nothing was called, then its calls."""
    items = [call(head, index, one) for index, one in enumerate(choice.tool_calls)]
    if not choice.text and items:
        return items
    status = "incomplete" if choice.finish_reason is FinishReason.LENGTH else "completed"
    return [message(head, status, [part(choice.text, choice.logprobs)]), *items]


def message(head: Head, status: str, content: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The item that holds the text."""
    return {"id": head.item_id("msg"), "type": "message", "status": status, "role": "assistant", "content": list(content)}


def part(text: str = "", logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """The one part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": scored(logprobs), "text": text}


def scored(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The entry of each token."""
    return list(chat_logprobs(logprobs)["content"])


def call(head: Head, index: int, one: ToolCall, status: str = "completed") -> dict[str, Any]:
    """The item of one call; while it is in progress its arguments are still to come."""
    return {
        "id": head.item_id("fc", index),
        "type": "function_call",
        "status": status,
        "arguments": one.arguments if status == "completed" else "",
        "call_id": one.id,
        "name": one.name,
    }
