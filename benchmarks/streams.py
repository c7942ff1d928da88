"""Clients that cost little: they send a request, note when the first piece and the last one come, and look at nothing in between."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from grpc import aio

Request = tuple[str, int]
"""A prompt, and the tokens of its answer."""


def options(tokens: int) -> dict[str, Any]:
    """An answer of just so many tokens."""
    return {"temperature": 0, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}


class Asked:
    """Requests to one model over any protocol: a prompt and how many tokens its answer is to have."""

    def __init__(self, model: str) -> None:
        self.model = model

    def chat(self, prompt: str, tokens: int) -> tuple[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return "/v1/chat/completions", {"messages": messages, "stream": True, "stream_options": {"include_usage": True}, **options(tokens)}

    def v2(self, prompt: str, tokens: int) -> tuple[str, Any]:
        datum = json.dumps([{"role": "user", "content": prompt}])
        tensor = {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [datum]}
        return f"/v2/models/{self.model}/infer_stream", {"inputs": [tensor], "parameters": options(tokens)}

    def grpc(self, prompt: str, tokens: int) -> bytes:
        """A ModelInferRequest."""
        from mlserver.grpc import dataplane_pb2 as pb

        datum = json.dumps([{"role": "user", "content": prompt}]).encode()
        contents = pb.InferTensorContents(bytes_contents=[datum])
        tensor = pb.ModelInferRequest.InferInputTensor(name="messages", datatype="BYTES", shape=[1], contents=contents)
        parameters = {n: pb.InferParameter(**{"bool_param" if v is True else "int64_param": v}) for n, v in options(tokens).items()}
        return bytes(pb.ModelInferRequest(model_name=self.model, inputs=[tensor], parameters=parameters).SerializeToString())


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection; a stream is over at its last chunk."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[bytes] | None = None
        self.first = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.first and b"data:" in data:
            self.first = time.perf_counter()
        self._data = (self._data + data)[-4096:]
        if self._data.endswith(b"0\r\n\r\n") or b"HTTP/1.1 4" in self._data or b"HTTP/1.1 5" in self._data:
            assert self.done is not None
            if not self.done.done():
                self.done.set_result(self._data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))

    async def ask(self, path: str, body: Any, tokens: int) -> tuple[float, float]:
        """When it was sent, and when the first event came. Raises when the answer has another length than was asked for."""
        assert self.transport is not None
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        self.done, self.first, self._data = asyncio.get_running_loop().create_future(), 0.0, b""
        sent = time.perf_counter()
        self.transport.write(head.encode() + payload)
        tail = await self.done
        if b'"completion_tokens":%d' % tokens not in tail:
            raise ValueError(f"not {tokens} tokens: {tail[-500:]!r}")
        return sent, self.first


async def send(
    requests: Sequence[Request], clients: int, arrivals: Sequence[float] | None, one: Callable[[Request], Awaitable[None]]
) -> None:
    """Do `one` for every request: each of `clients` the next as soon as its last is done; or each at its second of `arrivals`, whoever runs."""
    queue, began = deque(requests), time.perf_counter()

    async def client() -> None:
        while queue:
            await one(queue.popleft())

    async def at(second: float, request: Request) -> None:
        await asyncio.sleep(began + second - time.perf_counter())
        await one(request)

    if arrivals is None:
        await asyncio.gather(*[client() for _ in range(clients)])
    else:
        await asyncio.gather(*[at(*both) for both in zip(arrivals, requests, strict=True)])


async def over_http(
    url: str, asked: Asked, way: str, requests: Sequence[Request], clients: int, arrivals: Sequence[float] | None = None
) -> list[tuple[float, float]]:
    """Every request; when each was sent, over a connection that was there, and when its first event came."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    times: list[tuple[float, float]] = []
    opened: list[asyncio.Transport] = []

    async def connected() -> Connection:
        transport, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        opened.append(transport)
        return connection

    free = [await connected() for _ in range(clients if arrivals is None else 2 * clients + 8)]

    async def one(request: Request) -> None:
        prompt, tokens = request
        connection = free.pop() if free else await connected()
        times.append(await connection.ask(*getattr(asked, way)(prompt, tokens), tokens))
        free.append(connection)

    await send(requests, clients, arrivals, one)
    for transport in opened:
        transport.close()
    return times


async def over_grpc(
    address: str, asked: Asked, requests: Sequence[Request], clients: int, arrivals: Sequence[float] | None = None
) -> list[tuple[float, float]]:
    """The same over ModelStreamInfer. Messages are not parsed."""
    times: list[tuple[float, float]] = []
    async with aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

        async def one(request: Request) -> None:
            sent, first, last = time.perf_counter(), 0.0, b""
            async for data in call(iter([asked.grpc(*request)])):
                first, last = first or time.perf_counter(), data
            if b"completion_tokens" not in last:
                raise ValueError(f"not a whole answer: {last[-500:]!r}")
            times.append((sent, first))

        await send(requests, clients, arrivals, one)
    return times
