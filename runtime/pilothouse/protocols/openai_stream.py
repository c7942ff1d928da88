"""OpenAI's streams. A token's event is on the hot path of every user: the constant parts are rendered once per stream, and only the
JSON of the new text is spliced in (about a microsecond)."""

from typing import Any

import orjson

from pilothouse.messages import Chunk, Usage
from pilothouse.protocols.failures import openai_error
from pilothouse.protocols.logprobs import chat_logprobs, completion_logprobs
from pilothouse.protocols.openai_answers import tool_call, usage
from pilothouse.protocols.sse import END, HEAD, event


class _Stream:
    """What both kinds share: head and tail of an event, the usage event and the error event.

    With `include_usage` every event has `"usage": null` but the last, as OpenAI documents it.
    """

    object: str

    def __init__(self, answer_id: str, created: int, model: str, include_usage: bool = False) -> None:
        fixed = orjson.dumps({"id": answer_id, "object": self.object, "created": created, "model": model})
        self._head = HEAD + fixed[:-1] + b',"choices":['
        self._tail = (b'],"usage":null}' if include_usage else b"]}") + END
        self._usage_head = self._head + b'],"usage":'
        self.include_usage = include_usage

    def usage(self, counts: Usage) -> bytes:
        """The event after all choices ended: no choices, the counts of all of them. b"" unless it was asked for."""
        return self._usage_head + orjson.dumps(usage(counts)) + b"}" + END if self.include_usage else b""

    @staticmethod
    def error(error: BaseException) -> bytes:
        """The event for an error after the first byte; `sse.DONE` follows it."""
        return event(orjson.dumps(openai_error(error)))


class ChatStream(_Stream):
    """One `/v1/chat/completions` stream: `first` for each choice, `chunk`s in the order they come, `usage`, then `sse.DONE`."""

    object = "chat.completion.chunk"

    def __init__(self, answer_id: str, created: int, model: str, include_usage: bool = False) -> None:
        super().__init__(answer_id, created, model, include_usage)
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._text_heads: dict[int, bytes] = {}
        self._calls: dict[int, int] = {}

    def first(self, index: int = 0) -> bytes:
        """The event that opens a choice: the role, before any text."""
        return self._event(index, {"role": "assistant", "content": ""})

    def chunk(self, chunk: Chunk, _row: int = 0) -> bytes:
        """The events of one chunk: its text, its tool calls, its end, each its own event; b"" when it says nothing new.

        The end is an event of its own with an empty delta: some clients drop text that comes with a finish_reason.
        """
        data = b""
        if chunk.logprobs:
            data = self._event(chunk.index, {"content": chunk.text}, logprobs=chat_logprobs(chunk.logprobs))
        elif chunk.text:
            data = (self._text_heads.get(chunk.index) or self._text_head(chunk.index)) + orjson.dumps(chunk.text) + self._text_tail
        for call in chunk.tool_calls:
            place = self._calls.get(chunk.index, 0)
            self._calls[chunk.index] = place + 1
            data += self._event(chunk.index, {"tool_calls": [{"index": place} | tool_call(call)]})
        if chunk.finish_reason is not None:
            data += self._event(chunk.index, {}, finish_reason=chunk.finish_reason.value)
        return data

    def _text_head(self, index: int) -> bytes:
        head = self._text_heads[index] = self._head + b'{"index":%d,"delta":{"content":' % index
        return head

    def _event(self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + orjson.dumps(choice) + self._tail


class CompletionStream(_Stream):
    """One `/v1/completions` stream of `n` choices for each prompt; there is no opening event, the first has text."""

    object = "text_completion"

    def __init__(self, answer_id: str, created: int, model: str, include_usage: bool = False, n: int = 1) -> None:
        super().__init__(answer_id, created, model, include_usage)
        self._n = n
        self._text_tail = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._offsets: dict[int, int] = {}

    def chunk(self, chunk: Chunk, row: int = 0) -> bytes:
        """The event of one chunk of prompt number `row`; b"" when it says nothing new."""
        index = row * self._n + chunk.index
        if not chunk.logprobs and chunk.finish_reason is None:
            if not chunk.text:
                return b""
            return self._head + b'{"index":%d,"text":' % index + orjson.dumps(chunk.text) + self._text_tail
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(t.token) for t in chunk.logprobs)
        choice = {
            "index": index,
            "text": chunk.text,
            "logprobs": completion_logprobs(chunk.logprobs, offset) if chunk.logprobs else None,
            "finish_reason": None if chunk.finish_reason is None else chunk.finish_reason.value,
        }
        return self._head + orjson.dumps(choice) + self._tail
