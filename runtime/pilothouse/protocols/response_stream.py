"""The stream of one `/v1/responses`. A token's event is on the hot path of every user: its constant parts are rendered once, and only its
number and the JSON of the new text are spliced in."""

from typing import Any

import orjson

from pilothouse.errors import client_message
from pilothouse.messages import Choice, Chunk, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols.failures import openai_error
from pilothouse.protocols.response_answers import Head, call, ended, message, part, response, scored
from pilothouse.protocols.sse import END, event

DELTA = "response.output_text.delta"
FAILED = "server_error"
"""OpenAI's closed list of codes for a failed response has no better one; the event before it says which of ours it was."""


class ResponseStream:
    """`opening`, `chunk`s in the order they come, then `closing` or `error`. Events are numbered from 0; the last one says how the response
    ended, and nothing follows it."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._place = {"item_id": head.item_id("msg"), "output_index": 0, "content_index": 0}
        fixed = orjson.dumps({"type": DELTA, **self._place})
        self._delta_head = f"event: {DELTA}\ndata: ".encode() + fixed[:-1] + b',"sequence_number":'
        self._count = 0
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._told = 0  # of the logprobs
        self._open = False
        self._calls: tuple[ToolCall, ...] = ()
        self._reason = FinishReason.STOP

    def opening(self) -> bytes:
        """The response is there, and being answered."""
        begun = response(self._head, "in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def chunk(self, chunk: Chunk) -> bytes:
        """The event of one chunk's text, the message's own before the first; b"" when it says nothing new.

        Log-probabilities wait for a text: until then they may be those of a call, which has none.
        """
        self._logprobs += chunk.logprobs
        self._calls += chunk.tool_calls
        self._reason = chunk.finish_reason or self._reason
        if not chunk.text and not (self._open and chunk.logprobs):
            return b""
        opened = b"" if self._open else self._opened()
        self._texts.append(chunk.text)
        return opened + self._delta(chunk.text)

    def closing(self, counts: Usage, completed: int) -> bytes:
        """The end of the message, each call as a whole, and the response as the unary answer has it."""
        choice = Choice(0, "".join(self._texts), self._reason, tuple(self._logprobs), self._calls)
        whole = ended(self._head, completed, choice, counts)
        data = b""
        if not self._open and not self._calls:
            data = self._opened()
        if self._open:
            data += self._message_done(whole["output"][0])
        for index, one in enumerate(self._calls):
            data += self._called(index, one)
        return data + self._event(f"response.{whole['status']}", response=whole)

    def error(self, error: BaseException) -> bytes:
        """The events for an error after the first byte. OpenAI documents the fields of the first beside its type, and sends them as an object;
        clients raise by that."""
        told = openai_error(error)["error"]
        flat = {name: told[name] for name in ("code", "message", "param")}
        failed = response(self._head, "failed", error={"code": FAILED, "message": client_message(error)})
        return self._event("error", **flat, error=told) + self._event("response.failed", response=failed)

    # ------------------------------------------------------------------------------------------------------------------------

    def _opened(self) -> bytes:
        self._open = True
        return self._event("response.output_item.added", output_index=0, item=message(self._head, "in_progress")) + self._event(
            "response.content_part.added", **self._place, part=part()
        )

    def _delta(self, text: str) -> bytes:
        new, self._told = self._logprobs[self._told :], len(self._logprobs)
        number, self._count = self._count, self._count + 1
        scores = orjson.dumps(scored(new)) if new else b"[]"
        return self._delta_head + b'%d,"delta":%b,"logprobs":%b}' % (number, orjson.dumps(text), scores) + END

    def _message_done(self, item: dict[str, Any]) -> bytes:
        (whole,) = item["content"]
        return (
            self._event("response.output_text.done", **self._place, text=whole["text"], logprobs=whole["logprobs"])
            + self._event("response.content_part.done", **self._place, part=whole)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _called(self, index: int, one: ToolCall) -> bytes:
        """A call is known only once it is whole, so its arguments come in one piece."""
        place = {"item_id": self._head.item_id("fc", index), "output_index": index + self._open}
        return (
            self._event("response.output_item.added", output_index=place["output_index"], item=call(self._head, index, one, "in_progress"))
            + self._event("response.function_call_arguments.delta", **place, delta=one.arguments)
            + self._event("response.function_call_arguments.done", **place, arguments=one.arguments)
            + self._event("response.output_item.done", output_index=place["output_index"], item=call(self._head, index, one))
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._count = self._count, self._count + 1
        return event(orjson.dumps({"type": kind, "sequence_number": number, **fields}), kind.encode())
