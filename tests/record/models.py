"""The two ways of wrapping a Phi-3 model, as the stock MLflow runtime serves them: E9."""

import json
from typing import Any

from pilothouse.models.pocket.answers import SPAIN
from record import calls
from record.case import Seen, case
from record.hosts import Host
from record.sides import MLFLOW, Ours, Side, Stock, packaged

MESSAGES = [{"role": "user", "content": SPAIN[0]}]
PROMPT = f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n"


async def served(side: Side, kind: str) -> Host:
    """The pocket model as MLflow logged it that way, under each side's MLflow runtime."""
    model = packaged(kind, side.models)
    if isinstance(side, Ours):
        return await side.start(kind, str(model), model_name=kind)
    assert isinstance(side, Stock)
    return await side.start(kind, {kind: {"implementation": MLFLOW, "parameters": {"uri": str(model)}}}, parallel_workers=0)


def said(text: str, form: str) -> str:
    """The known answer, or the form of whatever came instead."""
    return "the known answer" if SPAIN[1] in text else form


async def asked(host: Host, path: str, content: dict[str, Any]) -> str:
    reply = await calls.post(host, path, content, timeout=60)
    return said(json.dumps(reply.json()) if "json" in reply.headers["content-type"] else reply.text, calls.form(reply))


def tensor(name: str, value: str, **parameters: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value], "parameters": {"content_type": "str"}}],
        "parameters": parameters,
    }


async def chats(side: Side) -> Seen:
    """The chat model's ways."""
    host = await served(side, "chat")
    chat = json.dumps(MESSAGES)
    plain = tensor("messages", chat)
    seen = {
        "chat: V2, messages as JSON": await asked(host, "/v2/models/chat/infer", plain),
        "chat: V2, the same as a column of pandas": await asked(host, "/v2/models/chat/infer", pandas(chat) if side.stock else plain),
        'chat: /invocations, {"messages": ...}': await asked(host, "/invocations", {"messages": MESSAGES, "temperature": 0}),
        "chat: /v1/chat/completions": await asked(host, "/v1/chat/completions", {"messages": MESSAGES, "temperature": 0}),
    }
    host.end()
    return seen


def pandas(chat: str) -> dict[str, Any]:
    """The chat in the one form that reaches the model under stock."""
    column = {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [chat], "parameters": {"content_type": "pd_json"}}
    return {"inputs": [column], "parameters": {"content_type": "pd"}}


async def onnx(side: Side) -> Seen:
    """The ONNX pyfunc's ways."""
    host = await served(side, "onnx")
    infer, stream = "/v2/models/onnx/infer", "/v2/models/onnx/infer_stream"
    short = await calls.post(host, infer, tensor("prompt", PROMPT, max_tokens=3), timeout=60)
    pieces: list[bytes] = []
    await calls.collect(host, stream, tensor("prompt", PROMPT), into=pieces)
    count = len(calls.events(b"".join(pieces).decode()))
    seen = {
        "ONNX pyfunc: V2, prompt": await asked(host, infer, tensor("prompt", PROMPT)),
        "ONNX pyfunc: V2, prompt, max_tokens 3": "ignored: the whole answer" if SPAIN[1] in calls.answer(short) else "three tokens",
        "ONNX pyfunc: V2, infer_stream": "1 event" if count == 1 else "an event a token" if count > 8 else f"{count} events",
        'ONNX pyfunc: /invocations, {"inputs": ...}': await asked(host, "/invocations", {"inputs": {"prompt": [PROMPT]}}),
        "ONNX pyfunc: /v1/chat/completions": await asked(host, "/v1/chat/completions", {"messages": MESSAGES, "temperature": 0}),
    }
    host.end()
    return seen


@case(
    "E9",
    "The stock MLflow runtime can't serve the chat model at all, and of the ONNX pyfunc neither streams nor options nor chats",
    {
        "chat: V2, messages as JSON": ("500 text/plain", "the known answer"),
        "chat: V2, the same as a column of pandas": ("500 text/plain", "the known answer"),
        'chat: /invocations, {"messages": ...}': ("500 text/plain", "the known answer"),
        "chat: /v1/chat/completions": ('404 {"detail"}', "the known answer"),
        "ONNX pyfunc: V2, prompt": ("the known answer", "the known answer"),
        "ONNX pyfunc: V2, prompt, max_tokens 3": ("ignored: the whole answer", "three tokens"),
        "ONNX pyfunc: V2, infer_stream": ("1 event", "an event a token"),
        'ONNX pyfunc: /invocations, {"inputs": ...}': ("the known answer", "the known answer"),
        "ONNX pyfunc: /v1/chat/completions": ('404 {"detail"}', "the known answer"),
    },
)
async def e9(side: Side) -> Seen:
    return await chats(side) | await onnx(side)
