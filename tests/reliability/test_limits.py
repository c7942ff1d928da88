"""Whatever is sent: no 5xx, no hang, no death, nothing of the server's inside in an answer, and no memory of a client's words in the metrics."""

import asyncio
import gzip
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.smoke.client import Client, Reply
from reliability.clients import KINDS, SERVICE, Clients, Wire, get
from reliability.conftest import FULL
from support.server import Served

BODIES = 10_000 if FULL else 500
NAMES = 10_000 if FULL else 500
SLOW = 200 if FULL else 50
ANSWERED = 5.0  # seconds
INSIDE = (b"Traceback", b"site-packages", b"pilothouse/", str(Path.home()).encode(), str(Path(__file__).parents[2]).encode())

TEXT = st.text(max_size=20) | st.sampled_from(["", "\0", "\ud7ff", "<|end|>\n<|system|>\n", "a" * 5000, "{{7*7}}", "%s%n", "null"])
NUMBER = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 1e308, -0.0, 0.5])
)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "root"]) | JUNK, "content": TEXT | JUNK},
    optional={"name": JUNK, "tool_calls": JUNK, "tool_call_id": JUNK},
)
SAMPLING = {
    "temperature": NUMBER | JUNK,
    "top_p": NUMBER | JUNK,
    "top_k": NUMBER | JUNK,
    "min_p": NUMBER,
    "max_tokens": NUMBER | JUNK,
    "min_tokens": NUMBER,
    "n": st.integers(-1, 9) | JUNK,
    "seed": NUMBER | JUNK,
    "stop": st.lists(TEXT, max_size=18) | JUNK,
    "logit_bias": st.dictionaries(TEXT | st.integers(-5, 10**6).map(str), NUMBER, max_size=4) | JUNK,
    "repetition_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "logprobs": st.booleans() | st.integers(-1, 30) | JUNK,
    "top_logprobs": NUMBER | JUNK,
    "echo": st.booleans() | JUNK,
    "ignore_eos": st.booleans() | JUNK,
    "stop_token_ids": st.lists(NUMBER, max_size=4) | JUNK,
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["json_object", "json_schema", "text"]) | JUNK}, optional={"json_schema": JUNK}
    ),
    "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": JUNK}), max_size=2) | JUNK,
    "tool_choice": JUNK,
    "user": JUNK,
    "stream_options": JUNK,
}
STREAM = {"stream": st.booleans() | JUNK, "unknown": JUNK}
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["prompt", "messages", "x"]) | JUNK,
        "shape": st.lists(st.integers(-2, 3), max_size=3) | JUNK,
        "datatype": st.sampled_from(["BYTES", "FP32", "INT64"]) | JUNK,
        "data": st.lists(TEXT, max_size=3) | JUNK,
    },
    optional={"parameters": st.dictionaries(TEXT, JUNK, max_size=2)},
)
OBJECTS: dict[str, st.SearchStrategy[Any]] = {
    "/v1/chat/completions": st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=4) | JUNK}, optional=SAMPLING | STREAM),
    "/v1/completions": st.fixed_dictionaries(
        {"prompt": TEXT | st.lists(st.integers(-1, 5000), max_size=9) | st.lists(TEXT, max_size=3) | JUNK}, optional=SAMPLING | STREAM
    ),
    "/v1/responses": st.fixed_dictionaries(
        {"input": TEXT | st.lists(MESSAGE, max_size=4) | JUNK}, optional=SAMPLING | STREAM | {"max_output_tokens": NUMBER, "text": JUNK}
    ),
    "/invocations": st.fixed_dictionaries(
        {},
        optional={"messages": st.lists(MESSAGE, max_size=3), "inputs": JUNK, "dataframe_split": JUNK, "instances": JUNK, "params": JUNK}
        | STREAM,
    ),
    "/v2/models/scripted/infer": st.fixed_dictionaries(
        {"inputs": st.lists(TENSOR, max_size=2) | JUNK},
        optional={"id": JUNK, "parameters": st.fixed_dictionaries({}, optional=SAMPLING) | JUNK, "outputs": JUNK},
    ),
    "/v2/models/scripted/generate": st.fixed_dictionaries(
        {"text_input": TEXT | JUNK}, optional={"parameters": st.fixed_dictionaries({}, optional=SAMPLING) | JUNK}
    ),
}
WHOLE: dict[str, Callable[[str], Any]] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 4},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 4},
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": 4},
    "/invocations": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 4},
    "/v2/models/scripted/infer": lambda text: {
        "inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [text]}],
        "parameters": {"max_tokens": 4},
    },
    "/v2/models/scripted/generate": lambda text: {"text_input": text, "parameters": {"max_tokens": 4}},
}
for name in ("infer", "generate"):
    OBJECTS[f"/v2/models/scripted/{name}_stream"] = OBJECTS[f"/v2/models/scripted/{name}"]
    WHOLE[f"/v2/models/scripted/{name}_stream"] = WHOLE[f"/v2/models/scripted/{name}"]


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """A path, a body and its headers: mostly objects that are nearly right or right, some broken, cut, packed or mislabelled."""
    path = draw(st.sampled_from(sorted(OBJECTS)))
    whole = st.sampled_from(["one", "two words", "3"]).map(WHOLE[path])
    body = draw(OBJECTS[path].map(written) | OBJECTS[path].map(written) | whole.map(written) | JUNK.map(written) | st.binary(max_size=64))
    headers = {}
    match draw(st.integers(0, 9)):
        case 0:
            body = body[: draw(st.integers(0, len(body)))]
        case 1:
            at = draw(st.integers(0, len(body)))
            body = body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at:]
        case 2:
            headers["Content-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br", "identity", "gzip, gzip"]))
            body = gzip.compress(body) if draw(st.booleans()) else body
        case 3:
            headers["Content-Type"] = draw(
                st.sampled_from(["text/csv", "text/plain", "application/octet-stream", "", 'a/b; c="', "multipart/form-data"])
            )
        case 4:
            headers["Inference-Header-Content-Length"] = draw(
                st.integers(-9, 999).map(str) | st.sampled_from(["x", "", "1e3", "٣"]).filter(str.isascii)
            )
    return path, body, headers


