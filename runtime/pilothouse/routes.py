"""OpenAI's and MLflow's routes, as MLServer's custom handlers: they stand wherever the runtime does, also under a plain `mlserver start`.

Each handler reads a body, lets a protocol translate it, and writes the answer down; errors are put into the route's own shape here.
"""

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from mlserver.handlers import custom_handler
from starlette.requests import Request
from starlette.responses import Response

from pilothouse import ids
from pilothouse.answering import Answerer
from pilothouse.bulk import apart
from pilothouse.errors import Unsupported
from pilothouse.joining import total
from pilothouse.models.loading import Loaded
from pilothouse.protocols import invocations, openai, openai_answers, openapi, response_answers, responses, sse
from pilothouse.protocols.failures import mlflow_error, openai_error, unknown_model, v2_error
from pilothouse.protocols.fields import document
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openai_stream import ChatStream, CompletionStream
from pilothouse.protocols.response_stream import ResponseStream
from pilothouse.replies import json, spoken
from pilothouse.streaming import Spelling, streaming
from pilothouse.version import __version__

T = TypeVar("T")

STARTED = int(time.time())


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
        answer_id, created = f"chatcmpl-{ids.new()}", int(time.time())
        if not asked.stream:
            answer = await answerer.answer(asked.request, protocol="openai_chat")
            return json(openai_answers.chat_answer(answer_id, created, name, answer))
        stream = ChatStream(answer_id, created, name, asked.include_usage)
        spelling = _chat(stream, asked.request.n, stream.error)
        return await streaming(request, answerer, (asked.request,), "openai_chat_stream", spelling)

    @custom_handler(rest_path="/v1/completions", rest_method="POST")
    @spoken(openai_error)
    async def completions(self, request: Request) -> Response:
        """OpenAI's completion of one or several raw prompts, unary or streamed."""
        asked = await self._openai_asked(request, openai.completion)
        answerer, _, name = self._served()
        answer_id, created = f"cmpl-{ids.new()}", int(time.time())
        if not asked.stream:
            answers = await answerer.answers(asked.requests, protocol="openai_completion")
            return json(openai_answers.completion_answer(answer_id, created, name, answers))
        stream = CompletionStream(answer_id, created, name, asked.include_usage, n=asked.requests[0].n)
        spelling = Spelling(
            opening=b"",
            chunk=stream.chunk,
            closing=lambda usages: stream.usage(openai_answers.total([total(row) for row in usages])),
            failing=stream.error,
        )
        return await streaming(request, answerer, asked.requests, "openai_completion_stream", spelling)

    @custom_handler(rest_path="/v1/models", rest_method="GET")
    @spoken(openai_error)
    async def models(self, request: Request) -> Response:
        """The one model that is served."""
        return json(openai_answers.models_list([self._card()]))

    @custom_handler(rest_path="/v1/models/{model_id:path}", rest_method="GET")
    @spoken(openai_error)
    async def model(self, request: Request) -> Response:
        """The served model by its name; 404 for any other."""
        name = request.path_params["model_id"]
        if name != self.loaded().name:
            raise unknown_model(name, self.loaded().name)
        return json(self._card())

    @custom_handler(rest_path="/v1/responses", rest_method="POST")
    @spoken(openai_error)
    async def responses(self, request: Request) -> Response:
        """OpenAI's response, unary or streamed. None is stored: there is no route to ask for one again."""
        asked = await self._openai_asked(request, responses.response)
        answerer, _, name = self._served()
        options = asked.options(answerer.planner.defaults)
        head = response_answers.Head(f"resp_{ids.new()}", int(time.time()), name, options)
        with responses.own_names():
            if not asked.stream:
                answer = await answerer.answer(asked.request, protocol="openai_response")
                return json(response_answers.answer(head, int(time.time()), answer))
            stream = ResponseStream(head)
            spelling = Spelling(
                opening=stream.opening(),
                chunk=lambda chunk, _: stream.chunk(chunk),
                closing=lambda usages: stream.closing(total(usages[0]), int(time.time())),
                failing=stream.error,
                done=b"",
            )
            return await streaming(request, answerer, (asked.request,), "openai_response_stream", spelling)

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
        answer_id, created = f"chatcmpl-{ids.new()}", int(time.time())
        if asked.stream:
            stream = ChatStream(answer_id, created, name, include_usage=True)
            spelling = _chat(stream, asked.requests[0].n, lambda error: sse.event(orjson.dumps(mlflow_error(error))))
            return await streaming(request, answerer, asked.requests, "mlflow_stream", spelling)
        answers = await answerer.answers(asked.requests, protocol="mlflow")
        return json(invocations.answer(asked, answer_id, created, name, answers))

    @custom_handler(rest_path="/openapi.json", rest_method="GET")
    @spoken(v2_error)
    async def openapi_document(self, request: Request) -> Response:
        """The OpenAPI document of all routes under the limits in force."""
        _, limits, _ = self._served()
        return json(openapi.document(limits, __version__))

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


def _chat(stream: ChatStream, choices: int, failing: Callable[[BaseException], bytes]) -> Spelling:
    """A chat's stream, whose errors are spelled by `failing`."""
    return Spelling(
        opening=b"".join(stream.first(index) for index in range(choices)),
        chunk=stream.chunk,
        closing=lambda usages: stream.usage(total(usages[0])),
        failing=failing,
    )
