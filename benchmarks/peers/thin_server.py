"""OpenAI's /v1/completions over an engine that is stepped, for peers that come without a server: streams, and as little as that takes.

Prompts are token ids; the words of the answer are looked up in the model's own tokenizer.json. The engine's thread does nothing but step.
"""

import asyncio
import json
import queue
import threading
from pathlib import Path
from typing import Any

from loads import Request
from stepping import Steps

Event = tuple[list[int], str]  # new tokens, or why there are none


class ThinServer:
    """One engine, one port."""

    def __init__(self, steps: Steps, words: dict[int, str]) -> None:
        self._steps, self._words = steps, words
        self._new: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
        self._open: dict[int, asyncio.Queue[Event]] = {}
        self._number = 0

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            while not self._steps.busy or not self._new.empty():
                number, request = self._new.get()
                try:
                    self._steps.add(number, request)
                except Exception as error:  # whatever it refuses, the others go on
                    loop.call_soon_threadsafe(self._tell, [(number, ([], repr(error)))])
            told: list[tuple[int, Event]] = [(number, (tokens, "")) for number, tokens in self._steps.step()]
            loop.call_soon_threadsafe(self._tell, told)

    def _tell(self, told: list[tuple[int, Event]]) -> None:
        for number, event in told:
            if number in self._open:
                self._open[number].put_nowait(event)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                else:
                    await self._answer(json.loads(body), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        request, events = Request(asked["prompt"], asked["max_tokens"]), asyncio.Queue[Event]()
        self._number += 1
        number = self._number
        self._open[number] = events
        self._new.put((number, request))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        done = 0
        try:
            while done < request.tokens:
                tokens, error = await events.get()
                if error:
                    self._event(writer, {"error": {"message": error}})
                    break
                done += len(tokens)
                self._event(writer, {"choices": [{"index": 0, "text": "".join(self._words.get(token, "") for token in tokens)}]})
                await writer.drain()
        finally:
            del self._open[number]
        self._event(writer, {"choices": [], "usage": {"prompt_tokens": len(request.prompt), "completion_tokens": done}})
        self._chunk(writer, b"data: [DONE]\n\n")
        self._chunk(writer, b"")
        await writer.drain()

    def _event(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        self._chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")

    @staticmethod
    def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def run(self, port: int) -> None:
        """For ever."""
        threading.Thread(target=self._compute, args=[asyncio.get_running_loop()], daemon=True).start()
        server = await asyncio.start_server(self._client, "127.0.0.1", port)
        await server.serve_forever()


def words_of(folder: Path) -> dict[int, str]:
    """The text of every id, as tokenizer.json has it."""
    vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return {number: text.replace("\u2581", " ") for text, number in vocabulary.items()}
