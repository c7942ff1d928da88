"""Log-probabilities in OpenAI's two shapes: a list of objects for chats, parallel lists for completions."""

from collections.abc import Sequence
from typing import Any

from pilothouse.messages import TokenLogprob

FLOOR = -9999.0
"""OpenAI's word for "as good as never": JSON has no minus infinity."""


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat answer or chunk."""
    return {"content": [_entry(t) | {"top_logprobs": [_entry(other) for other in t.top]} for t in tokens], "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion; `offset` is the place of the first token in the choice's text, in characters."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [t.token for t in tokens],
        "token_logprobs": [max(t.logprob, FLOOR) for t in tokens],
        "top_logprobs": [_top(t) for t in tokens],
        "text_offset": offsets,
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "bytes": list(token.raw), "logprob": max(token.logprob, FLOOR)}


def _top(token: TokenLogprob) -> dict[str, float]:
    """The likeliest by text, and the chosen one: two tokens may share a text, then the likelier stands."""
    top: dict[str, float] = {}
    for other in (*token.top, token):
        top.setdefault(other.token, max(other.logprob, FLOOR))
    return top
