"""What callers are told when something is wrong: D10, D11, E10, E11."""

import asyncio
import json
from typing import Any

from mlserver.grpc import dataplane_pb2 as pb

from record import calls
from record.case import Seen, case
from record.sides import Ours, Side, Stock


def leaks(words: str) -> str:
    """What an error's text gives away."""
    found = [name for name, sign in (("the traceback", "Traceback"), ("the exception's words", "told to break")) if sign in words]
    return " and ".join(found) or "nothing of the exception"


@case(
    "D10",
    "Any exception's traceback or words go to the client; debug is on by default",
    {
        "REST, by default": ("500 text/plain: the traceback and the exception's words", '500 {"error"}: nothing of the exception'),
        "REST, debug off": ("500 text/plain: nothing of the exception", '500 {"error"}: nothing of the exception'),
        "gRPC": ("INTERNAL: the exception's words", "INTERNAL: nothing of the exception"),
    },
)
async def d10(side: Side) -> Seen:
    host = await side.plain()
    quiet = await side.second() if isinstance(side, Stock) else host
    replies = []
    for at in (host, quiet):
        replies.append(await calls.post(at, calls.infer(), calls.body(calls.BREAKS)))
        await at.until(at.ready)
    async with calls.stubs(host) as stub:
        code, words = await calls.failed(stub.ModelInfer(calls.message(calls.BREAKS)))
    said = [f"{calls.form(reply)}: {leaks(reply.text)}" for reply in replies]
    return {"REST, by default": said[0], "REST, debug off": said[1], "gRPC": f"{code}: {leaks(words)}"}


@case(
    "D11",
    "Errors have three shapes, none of them the protocol's, and shapes are not checked",
    {
        "malformed JSON": ('422 {"detail"}', '400 {"error"}'),
        "inputs is missing": ('422 {"detail"}', '400 {"error"}'),
        "a datatype that is none": ('422 {"detail"}', '400 {"error"}'),
        "shape [-5, 99999999999], one value": ("200", '400 {"error"}'),
        "a body that is no gzip": ('400 {"detail"}', '400 {"error"}'),
        "an unknown path": ('404 {"detail"}', '404 {"error"}'),
        "/v2/": ("307", "200"),
        "gRPC, no room": ("UNKNOWN", "RESOURCE_EXHAUSTED"),
        "gRPC, ModelReady of an unknown model": ("UNKNOWN", "NOT_FOUND"),
    },
)
async def d11(side: Side) -> Seen:
    host = await side.plain()
    wrong = calls.body()
    datatype, shape = json.loads(json.dumps(wrong)), json.loads(json.dumps(wrong))
    datatype["inputs"][0]["datatype"] = "STRING"
    shape["inputs"][0]["shape"] = [-5, 99999999999]
    bodies: dict[str, Any] = {
        "malformed JSON": b'{"inputs": [',
        "inputs is missing": {},
        "a datatype that is none": datatype,
        "shape [-5, 99999999999], one value": shape,
    }
    seen = {tried: calls.form(await calls.post(host, calls.infer(), content)) for tried, content in bodies.items()}
    squeezed = {"Content-Encoding": "gzip"}
    seen["a body that is no gzip"] = calls.form(await calls.post(host, calls.infer(), b"no gzip", headers=squeezed))
    async with calls.client(host) as client:
        seen["an unknown path"] = calls.form(await client.get("/v2/nowhere"))
        seen["/v2/"] = calls.form(await client.get("/v2/")).partition(" ")[0]
    seen["gRPC, no room"] = await no_room(side)
    async with calls.stubs(host) as stub:
        seen["gRPC, ModelReady of an unknown model"] = await calls.code(stub.ModelReady(pb.ModelReadyRequest(name="nobody")))
    return seen


async def no_room(side: Side) -> str:
    """The status of a gRPC call that the runtime, or the server, has no room for."""
    if isinstance(side, Ours):
        host = await side.narrow()
        async with calls.stubs(host) as stub:
            said = await asyncio.gather(*[calls.code(stub.ModelInfer(calls.message())) for _ in range(8)])
        return ", ".join(sorted(set(said) - {"OK"}))
    async with calls.stubs(await side.plain()) as stub:
        return await calls.code(stub.ModelInfer(calls.message("busy")))


@case(
    "E10",
    "`generate` is another name for `infer`, and refuses the body that Triton's generate takes",
    {'{"text_input": "hello"} to /generate': ('422 {"detail"}', "200")},
)
async def e10(side: Side) -> Seen:
    reply = await calls.post(await side.plain(), calls.infer(verb="generate"), {"text_input": "hello"})
    return {'{"text_input": "hello"} to /generate': calls.form(reply)}


@case(
    "E11",
    "An exception in the middle of a stream cuts the connection: no error, no end",
    {"the stream": ("some events, then the connection is cut", "some events, then an error event, and a proper end")},
)
async def e11(side: Side) -> Seen:
    return {"the stream": await broken_stream(side, calls.infer(verb="infer_stream"), calls.body(calls.BREAKS))}


async def broken_stream(side: Side, path: str, content: Any) -> str:
    """How a stream goes that breaks after some events."""
    pieces: list[bytes] = []
    how = await calls.collect(await side.plain(), path, content, into=pieces)
    events = calls.events(b"".join(pieces).decode())
    error = bool(events) and isinstance(events[-1], dict) and "error" in events[-1]
    began = "some events" if len(events) > 1 else "nothing"
    if how == "cut":
        return f"{began}, then the connection is cut"
    return f"{began}, then {'an error event, and ' if error else ''}a proper end" if how == "ended" else how
