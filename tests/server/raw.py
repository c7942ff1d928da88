"""HTTP/1.1 by hand: what a client library would not send, and when it would not send it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.running import PATIENCE, Running


@dataclass
class Reply:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection to the REST port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def post(self, path: str, body: bytes = b"", *headers: str, length: int | None = None) -> None:
        """A request's head, and of its body what is given."""
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body) if length is None else length}", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def reply(self) -> Reply:
        """The next response."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            body = (
                await self._chunks() if "transfer-encoding" in headers else await self._reader.readexactly(int(headers["content-length"]))
            )
        return Reply(int(head[0].split()[1]), headers, body)

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self._reader.readline(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readline()
        await self._reader.readline()
        return b"".join(parts)

    async def until(self, text: bytes) -> bytes:
        """Everything up to `text`."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readuntil(text)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(run: Running) -> AsyncIterator[Connection]:
    """A connection to `run`, closed at the end."""
    host, _, port = run.rest.removeprefix("http://").rpartition(":")
    connection = Connection(*await asyncio.open_connection(host, int(port)))
    try:
        yield connection
    finally:
        connection.close()
