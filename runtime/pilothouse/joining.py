"""Chunks of a stream as one answer: the same pieces that a streaming client gets, put together."""

from collections.abc import Iterable

from pilothouse.messages import Answer, Choice, Chunk, FinishReason, TokenLogprob, ToolCall, Usage


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
