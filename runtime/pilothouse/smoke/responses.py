"""The same question over OpenAI's `/v1/responses`: a chat under other names, whole and streamed."""

from typing import Any

from pilothouse.smoke.answers import Question, Told, demand, ok, told
from pilothouse.smoke.client import Client

PATH = "/v1/responses"
NAMES = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
"""What this wire calls a chat's fields."""

_ENDS = {"completed": "stop", "incomplete": "length"}
_ORDER = ("created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done")
"""The events of a message, beside its deltas and the last one."""


def asks(question: Question) -> bool:
    """Whether this wire can say it: it has one answer to a chat, and no speakers' names."""
    return question.prompt is None and "n" not in question.sampling and not any("name" in message for message in question.messages)


def whole(client: Client, model: str, question: Question) -> Told:
    return _told(ok(client, PATH, {"model": model, **_body(question)}))


def streamed(client: Client, model: str, question: Question) -> Told:
    """The last event's response, which the stream's promises are held to: order, numbers, and deltas that join to its text."""
    events = [event.json for event in client.events(PATH, {"model": model, **_body(question), "stream": True})]
    kinds = [event["type"].removeprefix("response.") for event in events]
    demand([event["sequence_number"] for event in events] == list(range(len(events))), "the stream's events are not numbered in order")
    demand(kinds[-1] in _ENDS, f"the stream ended with {events[-1]}")
    order = tuple(kind for kind in kinds[:-1] if kind != "output_text.delta")
    demand(order == _ORDER, f"the stream's events came as {order}")
    answer = events[-1]["response"]
    demand(all(event["response"]["id"] == answer["id"] for event in events if "response" in event), "the stream has two ids")
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    demand(deltas == answer["output"][0]["content"][0]["text"], "the stream's deltas are not its text")
    return _told(answer)


def _told(answer: Any) -> Told:
    demand(answer["object"] == "response" and answer["status"] in _ENDS, f"no whole response: {answer}")
    (message,) = answer["output"]
    (part,) = message["content"]
    counts = answer["usage"]
    usage = {"prompt_tokens": counts["input_tokens"], "completion_tokens": counts["output_tokens"], "total_tokens": counts["total_tokens"]}
    return told([(part["text"], _ENDS[answer["status"]])], usage)


def _body(question: Question) -> dict[str, Any]:
    """The question in this wire's words."""
    body: dict[str, Any] = {"input": [_item(message) for message in question.messages], **question.sampling}
    longest = [body.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in body]
    if longest:
        body["max_output_tokens"] = longest[0]
    if "response_format" in body:
        form = body.pop("response_format")
        body["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
    return body


def _item(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = [part | {"type": "input_text"} if part["type"] == "text" else part for part in content]
    return message if content is None else message | {"content": content}
