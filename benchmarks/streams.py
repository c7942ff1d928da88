"""Clients that cost little: they send a request, note when the first piece and the last one come, and look at nothing in between."""

import asyncio
import json
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, cast

from grpc import aio

GATHERED = 0.002  # seconds: a step's pieces come one after the other, and to wake up for each costs more than to read it
TAIL = 4096  # bytes of an answer, in which its end and its usage are

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


def posted(path: str, body: Any) -> bytes:
    """A whole HTTP/1.1 request."""
    payload = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
        + payload
    )


def check(tail: bytes, tokens: int) -> None:
    """Raises when an answer that ends so has another length than was asked for."""
    if b'"completion_tokens":%d' % tokens not in tail:
        raise ValueError(f"not {tokens} tokens: {tail[-500:]!r}")


def over(tail: bytes) -> bool:
    """Whether a stream is, or is none at all."""
    return tail.endswith(b"0\r\n\r\n") or tail.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))


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
        self._data = (self._data + data)[-TAIL:]
        if over(self._data):
            assert self.done is not None
            if not self.done.done():
                self.done.set_result(self._data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))

    async def ask(self, path: str, body: Any, tokens: int) -> tuple[float, float]:
        """When it was sent, and when the first event came. Raises when the answer has another length than was asked for."""
        assert self.transport is not None
        whole = posted(path, body)
        self.done, self.first, self._data = asyncio.get_running_loop().create_future(), 0.0, b""
        sent = time.perf_counter()
        self.transport.write(whole)
        check(await self.done, tokens)
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


def in_turn(
    url: str, asked: Asked, way: str, requests: Sequence[Request], clients: int, look: float = 0.0
) -> tuple[float, list[tuple[float, float]]]:
    """Every request over HTTP, in a closed loop of so many clients: how many seconds all took, and when each was sent and something of it first read.

    A light client, for it takes the time of the cores that compute: one thread on the sockets themselves, requests written
    before the clock starts, and with several clients what comes within `GATHERED` of the first piece of a step is read with it. With `look` it
    reads only each so many seconds, whatever comes: as little of this machine as clients of another would take.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    bodies = deque((posted(*getattr(asked, way)(prompt, tokens)), tokens) for prompt, tokens in requests)
    open_now, times = dict[int, _Open](), list[tuple[float, float]]()
    with ExitStack() as opened:
        waiter = opened.enter_context(select.epoll())
        for _ in range(min(clients, len(bodies))):
            one = opened.enter_context(socket.create_connection((host, int(port))))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_now[one.fileno()] = _Open(one)
            waiter.register(one, select.EPOLLIN)
        began = time.perf_counter()
        for connection in open_now.values():
            connection.ask(*bodies.popleft())
        while open_now:
            if look:
                time.sleep(look)
            else:
                waiter.poll(maxevents=1)
                if len(open_now) > 1:
                    time.sleep(GATHERED)
            for number, _ in waiter.poll(0):
                connection = open_now[number]
                if not connection.read():
                    continue
                times.append((connection.sent, connection.first))
                if bodies:
                    connection.ask(*bodies.popleft())
                else:
                    waiter.unregister(number)
                    del open_now[number]
        return time.perf_counter() - began, times


class _Open:
    """A connection of `in_turn`."""

    def __init__(self, one: socket.socket) -> None:
        self._socket = one

    def ask(self, whole: bytes, tokens: int) -> None:
        self._tokens, self._tail, self.first, self.sent = tokens, b"", 0.0, time.perf_counter()
        self._socket.sendall(whole)

    def read(self) -> bool:
        """What is there; whether that was the end. Raises when the answer is not whole."""
        data = self._socket.recv(1 << 18)
        self.first = self.first or time.perf_counter()
        self._tail = data if len(data) > TAIL else (self._tail + data)[-TAIL:]
        if not data:
            raise ConnectionError("the server hung up")
        if not over(self._tail):
            return False
        check(self._tail, self._tokens)
        return True


async def over_http(
    url: str, asked: Asked, way: str, requests: Sequence[Request], clients: int, arrivals: Sequence[float]
) -> list[tuple[float, float]]:
    """Every request at its second of `arrivals`; when each was sent, over a connection that was there, and when its first event came."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    times: list[tuple[float, float]] = []
    opened: list[asyncio.Transport] = []

    async def connected() -> Connection:
        transport, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        opened.append(transport)
        return connection

    free = [await connected() for _ in range(2 * clients + 8)]

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
