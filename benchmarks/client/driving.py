"""Keeps a schedule: all requests at times fixed beforehand (open loop), or each client's next one when its last is answered (closed loop).

What is late is counted and never dropped: `sent` is when the bytes really went, `due` when they should have.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from client.answer import Answer, Asked
from client.dialects import Dialect
from client.reply import Reply

LATE = 0.005  # seconds behind its schedule from which on a request counts as late


@dataclass(frozen=True)
class Target:
    """`http://host:port`, how to ask there, and the model's name where the server wants one."""

    url: str
    dialect: Dialect
    model: str = ""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rstrip("/").rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"url is {self.url!r}; write http://HOST:PORT")
        return host, int(port)


@dataclass
class Run:
    """Every answer, in the order in which they ended. `cpu` is the client's own share of one core; `interrupted`: there was to be more."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    wanted: int = 0
    interrupted: bool = False


class Connection(asyncio.Protocol):
    """One connection, kept alive; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._hear: Callable[[bytes], bool] = lambda data: True
        self._done: asyncio.Future[Reply] | None = None

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    @property
    def heard(self) -> bool:
        """Whether anything came of the request that was sent last."""
        return self._reply is not None and self._reply.begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._done is None or self._done.done():
            return
        try:
            for event in self._reply.feed(data):
                if not self._hear(event):
                    self.close()
                    self._done.set_result(self._reply)
                    return
        except (ValueError, KeyError, TypeError) as error:
            self._fail(ValueError(f"not understood: {error!r}"))
            return
        if self._reply.over:
            if not self._reply.kept:
                self.close()
            self._done.set_result(self._reply)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is None or self._done.done() or self._reply is None:
            return
        try:
            self._reply.end()
            self._done.set_result(self._reply)
        except ConnectionError as end:
            self._fail(end)

    def _fail(self, error: Exception) -> None:
        assert self._done is not None
        self.close()
        self._done.set_exception(error)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, head_and_body: bytes, hear: Callable[[bytes], bool]) -> Reply:
        """The whole reply; `hear` gets every event's data, and says False to hang up."""
        assert self.transport is not None
        self._reply, self._hear, self._done = Reply(), hear, asyncio.get_running_loop().create_future()
        self.transport.write(head_and_body)
        return await self._done


class Client:
    """Asks one target, over as many connections as have something to do."""

    def __init__(self, target: Target, told: Callable[[Answer], None]) -> None:
        self._target, self._told = target, told
        self._idle: list[Connection] = []
        self._began = 0.0

    async def run(self, requests: Sequence[Asked], clients: int | None, run: Run) -> None:
        """Fill `run`. Closed loop with so many `clients`; open loop by the requests' times where there is none."""
        encoded = deque((number, one, self._encoded(one)) for number, one in enumerate(requests))
        for _ in range(clients or 0):
            self._idle.append(await self._connected())
        self._began = time.perf_counter()
        tasks = [self._closed(encoded, run) for _ in range(clients)] if clients else [self._due(*one, run) for one in encoded]
        together = asyncio.gather(*tasks)
        try:
            await together
        except asyncio.CancelledError:
            run.interrupted = True
        finally:
            run.seconds = time.perf_counter() - self._began
            for connection in self._idle:
                connection.close()

    async def _closed(self, queue: "deque[tuple[int, Asked, bytes]]", run: Run) -> None:
        while queue:
            number, asked, data = queue.popleft()
            await self._one(number, asked, data, time.perf_counter() - self._began, run)

    async def _due(self, number: int, asked: Asked, data: bytes, run: Run) -> None:
        await asyncio.sleep(max(0.0, asked.at - (time.perf_counter() - self._began)))
        await self._one(number, asked, data, asked.at, run)

    async def _one(self, number: int, asked: Asked, data: bytes, due: float, run: Run) -> None:
        answer = Answer(number, asked.tokens, asked.group, due)
        answer.sent = time.perf_counter() - self._began
        read, events = self._target.dialect.read, answer.events

        def hear(event: bytes) -> bool:
            if event != b"[DONE]" and read(json.loads(event), answer):
                events.append(time.perf_counter() - self._began)
                answer.left = len(events) == asked.leave
            return not answer.left

        connection: Connection | None = None
        try:
            connection, reply = await self._exchange(data, hear, answer)
            answer.status = reply.status
            if not answer.left and reply.status == 200 and reply.body and read(json.loads(reply.body), answer):
                events.append(time.perf_counter() - self._began)
            if reply.status != 200:
                answer.failure = f"status {reply.status}: {reply.body[:200].decode(errors='replace')}"
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            answer.failure = f"{type(error).__name__}: {error}"
        answer.end = time.perf_counter() - self._began
        if connection is not None and connection.usable:
            self._idle.append(connection)
        if answer.whole and (answer.tokens != asked.tokens or not events):
            answer.failure = f"{answer.tokens} tokens of {asked.tokens} in {len(events)} events"
        run.answers.append(answer)
        self._told(answer)

    async def _exchange(self, data: bytes, hear: Callable[[bytes], bool], answer: Answer) -> tuple[Connection, Reply]:
        """Over an idle connection, where the server hasn't closed that one meanwhile; else over a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                try:
                    return connection, await connection.ask(data, hear)
                except ConnectionError:
                    if connection.heard:
                        raise
        answer.new, connection = True, await self._connected()
        return connection, await connection.ask(data, hear)

    async def _connected(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._target.address)
        return connection

    def _encoded(self, asked: Asked) -> bytes:
        path, body = self._target.dialect.ask(asked, self._target.model)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._target.url[7:]}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


def drive(
    target: Target, requests: Sequence[Asked], clients: int | None = None, told: Callable[[Answer], None] = lambda answer: None
) -> Run:
    """Run the schedule to its end, or to Ctrl-C: what was answered by then is in the run, and `told` has heard of it.

    Raises `OSError` where nobody listens, `ValueError` for a URL that is none.
    """
    run, cpu = Run(wanted=len(requests)), time.process_time()
    asyncio.run(Client(target, told).run(requests, clients, run))
    run.cpu = (time.process_time() - cpu) / run.seconds if run.seconds else 0.0
    return run


def late(answers: Sequence[Answer]) -> int:
    """How many were sent later than they were due."""
    return sum(one.sent - one.due > LATE for one in answers)
