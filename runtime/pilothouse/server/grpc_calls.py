"""V2 over gRPC: the six standard calls, the stream, and the repository's calls behind their switch.

Messages are parsed and written here and not by gRPC, so that a broken one is INVALID_ARGUMENT in our words, and the stream can answer
Triton's message.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

import grpc
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelMetadataResponseConverter
from mlserver.handlers import ModelRepositoryHandlers
from mlserver.types import InferenceRequest, RepositoryIndexRequest

from pilothouse import __version__, calls, errors
from pilothouse.bulk import apart
from pilothouse.errors import NotReady, PermissionDenied, PilothouseError
from pilothouse.metrics import Metrics
from pilothouse.server.catalog import Catalog
from pilothouse.server.finished import ANSWERS, Finished
from pilothouse.server.grpc_account import Account
from pilothouse.server.grpc_messages import datatype_name, parse, request_from, response_to, stream_item
from pilothouse.server.health import Health
from pilothouse.server.quotas import Quotas
from pilothouse.server.v2_rest import EXTENSIONS, once

log = logging.getLogger("pilothouse.server")

MLSERVER_STREAM = ("pilothouse-stream", "mlserver")
"""Metadata of a caller whose stub expects MLServer's own message from ModelStreamInfer."""
STATUS_ERRORS = ("triton_grpc_error", "true")
"""Triton's metadata of a caller who wants a stream's error as its status, which ends the stream."""
WANTS_FINAL = "triton_enable_empty_final_response"

SETTLE_SECONDS = 0.1

Behaviour = Callable[[Any], Awaitable[Any]]


