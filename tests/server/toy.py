"""The model of these tests: it echoes, streams words, waits until it is let go, and fails as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from mlserver import MLModel, ModelSettings
from mlserver.handlers import custom_handler
from mlserver.types import Datatype, InferenceRequest, InferenceResponse, MetadataTensor, Parameters, ResponseOutput, TensorData
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pilothouse import calls, errors
from pilothouse.engines.base import Stats
from pilothouse.errors import EngineFailed, NotReady, Overloaded

FAILURES: dict[str, Exception] = {
    "invalid": errors.InvalidRequest("the prompt is wrong", field="prompt"),
    "context": errors.ContextLengthExceeded("the prompt is too long", field="prompt"),
    "overloaded": Overloaded("the queue is full", retry_after=2.5),
    "loading": NotReady("the engine is being restarted"),
    "deadline": errors.DeadlineExceeded("it took too long"),
    "engine": EngineFailed(),
    "foreign": RuntimeError("secret /etc/passwd detail"),
}
"""Prompt "fail NAME": this is raised; "late NAME": after the first word of a stream."""


@dataclass
class Gate:
    """What a held request waits for, and what became of all of them."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    cancelled: int = 0
    stopped: bool = False


class Toy(MLModel):
    """Prompt "hold ...": waits for `gate.open`; "count N": streams N words; "pour": streams
    without end; anything else: itself, one word at a time."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.gate = Gate()
        self.numbers = Stats(waiting=0, running=0, rows=4, kv_used=0.0, alive=True, steps=0, idle=True)
        self.device = "cpu"
        self.full = False  # there is no place for one more request
        self.seen: list[tuple[str, str, InferenceRequest | None]] = []

    async def load(self) -> bool:
        self.inputs = [MetadataTensor(name="prompt", datatype=Datatype.BYTES, shape=[-1])]
        return True

    async def unload(self) -> bool:
        self.gate.stopped = True
        self.gate.open.set()
        return True

    def stats(self) -> Stats:
        return self.numbers

    def admit(self, ahead: int = 0) -> None:
        if self.full:
            raise FAILURES["overloaded"]

    def describe(self) -> dict[str, Any]:
        return {"engine": "toy", "device": self.device, "version": self.version}

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self._note(payload)
        texts = [_text(value) for value in payload.inputs[0].data]
        for text in texts:
            async for _ in self._words(text):
                pass
        return self._response(payload, texts)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            self._note(payload)
            async for word in self._words(_text(next(iter(payload.inputs[0].data)))):
                yield self._response(payload, [word])

    @custom_handler(rest_path="/v1/echo")
    async def echo(self, request: Request) -> Response:
        body = await request.body()
        self._note(None)
        async for _ in self._words(body.decode()):
            pass
        return Response(body, media_type="text/plain")

    @custom_handler(rest_path="/v1/stream")
    async def words(self, request: Request) -> StreamingResponse:
        text = (await request.body()).decode()
        return StreamingResponse((f"data: {word}\n\n" async for word in self._words(text)), media_type="text/event-stream")

    @custom_handler(rest_path="/v1/models", rest_method="GET")
    async def models(self, request: Request) -> Response:
        return Response(orjson.dumps({"data": [{"id": self.name}]}), media_type="application/json")

    @custom_handler(rest_path="/invocations")
    async def invocations(self, request: Request) -> Response:
        return await self.echo(request)

    @custom_handler(rest_path="/ping", rest_method="GET")
    async def ping(self, request: Request) -> Response:
        return Response("\n")

    def _note(self, payload: InferenceRequest | None) -> None:
        call = calls.current()
        self.seen.append((call.id, call.tenant, payload))

    async def _words(self, text: str) -> AsyncIterator[str]:
        kind, _, rest = text.partition(" ")
        if kind == "fail":
            raise FAILURES[rest]
        if kind == "hold":
            yield "held "
            await self._held()
        while kind == "pour":
            yield "x" * (1 << 16)
        if kind == "late":
            yield "first "
            raise FAILURES[rest]
        for word in range(int(rest)) if kind == "count" else text.split():
            yield f"{word} "

    async def _held(self) -> None:
        self.gate.running += 1
        try:
            await self.gate.open.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.gate.cancelled += 1
            raise
        finally:
            self.gate.running -= 1
        if self.gate.stopped:
            raise NotReady("the engine was stopped")

    def _response(self, payload: InferenceRequest, texts: list[str]) -> InferenceResponse:
        output = ResponseOutput(
            name="output",
            datatype=Datatype.BYTES,
            shape=[len(texts)],
            data=TensorData(root=texts),
            parameters=Parameters(finish_reason="stop", completion_tokens=len(texts)),
        )
        return InferenceResponse(model_name=self.name, model_version=self.version, id=payload.id, outputs=[output])


def toy_settings(name: str = "toy", version: str | None = "3") -> ModelSettings:
    """A toy model's settings."""
    return ModelSettings(name=name, implementation=Toy, parameters={"version": version} if version else None, _env_file=None)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
