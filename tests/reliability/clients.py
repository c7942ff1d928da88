"""Clients that ask one thing in four ways, see every byte of the answer, and tell what was cut from what was refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode, aio
from mlserver.grpc import dataplane_pb2 as pb

from support.refusals import unsent

PATIENCE = 60.0  # seconds for an answer that must come
CHANNELS = 8
SERVICE = "/inference.GRPCInferenceService/"
MLSERVER = (("pilothouse-stream", "mlserver"),)

KINDS = ("unary", "sse", "grpc", "grpc_stream")


class Refused(Exception):
    """Nothing of an answer came: the connection was refused, or closed before the first byte."""


class Cut(Exception):
    """A part of an answer came."""


@dataclass
class Told:
    """An answer. `status` is HTTP's, or gRPC's name; `error` its text, "" for none; `tokens` as the server counts them."""

    status: int | str
    text: str = ""
    finishes: list[str] = field(default_factory=list)
    tokens: int | None = None
    error: str = ""
    retry_after: str | None = None

    @property
    def whole(self) -> bool:
        """A complete answer: no error, one finish reason, a count."""
        return self.status in (200, "OK") and not self.error and len(self.finishes) == 1 and self.tokens is not None

    @property
    def refused(self) -> bool:
        """A typed refusal that says when to come back."""
        return self.status in (429, 503, "RESOURCE_EXHAUSTED", "UNAVAILABLE") and bool(self.error and self.retry_after)


@dataclass
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One HTTP/1.1 connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Wire":
        """Raises `Refused`."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        try:
            return cls(*await asyncio.open_connection(host, int(port)))
        except OSError as error:
            raise Refused(repr(error)) from None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: bytes, *headers: str, length: int | None = None) -> None:
        """A request, or its head and what is given of its body."""
        size = len(body) if length is None else length
        lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {size}", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def reply(self) -> Reply:
        """Raises `Refused` and `Cut`."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Cut(repr(error)) if getattr(error, "partial", b"") else Refused(repr(error)) from None
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        try:
            body = await (self._chunks() if "transfer-encoding" in headers else self._sized(int(headers["content-length"])))
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise Cut(repr(error)) from None
        return Reply(int(head[0].split()[1]), headers, body)

    async def _sized(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(parts)

    def close(self) -> None:
        self.writer.close()


def events(body: bytes) -> list[Any]:
    """The events of a stream as JSON, the last one `"[DONE]"`."""
    data = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    return [piece.decode() if piece == b"[DONE]" else json.loads(piece) for piece in data]


class Clients:
    """Asks the model at these addresses. `headers` are HTTP's, name to value; gRPC's metadata are the same ones."""

    def __init__(self, rest: str, grpc: str, model: str, headers: dict[str, str] | None = None) -> None:
        self.rest, self.grpc, self.model = rest, grpc, model
        self.headers = headers or {}
        self._channels: list[aio.Channel] = []
        self._turn = 0

    async def __aenter__(self) -> "Clients":
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [aio.insecure_channel(self.grpc, options=own) for _ in range(CHANNELS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for channel in self._channels:
            await channel.close()

    def channel(self) -> aio.Channel:
        """The next in turn."""
        self._turn += 1
        return self._channels[self._turn % CHANNELS]

    async def ask(self, kind: str, prompt: str, tokens: int, **options: Any) -> Told:
        """The answer, of `tokens` tokens where nothing else ends it. Raises `Refused` and `Cut`; a gRPC status is an answer."""
        ways: dict[str, Callable[..., Awaitable[Told]]] = {
            "unary": self._unary,
            "sse": self._sse,
            "grpc": self._grpc,
            "grpc_stream": self._grpc_stream,
        }
        async with asyncio.timeout(PATIENCE):
            return await ways[kind](prompt, asked(tokens) | options)

    async def post(self, path: str, body: Any) -> Reply:
        """One answer over a connection of its own."""
        wire = await Wire.open(self.rest)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                await wire.post(path, data, "Connection: close", *(f"{name}: {value}" for name, value in self.headers.items()))
            except OSError as error:
                raise Refused(repr(error)) from None
            return await wire.reply()
        finally:
            wire.close()

    async def _unary(self, prompt: str, options: dict[str, Any]) -> Told:
        reply = await self.post("/v1/completions", {"prompt": prompt, **options})
        found = json.loads(reply.body)
        if reply.status != 200:
            return Told(reply.status, error=found["error"]["message"], retry_after=reply.headers.get("retry-after"))
        (choice,) = found["choices"]
        return Told(200, choice["text"], [choice["finish_reason"]], found["usage"]["completion_tokens"])

    async def _sse(self, prompt: str, options: dict[str, Any]) -> Told:
        body = {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **options}
        reply = await self.post("/v1/completions", body)
        if reply.status != 200:
            return Told(reply.status, error=json.loads(reply.body)["error"]["message"], retry_after=reply.headers.get("retry-after"))
        told, found = Told(200), events(reply.body)
        if found.pop() != "[DONE]":
            raise Cut("a stream without [DONE]")
        for event in found:
            if "error" in event:
                told.error = event["error"]["message"]
                continue
            told.tokens = (event.get("usage") or {}).get("completion_tokens", told.tokens)
            for choice in event["choices"]:
                told.text += choice["text"]
                told.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
        return told

    async def _grpc(self, prompt: str, options: dict[str, Any]) -> Told:
        try:
            data = await self.channel().unary_unary(f"{SERVICE}ModelInfer")(self.message(prompt, options), metadata=self._metadata())
        except aio.AioRpcError as error:
            return _failed(error)
        told = Told("OK")
        _add(told, data)
        return told

    async def _grpc_stream(self, prompt: str, options: dict[str, Any]) -> Told:
        told = Told("OK")
        call = self.channel().stream_stream(f"{SERVICE}ModelStreamInfer")(
            _once(self.message(prompt, options)), metadata=(*self._metadata(), *MLSERVER)
        )
        try:
            async for data in call:
                _add(told, data)
        except aio.AioRpcError as error:
            try:
                failed = _failed(error)
            except Refused:
                if told.text:
                    raise Cut(error.details()) from None
                raise
            failed.text = told.text
            return failed
        return told

    def message(self, prompt: str, options: dict[str, Any]) -> bytes:
        """A ModelInferRequest."""
        tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [prompt.encode()]}}
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "string_param"}
        parameters = {name: {kinds[type(value)]: str(value) if isinstance(value, float) else value} for name, value in options.items()}
        return bytes(pb.ModelInferRequest(model_name=self.model, inputs=[tensor], parameters=parameters).SerializeToString())

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple((name.lower(), value) for name, value in self.headers.items())


def asked(tokens: int) -> dict[str, Any]:
    """Options for exactly so many tokens."""
    return {"temperature": 0, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}


def _add(told: Told, data: bytes) -> None:
    message = pb.ModelInferResponse.FromString(data)
    told.text += message.outputs[0].contents.bytes_contents[0].decode()
    parameters = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()}
    told.finishes += [parameters["finish_reason"]] if "finish_reason" in parameters else []
    told.tokens = parameters.get("completion_tokens", told.tokens)


def _failed(error: aio.AioRpcError) -> Told:
    trailers = dict(error.trailing_metadata() or ())
    code = error.code()
    if code is StatusCode.UNAVAILABLE and "x-request-id" not in trailers:  # the transport's word and not the server's
        raise Refused(error.details()) from None
    if unsent(error):
        raise Refused(error.details()) from None
    return Told(code.name, error=error.details() or "", retry_after=trailers.get("retry-after"))


async def _once(item: bytes) -> AsyncIterator[bytes]:
    yield item


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE) -> float:
    """Wait until `condition` holds; how long that took."""
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # state of another process
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


async def get(url: str, path: str) -> Reply:
    """A GET over a connection of its own."""
    wire = await Wire.open(url)
    try:
        await wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            return await wire.reply()
    finally:
        wire.close()


async def gauge(metrics: str, name: str) -> float:
    """A metric's value."""
    return (await gauges(metrics, name))[0]


async def gauges(metrics: str, *names: str) -> list[float]:
    """Several metrics' values at one moment."""
    lines = (await get(metrics.removesuffix("/metrics"), "/metrics")).body.decode().splitlines()
    return [float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2]) for name in names]