class Calls:
    """The handlers of `inference.GRPCInferenceService` over one catalog."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        metrics: Metrics,
        repository: ModelRepositoryHandlers,
        finished: Finished,
        quotas: Quotas | None,
        *,
        repository_api: bool,
    ) -> None:
        self._finished = finished
        self._quotas = quotas
        self._catalog = catalog
        self._health = health
        self._metrics = metrics
        self._repository = repository
        self._repository_api = repository_api
        self._recent: deque[tuple[float, str]] = deque(maxlen=64)

    def callers(self, seconds: float) -> int:
        """How many connections had a call begin within the last `seconds`, of the last 64 calls."""
        since = time.monotonic() - seconds
        return len({peer for at, peer in self._recent if at >= since})

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Method name to handler, all of them bytes in and bytes out."""
        unary: dict[str, tuple[Any, Behaviour]] = {
            "ServerLive": (pb.ServerLiveRequest, self._live),
            "ServerReady": (pb.ServerReadyRequest, self._ready),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server),
            "ModelMetadata": (pb.ModelMetadataRequest, self._metadata),
            "ModelInfer": (pb.ModelInferRequest, self._infer),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
        }
        found = {name: grpc.unary_unary_rpc_method_handler(self._unary(name, *call)) for name, call in unary.items()}
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return found

    # -- every call ------------------------------------------------------------------------------------------------------------

    def _unary(self, name: str, kind: Any, behaviour: Behaviour) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            async with self._account(name, context):
                return bytes((await behaviour(parse(kind, data))).SerializeToString())

        return handle

    def _account(self, name: str, context: Any) -> Account:
        if name in ANSWERS:
            self._recent.append((time.monotonic(), context.peer()))
        return Account(name, context, self._metrics, self._finished)

    # -- the standard calls ----------------------------------------------------------------------------------------------------

    async def _live(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=self._health.stalled() is None)

    async def _ready(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._health.unready() is None)

    async def _model_ready(self, request: Any) -> Any:
        model = self._catalog.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._health.unfit(model) is None and not self._health.leaving)

    async def _server(self, request: Any) -> Any:
        return pb.ServerMetadataResponse(name="pilothouse", version=__version__, extensions=EXTENSIONS)

    async def _metadata(self, request: Any) -> Any:
        metadata = await self._catalog.ready(request.name, request.version).metadata()
        message = ModelMetadataResponseConverter.from_types(metadata)
        for tensors, known in ((message.inputs, metadata.inputs), (message.outputs, metadata.outputs)):
            for tensor, of in zip(tensors, known or (), strict=True):
                tensor.datatype = datatype_name(of.datatype)  # MLServer may write the enum's own name
        return message

    async def _infer(self, request: Any) -> Any:
        model = self._catalog.ready(request.model_name, request.model_version)
        payload = await apart(request.ByteSize(), lambda: self._payload(request))
        with self._taken():
            return response_to(await model.predict(payload), raw=bool(request.raw_input_contents))

    def _taken(self) -> AbstractContextManager[None]:
        """This call's place among those of its key: each request of a stream is one."""
        return self._quotas.taken(calls.current()) if self._quotas is not None else nullcontext()

    def _payload(self, request: Any) -> InferenceRequest:
        payload = request_from(request)
        payload.id = payload.id or calls.current().id
        return payload

    # -- the stream ------------------------------------------------------------------------------------------------------------

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes, None]:
        """Every request of the stream in turn. In Triton's form a request's error is a message, and the stream goes on."""
        metadata = context.invocation_metadata() or ()
        mlserver = MLSERVER_STREAM in metadata
        as_status = mlserver or STATUS_ERRORS in metadata
        async with self._account("ModelStreamInfer", context):
            began = False
            while (data := await self._next(requests, began=began)) is not None:
                request, began = None, True
                try:
                    request = parse(pb.ModelInferRequest, data)
                    async with aclosing(self._deltas(request)) as deltas:
                        async for delta in deltas:
                            yield delta.SerializeToString() if mlserver else stream_item(delta)
                except Exception as error:
                    if as_status:
                        raise
                    if not isinstance(error, PilothouseError):
                        log.exception("request %s failed", calls.current().id)
                    about = pb.ModelInferResponse(id=request.id, model_name=request.model_name) if request is not None else None
                    yield stream_item(about, errors.client_message(error))

    async def _deltas(self, request: Any) -> AsyncGenerator[Any, None]:
        model = self._catalog.ready(request.model_name, request.model_version)
        wants_final = bool(request.parameters[WANTS_FINAL].bool_param) if WANTS_FINAL in request.parameters else False
        request.parameters.pop(WANTS_FINAL, None)
        payload = await apart(request.ByteSize(), lambda: self._payload(request))
        with self._taken():
            async with aclosing(model.predict_stream(once(payload))) as responses:
                async for response in responses:
                    message = response_to(response, raw=bool(request.raw_input_contents))
                    if wants_final:
                        message.parameters["triton_final_response"].bool_param = False
                    yield message
        if wants_final:
            final = pb.ModelInferResponse(model_name=model.name, model_version=model.version or "", id=payload.id)
            final.parameters["triton_final_response"].bool_param = True
            yield final

    async def _next(self, requests: AsyncIterator[bytes], *, began: bool) -> bytes | None:
        """The stream's next request; None at its end, and when the server takes no more. One that came too late to begin is `NotReady`."""
        read = asyncio.ensure_future(anext(requests, None))
        closed = asyncio.ensure_future(self._health.closed())
        try:
            await asyncio.wait({read, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():  # what was sent before the end is still read
                await asyncio.wait({read}, timeout=SETTLE_SECONDS)
            if read.done():
                return read.result()
            if not began:  # a stream that ends well without an answer would be a request lost in silence
                raise NotReady("the server is stopping; send the request again, another one answers")
            return None
        finally:
            read.cancel()
            closed.cancel()

    # -- the repository --------------------------------------------------------------------------------------------------------

    async def _index(self, request: Any) -> Any:
        self._demand_repository()
        found = await self._repository.index(RepositoryIndexRequest(ready=request.ready))
        models = [
            pb.RepositoryIndexResponse.ModelIndex(name=m.name, version=m.version or "", state=m.state.value, reason=m.reason) for m in found
        ]
        return pb.RepositoryIndexResponse(models=models)

    async def _load(self, request: Any) -> Any:
        self._demand_repository()
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: Any) -> Any:
        self._demand_repository()
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _demand_repository(self) -> None:
        if not self._repository_api:
            raise PermissionDenied("the model repository is closed; setting repository_api opens it")
