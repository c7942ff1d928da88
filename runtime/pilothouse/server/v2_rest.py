"""V2 over REST: the Open Inference Protocol, with Triton's binary tensors, generate bodies and streams.

MLServer's own endpoints answer FastAPI's validation errors, make metric labels of unknown names and start a stream's response before
anything can go wrong; these look the model up first, then read the body, then ask the model.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from mlserver.types import InferenceRequest, InferenceResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from pilothouse import __version__
from pilothouse.bulk import apart
from pilothouse.errors import NotReady
from pilothouse.protocols import failures, v2_binary, v2_body
from pilothouse.server.catalog import Catalog
from pilothouse.server.edge import TemplateRoute
from pilothouse.server.events import EventStream
from pilothouse.server.health import Health

EXTENSIONS = ("binary_tensor_data", "generate", "streaming")


class V2:
    """The V2 routes over one catalog."""

    def __init__(self, catalog: Catalog, health: Health) -> None:
        self._catalog = catalog
        self._health = health

    def routes(self) -> list[TemplateRoute]:
        found = [
            TemplateRoute("/v2", self._server),
            TemplateRoute("/v2/", self._server),
            TemplateRoute("/v2/health/live", self._live),
            TemplateRoute("/v2/health/ready", self._ready),
        ]
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found += [
                TemplateRoute(base, self._metadata),
                TemplateRoute(f"{base}/ready", self._model_ready),
                TemplateRoute(f"{base}/infer", self._infer, methods=["POST"]),
                TemplateRoute(f"{base}/generate", self._infer, methods=["POST"]),
                TemplateRoute(f"{base}/infer_stream", self._stream, methods=["POST"]),
                TemplateRoute(f"{base}/generate_stream", self._stream, methods=["POST"]),
            ]
        return found

    async def _server(self, request: Request) -> Response:
        return _json({"name": "pilothouse", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        if reason := self._health.stalled():
            return _json({"live": False, "error": reason}, 503)
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        if reason := self._health.unready():
            return _json({"ready": False, "error": reason}, 503)
        return _json({"ready": True})

    async def _metadata(self, request: Request) -> Response:
        model = self._catalog.ready(*_named(request))
        return _json(_plain(await model.metadata()))

    async def _model_ready(self, request: Request) -> Response:
        name, version = _named(request)
        try:
            model = self._catalog.find(name, version)
        except NotReady as error:
            return _json({"name": name, "ready": False, "error": error.message}, 503)
        if reason := self._health.unfit(model) or (self._health.unready() if self._health.leaving else None):
            return _json({"name": name, "ready": False, "error": reason}, 503)
        return _json({"name": name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        model = self._catalog.ready(*_named(request))
        self._catalog.admit(model)
        asked = await _read(request, streamed=False)
        response = await model.predict(asked.payload)
        if asked.text:
            return _json(v2_body.generate_answer(_plain(response)))
        content, header = v2_binary.write(_plain(response), asked.wanted)
        if header is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={v2_binary.HEADER: str(header)}, media_type=v2_binary.MEDIA_TYPE)

    async def _stream(self, request: Request) -> EventStream:
        model = self._catalog.ready(*_named(request))
        self._catalog.admit(model)
        asked = await _read(request, streamed=True)

        def write(response: InferenceResponse) -> bytes:
            said = _plain(response)
            return orjson.dumps(v2_body.generate_answer(said) if asked.text else said, default=_text)

        return await EventStream.begin(model.predict_stream(once(asked.payload)), write, lambda e: orjson.dumps(failures.v2_error(e)))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as the model takes it, and the form its caller wants the answer in."""

    payload: InferenceRequest
    wanted: v2_binary.Wanted
    text: bool


async def _read(request: Request, *, streamed: bool) -> _Asked:
    """The request in a body: tensors as JSON or bytes, or Triton's text. Raises `InvalidRequest` that names the field."""
    raw = await request.body()

    def work() -> _Asked:
        body = v2_binary.read(raw, request.headers.get(v2_binary.HEADER))
        text = "text_input" in body
        payload = v2_body.generate_request(body, streamed=streamed) if text else v2_body.inference_request(body)
        payload.id = payload.id or request.state.request_id
        return _Asked(payload, v2_binary.Wanted() if text else v2_binary.wanted(body), text)

    return await apart(len(raw), work)


async def once(payload: InferenceRequest) -> AsyncIterator[InferenceRequest]:
    """A client's stream of one request."""
    yield payload


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _plain(model: BaseModel) -> dict[str, Any]:
    """An MLServer type as JSON values, without what is not set."""
    return model.model_dump(exclude_none=True, by_alias=True)


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content, default=_text), status, media_type="application/json")


def _text(value: Any) -> str:
    """Bytes as JSON can hold them; tensors of text come as bytes from a runtime that also speaks gRPC."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(type(value).__name__)
