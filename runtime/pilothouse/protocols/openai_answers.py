"""Unary answers and the model list as OpenAI's clients parse them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.messages import Answer, Choice, ToolCall, Usage
from pilothouse.protocols.logprobs import chat_logprobs, completion_logprobs


def usage(counts: Usage) -> dict[str, Any]:
    """`usage`, in tokens."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def total(counts: Sequence[Usage]) -> Usage:
    """The usage of several requests together."""
    return Usage(
        prompt_tokens=sum(u.prompt_tokens for u in counts),
        completion_tokens=sum(u.completion_tokens for u in counts),
        cached_tokens=sum(u.cached_tokens for u in counts),
    )


def tool_call(call: ToolCall) -> dict[str, Any]:
    """One entry of `tool_calls`."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def chat_answer(answer_id: str, created: int, model: str, answer: Answer) -> dict[str, Any]:
    """A `chat.completion`; `created` in seconds since 1970. `logprobs` is null where none were asked for."""
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_chat_choice(choice) for choice in answer.choices],
        "usage": usage(answer.usage),
    }


def _chat_choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": [tool_call(c) for c in choice.tool_calls]}
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(choice.logprobs) if choice.logprobs else None,
        "finish_reason": choice.finish_reason.value,
    }


def completion_answer(answer_id: str, created: int, model: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """A `text_completion` of one answer for each prompt, their choices numbered through."""
    choices = [choice for answer in answers for choice in answer.choices]
    return {
        "id": answer_id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "text": choice.text,
                "logprobs": completion_logprobs(choice.logprobs) if choice.logprobs else None,
                "finish_reason": choice.finish_reason.value,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage(total([answer.usage for answer in answers])),
    }


def model_card(name: str, created: int, description: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One model; what only this server says of it stands under the one key `pilothouse`, so that OpenAI's own keys stay OpenAI's."""
    card: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "pilothouse"}
    return card | ({"pilothouse": dict(description)} if description else {})


def models_list(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`/v1/models`."""
    return {"object": "list", "data": [dict(card) for card in cards]}
