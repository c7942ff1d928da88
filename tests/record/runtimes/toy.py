"""A well-behaved runtime for stock MLServer: asynchronous, cancellable, word by word. What goes wrong around it is the host's.

It says `max_tokens` words, one every TOY_STEP_SECONDS, under its own name. A prompt may begin with a command: BREAKS raises after a few words (in
a unary request too), "busy" refuses as MLServer lets a runtime refuse, "exit N" ends the process that runs the model.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Request
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler
from mlserver.types import Datatype, InferenceRequest, InferenceResponse, MetadataTensor, Parameters
from starlette.responses import JSONResponse, StreamingResponse

BREAKS = "Break, break, break"
STEP = float(os.environ.get("TOY_STEP_SECONDS", "0"))


class Toy(MLModel):
    """Says words."""

    running = 0  # requests under way, over all models: they share one route

    async def load(self) -> bool:
        """At once; or, where `parameters.extra` names a gate, when that file is there. A gate with a word in it fails the load."""
        self.inputs = [MetadataTensor(name="prompt", datatype=Datatype.BYTES, shape=[-1])]
        extra = (self.settings.parameters and self.settings.parameters.extra) or {}
        if gate := extra.get("gate"):
            await _opened(Path(gate))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = [_text(value) for value in payload.inputs[0].data]
        words = [word async for word in self._words(rows[0], _most(payload))]
        texts = [" ".join(words)] * len(rows) if rows[0] != "drop" else [" ".join(words)]
        return self._response(payload, texts, len(words))

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            async for word in self._words(_text(next(iter(payload.inputs[0].data))), _most(payload)):
                yield self._response(payload, [f"{word} "], 1)

    @custom_handler(rest_path="/v1/chat/completions")
    async def chat(self, request: Request) -> StreamingResponse:
        asked = await request.json()

        async def events() -> AsyncIterator[str]:
            async for word in self._words("chat", asked["max_tokens"]):
                yield f"data: {word}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @custom_handler(rest_path="/toy", rest_method="GET")
    async def told(self) -> JSONResponse:
        return JSONResponse({"running": Toy.running})

    async def _words(self, prompt: str, most: int) -> AsyncIterator[str]:
        if prompt.startswith("busy"):
            raise MLServerError("no room", status_code=429)
        if prompt.startswith("exit "):
            os._exit(int(prompt[5:]))
        Toy.running += 1
        print("begun", flush=True)
        try:
            for n in range(most):
                await asyncio.sleep(STEP)
                if prompt.startswith(BREAKS) and n == 3:
                    raise RuntimeError("told to break")
                yield self.name
        finally:
            Toy.running -= 1

    def _response(self, payload: InferenceRequest, texts: list[str], count: int) -> InferenceResponse:
        output = StringCodec.encode_output("output", texts)
        about = Parameters(completion_tokens=count)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output], parameters=about)


async def _opened(gate: Path) -> None:
    while not await asyncio.to_thread(gate.exists):  # noqa: ASYNC110  # another process makes it
        await asyncio.sleep(0.02)
    if await asyncio.to_thread(gate.read_text):
        raise ValueError("the weights are broken")


def _most(payload: InferenceRequest) -> int:
    given = (payload.parameters and payload.parameters.model_extra) or {}
    return int(given.get("max_tokens", 4))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
