"""OpenAI's and MLflow's routes, as MLServer's custom handlers: they stand wherever the runtime does, also under a plain `mlserver start`.

Each handler reads a body, lets a protocol translate it, and writes the answer down; errors are put into the route's own shape here.
"""

import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, TypeVar
from uuid import uuid4

import orjson
from mlserver.handlers import custom_handler
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pilothouse.answering import Answerer, total
from pilothouse.bulk import apart
from pilothouse.errors import PilothouseError, Retryable, Unsupported, wire
from pilothouse.messages import Chunk, Usage
from pilothouse.models.loading import Loaded
from pilothouse.protocols import invocations, openai, openai_answers, openapi, sse
from pilothouse.protocols.failures import mlflow_error, openai_error, unknown_model, v2_error
from pilothouse.protocols.fields import document
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openai_stream import ChatStream, CompletionStream
from pilothouse.version import __version__

T = TypeVar("T")

Handler = Callable[..., Awaitable[Response]]
Spelling = Callable[[BaseException], dict[str, Any]]

STARTED = int(time.time())


def spoken(spell: Spelling) -> Callable[[Handler], Handler]:
    """Put the errors of ours that a handler raises into its protocol's shape. Foreign ones go on to the server's own handler."""

    def around(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(self: Any, request: Request) -> Response:
            try:
                return await handler(self, request)
            except PilothouseError as error:
                return refusal(error, spell)

        return guarded

    return around


def refusal(error: PilothouseError, spell: Spelling) -> Response:
    """An error as a whole answer, with Retry-After where a retry helps."""
    headers = {"Retry-After": str(max(1, round(error.retry_after)))} if isinstance(error, Retryable) else None
    return _json(spell(error), wire(error).status, headers)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


async def _streaming(events: AsyncGenerator[bytes, None]) -> Response:
    """The stream's answer, once its first event is there: until then a refusal is still a plain error."""
    first = await anext(events)

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return StreamingResponse(body(), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)


async def _spelled(
    chunks: AsyncGenerator[tuple[int, Chunk], None],
    opening: bytes,
    spell: Callable[[int, Chunk], bytes],
    closing: Callable[[list[list[Usage]]], bytes],
    failing: Callable[[BaseException], bytes],
    rows: int,
) -> AsyncGenerator[bytes, None]:
    """Chunks as events, the opening ones with the first of them; an error after the first byte becomes the last event."""
    usages: list[list[Usage]] = [[] for _ in range(rows)]
    begun = False
    try:
        async with aclosing(chunks):
            async for row, chunk in chunks:
                if chunk.usage is not None:
                    usages[row].append(chunk.usage)
                data = spell(row, chunk)
                if not begun:
                    data, begun = opening + data, True
                if data:
                    yield data
        yield closing(usages) + sse.DONE
    except Exception as error:
        if not begun:
            raise
        yield failing(error) + sse.DONE
        if not isinstance(error, PilothouseError):
            raise


class Routes:
    """The HTTP handlers of `ChatRuntime`. What it serves are methods, for MLServer reads every attribute in search of handlers."""

    limits: Limits | None

    @abstractmethod
    def loaded(self) -> Loaded:
        """What is served. Raises `NotReady` before it is loaded and after it was unloaded."""

    @abstractmethod
    def answerer(self) -> Answerer:
        """The way to the engine. Raises `InvalidRequest` where a generic pyfunc is served: it has no chat."""

    @custom_handler(rest_path="/v1/chat/completions", rest_method="POST")
    @spoken(openai_error)
    async def chat_completions(self, request: Request) -> Response:
        """OpenAI's chat, unary or streamed."""
        asked = await self._openai_asked(request, openai.chat)
        answerer, _, name = self._served()
        answer_id, created = f"chatcmpl-{uuid4().hex}", int(time.time())
        if not asked.stream:
            answer = await answerer.answer(asked.request, protocol="openai_chat")
            return _json(openai_answers.chat_answer(answer_id, created, name, answer))
        stream = ChatStream(answer_id, created, name, asked.include_usage)
        return await _streaming(
            _spelled(
                answerer.streams((asked.request,), protocol="openai_chat_stream"),
                b"".join(stream.first(index) for index in range(asked.request.n)),
                lambda _, chunk: stream.chunk(chunk),
                lambda usages: stream.usage(total(usages[0])),
                stream.error,
                rows=1,
            )
        )

    @custom_handler(rest_path="/v1/completions", rest_method="POST")
    @spoken(openai_error)
    async def completions(self, request: Request) -> Response:
        """OpenAI's completion of one or several raw prompts, unary or streamed."""
        asked = await self._openai_asked(request, openai.completion)
        answerer, _, name = self._served()
        answer_id, created = f"cmpl-{uuid4().hex}", int(time.time())
        if not asked.stream:
            answers = await answerer.answers(asked.requests, protocol="openai_completion")
            return _json(openai_answers.completion_answer(answer_id, created, name, answers))
        stream = CompletionStream(answer_id, created, name, asked.include_usage, n=asked.requests[0].n)
        return await _streaming(
            _spelled(
                answerer.streams(asked.requests, protocol="openai_completion_stream"),
                b"",
                lambda row, chunk: stream.chunk(chunk, row),
                lambda usages: stream.usage(openai_answers.total([total(row) for row in usages])),
                stream.error,
                rows=len(asked.requests),
            )
        )

    @custom_handler(rest_path="/v1/models", rest_method="GET")
    @spoken(openai_error)
    async def models(self, request: Request) -> Response:
        """The one model that is served."""
        return _json(openai_answers.models_list([self._card()]))

    @custom_handler(rest_path="/v1/models/{model_id:path}", rest_method="GET")
    @spoken(openai_error)
    async def model(self, request: Request) -> Response:
        """The served model by its name; 404 for any other."""
        name = request.path_params["model_id"]
        if name != self.loaded().name:
            raise unknown_model(name, self.loaded().name)
        return _json(self._card())

    @custom_handler(rest_path="/v1/responses", rest_method="POST")
    @spoken(openai_error)
    async def responses(self, request: Request) -> Response:
        """Refused by name until there is an engine for it."""
        raise Unsupported("/v1/responses is not served; use /v1/chat/completions", code="unsupported_endpoint")

    @custom_handler(rest_path="/v1/embeddings", rest_method="POST")
    @spoken(openai_error)
    async def embeddings(self, request: Request) -> Response:
        """Refused by name: this model writes text."""
        raise Unsupported("/v1/embeddings is not served: this model writes text and embeds none", code="unsupported_endpoint")

    @custom_handler(rest_path="/invocations", rest_method="POST")
    @spoken(mlflow_error)
    async def invocations(self, request: Request) -> Response:
        """MLflow's scoring route, in every form that MLflow's own server takes."""
        loaded = self.loaded()
        body, content_type = await request.body(), request.headers.get("content-type", "")
        if loaded.generic is not None:
            return Response(await loaded.generic.invocations(body, content_type), media_type="application/json")
        answerer, limits, name = self._served()
        asked = await apart(len(body), lambda: invocations.invocation(body, content_type, limits))
        answer_id, created = f"chatcmpl-{uuid4().hex}", int(time.time())
        if asked.stream:
            stream = ChatStream(answer_id, created, name, include_usage=True)
            return await _streaming(
                _spelled(
                    answerer.streams(asked.requests, protocol="mlflow_stream"),
                    b"".join(stream.first(index) for index in range(asked.requests[0].n)),
                    lambda _, chunk: stream.chunk(chunk),
                    lambda usages: stream.usage(total(usages[0])),
                    lambda error: sse.event(orjson.dumps(mlflow_error(error))),
                    rows=1,
                )
            )
        answers = await answerer.answers(asked.requests, protocol="mlflow")
        return _json(invocations.answer(asked, answer_id, created, name, answers))

    @custom_handler(rest_path="/openapi.json", rest_method="GET")
    @spoken(v2_error)
    async def openapi_document(self, request: Request) -> Response:
        """The OpenAPI document of all routes under the limits in force."""
        _, limits, _ = self._served()
        return _json(openapi.document(limits, __version__))

    @custom_handler(rest_path="/ping", rest_method="GET")
    async def ping(self, request: Request) -> Response:
        """MLflow's liveness route."""
        return Response("\n", media_type="text/plain")

    @custom_handler(rest_path="/health", rest_method="GET")
    async def health(self, request: Request) -> Response:
        """The same under MLflow's other name."""
        return Response("\n", media_type="text/plain")

    @custom_handler(rest_path="/version", rest_method="GET")
    async def version_(self, request: Request) -> Response:
        """MLflow's version route: which Pilothouse answers."""
        return Response(__version__, media_type="text/plain")

    # ------------------------------------------------------------------------------------------------------------------------

    async def _openai_asked(self, request: Request, read: Callable[[dict[str, Any], Limits], T]) -> T:
        """What a body asks, once the model it names is the one served here: an unknown model is 404 whatever else is wrong."""
        raw = await request.body()

        def work() -> T:
            body = document(raw)
            name = openai.model_name(body)
            if name is not None and name != self.loaded().name:
                raise unknown_model(name, self.loaded().name)
            _, limits, _ = self._served()
            return read(body, limits)

        return await apart(len(raw), work)

    def _served(self) -> tuple[Answerer, Limits, str]:
        answerer = self.answerer()
        assert self.limits is not None
        return answerer, self.limits, self.loaded().name

    def _card(self) -> dict[str, Any]:
        return openai_answers.model_card(self.loaded().name, STARTED, self.loaded().describe())