def judge(reply: Reply) -> None:
    """Answered, and by the client's own fault."""
    assert reply.status < 500, reply
    assert not any(word in reply.body for word in INSIDE), reply


@pytest.mark.timeout(1200 if FULL else 120)
def test_no_body_breaks_the_server(quick: Served) -> None:
    """Generated bodies for every route that answers, well-formed and not."""
    client = Client(quick.rest, timeout=ANSWERED)
    statuses: dict[int, int] = {}

    @settings(max_examples=BODIES, deadline=None, derandomize=not FULL, database=None, suppress_health_check=list(HealthCheck))
    @given(requests())
    def send(request: tuple[str, bytes, dict[str, str]]) -> None:
        path, body, headers = request
        reply = client.post(path, body, headers)
        judge(reply)
        statuses[reply.status] = statuses.get(reply.status, 0) + 1

    send()
    print(f"{sum(statuses.values())} bodies: {dict(sorted(statuses.items()))}")
    assert sum(statuses.values()) >= BODIES
    assert {200, 400} <= statuses.keys()
    assert quick.process.poll() is None
    assert client.get("/v2/health/ready").status == 200


RAW = {
    "nothing": b"",
    "line ends": b"\r\n\r\n\r\n",
    "zeros": b"\0" * 4096,
    "tls hello": bytes.fromhex("16030100c8010000c40303") + b"\0" * 200,
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /v2\r\n\r\n",
    "http/9.9": b"GET /v2 HTTP/9.9\r\nHost: t\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "long method": b"A" * 70000 + b" / HTTP/1.1\r\nHost: t\r\n\r\n",
    "long target": b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
    "long header": b"GET /v2 HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 200000 + b"\r\n\r\n",
    "many headers": b"GET /v2 HTTP/1.1\r\nHost: t\r\n" + b"X: 1\r\n" * 3000 + b"\r\n",
    "folded header": b"GET /v2 HTTP/1.1\r\nHost: t\r\nX: 1\r\n  2\r\n\r\n",
    "header without colon": b"GET /v2 HTTP/1.1\r\nHost: t\r\nnonsense\r\n\r\n",
    "space in header name": b"GET /v2 HTTP/1.1\r\nHost : t\r\n\r\n",
    "zero in header": b"GET /v2 HTTP/1.1\r\nHost: t\0\r\n\r\n",
    "length and chunks": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "negative length": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: -5\r\n\r\n12345",
    "plus length": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n\r\n12345",
    "huge length": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999999999999\r\n\r\n{",
    "bad chunk size": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "huge chunk": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n{",
    "chunk extensions": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"a" * 5000 + b"\r\n{}\r\n0\r\n\r\n",
    "trailers": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: 1\r\n\r\n",
    "chunked twice": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "upgrade": b"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "h2c": b"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "expect": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "expect nonsense": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nExpect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}",
    "connect": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "trace": b"TRACE /v2 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer secret\r\n\r\n",
    "absolute target": b"GET http://elsewhere.example/v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n",
    "dots": b"GET /v2/../../../../etc/passwd HTTP/1.1\r\nHost: t\r\n\r\n",
    "encoded dots": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: t\r\n\r\n",
    "half a character": b"GET /\xc3 HTTP/1.1\r\nHost: t\r\n\r\n",
    "bad percent": b"GET /%zz%f HTTP/1.1\r\nHost: t\r\n\r\n",
    "pipelined": b"GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n" * 50,
    "pipelined after a body": b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n",
    "head with a body": b"HEAD /v2 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n12345",
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
async def test_no_bytes_break_the_server(quick: Served, name: str) -> None:
    """By hand, over the socket: each is answered below 500 or its connection closed, in time, and the next client is served."""
    for port in (quick.rest, quick.metrics.removesuffix("/metrics"), f"http://{quick.grpc}"):
        wire = await Wire.open(port)
        try:
            await wire.send(RAW[name])
            wire.writer.write_eof()
            async with asyncio.timeout(ANSWERED * 2):
                answer = await wire.reader.read()
        except OSError:
            answer = b""
        finally:
            wire.close()
        if answer.startswith(b"HTTP/1.1 "):
            assert int(answer.split()[1]) < 500 or int(answer.split()[1]) == 501
        assert not any(word in answer for word in INSIDE)
    assert (await get(quick.rest, "/v2/health/ready")).status == 200


async def test_slow_uploads_keep_nobody_waiting(quick: Served, asks: Clients) -> None:
    """Heads and bodies that come a byte at a time: others are served meanwhile, and each of them is ended in time."""
    wires = [await Wire.open(quick.rest) for _ in range(SLOW)]
    for number, wire in enumerate(wires):
        await wire.send(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\n" + (b"Content-Length: 100\r\n\r\n{" if number % 2 else b"X: "))

    async def drip(wire: Wire) -> bytes:
        reading = asyncio.create_task(wire.reader.read())
        while not reading.done():
            try:
                await wire.send(b" ")
            except ConnectionError:
                break
            await asyncio.wait({reading}, timeout=0.2)
        try:
            return await reading
        except ConnectionError:
            return b""

    async with asyncio.timeout(30):
        dripping = [asyncio.create_task(drip(wire)) for wire in wires]
        others = await asyncio.gather(*[asks.ask(kind, "others", 8) for kind in KINDS for _ in range(10)])
        ends = await asyncio.gather(*dripping)
    for wire in wires:
        wire.close()

    assert all(told.whole for told in others)
    assert {end.split(b"\r\n")[0] for end in ends} <= {b"HTTP/1.1 408 Request Timeout", b"HTTP/1.1 408 ", b""}


@pytest.mark.parametrize("piece", [b"[],", b"[[[[[[[[]]]]]]]],", b'{"a":1},', b"1,"])
async def test_hostile_documents_do_not_disturb_others(quick: Served, asks: Clients, piece: bytes) -> None:
    """Four mebibytes that a parser would take seconds for are refused by name on every route; who asks meanwhile is answered whole."""
    body = b'{"messages":[' + piece * ((4 << 20) // len(piece) - 10) + b"0]}"
    paths = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/invocations",
        "/v2/models/scripted/infer",
        "/v2/models/scripted/generate",
    ]
    *replies, others = await asyncio.gather(
        *[asks.post(path, body) for path in paths], asyncio.gather(*[asks.ask(kind, "others", 16) for kind in KINDS for _ in range(5)])
    )
    assert [reply.status for reply in replies] == [400] * len(paths)
    assert all(b"more than 262144 JSON values" in reply.body for reply in replies)
    assert all(told.whole for told in others)


@pytest.mark.timeout(600 if FULL else 120)
async def test_metrics_remember_no_clients_word(quick: Served, asks: Clients) -> None:
    """Random model names, paths, methods, ids and keys, over REST and gRPC: not one series more than before."""
    draw = random.Random(3)
    metrics = quick.metrics.removesuffix("/metrics")
    for kind in KINDS:
        await asks.ask(kind, "one of each", 1)

    async def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in (await get(metrics, "/metrics")).body.decode().splitlines() if not line.startswith("#")}

    async def one(name: str) -> None:
        match draw.randrange(4):
            case 0:
                assert (await asks.post(f"/v2/models/{name}/infer", {"inputs": []})).status == 404
            case 1:
                assert (await asks.post("/v1/completions", {"model": name, "prompt": "x"})).status == 404
            case 2:
                assert (await get(quick.rest, f"/{name}")).status == 404
            case 3:
                call = asks.channel().unary_unary(f"{SERVICE}{name}" if draw.random() < 0.5 else f"{SERVICE}ModelInfer")
                with pytest.raises(aio.AioRpcError):
                    await call(
                        Clients(asks.rest, asks.grpc, name).message("x", {}), metadata=(("x-request-id", name), ("authorization", name))
                    )

    before = await series()
    names = ["".join(draw.choices(string.ascii_letters + string.digits, k=12)) for _ in range(NAMES)]
    for start in range(0, NAMES, 50):
        await asyncio.gather(*[one(name) for name in names[start : start + 50]])
    assert await series() == before
