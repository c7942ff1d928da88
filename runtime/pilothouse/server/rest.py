"""The REST port: MLServer's application with our routes, behind our layers, on a socket that is already ours."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING

import orjson
from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.handlers import DataPlane, ModelRepositoryHandlers, get_custom_handlers
from mlserver.rest import RESTServer
from mlserver.settings import Settings as HostSettings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp

from pilothouse import __version__
from pilothouse.errors import InvalidRequest, NotFound, NotReady, PilothouseError
from pilothouse.metrics import Metrics
from pilothouse.protocols import feedback, openapi
from pilothouse.protocols.fields import shown
from pilothouse.protocols.limits import INT32, Limits
from pilothouse.server import page
from pilothouse.server.auth import OPEN_PATHS, Auth, Keys
from pilothouse.server.catalog import Catalog
from pilothouse.server.edge import REPOSITORY, Edge, TemplateRoute
from pilothouse.server.finished import Finished
from pilothouse.server.health import Health
from pilothouse.server.quiet import server
from pilothouse.server.quotas import Quotas
from pilothouse.server.refusals import WrongMethod, hosted, protocol_of, refusal
from pilothouse.server.tls import Tls
from pilothouse.server.turnstile import Turnstile
from pilothouse.server.upload import Upload
from pilothouse.server.v2_rest import V2
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.server.traces import Traces
    from pilothouse.server.tracking_server import TrackingServer

_READINESS = frozenset({"/ping", "/health"})
_FREE = frozenset({"/version"})  # answered whatever the model's state

LONGEST_GUESSED = 60  # characters of a path that was meant to be another; guessing takes time by its square

Handler = Callable[[Request], Awaitable[Response]]


class Rest(RESTServer):  # type: ignore[misc]  # MLServer has no types
    """MLServer's REST server; what it adds for a model's custom handlers goes through our gates."""

    def __init__(
        self,
        host: HostSettings,
        data_plane: DataPlane,
        repository: ModelRepositoryHandlers,
        *,
        settings: Settings,
        catalog: Catalog,
        health: Health,
        metrics: Metrics,
        keys: Keys | None,
        quotas: Quotas | None,
        finished: Finished,
        traces: "Traces | None" = None,
        tls: Tls | None = None,
        tracking_server: "TrackingServer | None" = None,
    ) -> None:
        super().__init__(host, data_plane, repository)
        self._catalog = catalog
        self._health = health
        self._limits = Limits.from_settings(settings, INT32)
        self._custom: dict[int, list[BaseRoute]] = {}
        self._gated: dict[str, MLModel] = {}  # by the path of a POST
        router = self._app.router
        router.redirect_slashes = False
        kept = [route for route in router.routes if settings.repository_api and route.path.startswith(REPOSITORY)]
        files = page.routes() if settings.page else []
        v2 = V2(catalog, health).routes()
        self._v2 = [route for route in v2 if "POST" in (route.methods or ())]
        router.routes[:] = [
            *v2,
            TemplateRoute("/openapi.json", self._document),
            _feedback(tracking_server),
            *kept,
            *files,
        ]
        for kind in (PilothouseError, MLServerError, HTTPException, RequestValidationError, Exception):
            self._app.add_exception_handler(kind, self._refuse)
        app: ASGIApp = Upload(
            self._app,
            max_body_bytes=settings.max_body_bytes,
            max_bodies_bytes=settings.max_bodies_bytes,
            upload_seconds=settings.upload_seconds,
        )
        # The page's files hold no data; what it asks for goes through the keys as everything does.
        app = Auth(app, keys=keys, quotas=quotas, open_paths=OPEN_PATHS | {route.path for route in files})
        edge = Edge(app, metrics=metrics, health=health, finished=finished, max_headers=settings.max_headers, traces=traces)
        self.turnstile: Turnstile | None = None
        if traces is None:  # else every request has a span, and the layers make it
            self.turnstile = Turnstile(
                self._asked, catalog=catalog, keys=keys, metrics=metrics, health=health, finished=finished, max_headers=settings.max_headers
            )
        self._server = server(edge, settings, tls.context(clients=True) if tls is not None else None, self.turnstile)

    async def _document(self, request: Request) -> Response:
        """The document under the limits in force; the model's vocabulary bounds token ids once it is known."""
        known = next((model.limits for model in self._catalog.all() if getattr(model, "limits", None) is not None), self._limits)
        return Response(orjson.dumps(openapi.document(known, __version__)), media_type="application/json")

    async def _refuse(self, request: Request, error: Exception) -> Response:
        path = request.scope["path"]
        if isinstance(error, HTTPException) and error.status_code == 405:
            error = WrongMethod(self._allowed(request))
        elif isinstance(error, HTTPException) and error.status_code == 404:
            error = self._unknown(path)
        elif isinstance(error, HTTPException | RequestValidationError):
            error = InvalidRequest("the request is not as this path wants it")
        elif isinstance(error, MLServerError):
            error = hosted(error)
        return refusal(path, error)

    def _unknown(self, path: str) -> PilothouseError:
        if self._catalog.starting and (path in _READINESS | _FREE or protocol_of(path) in ("openai", "mlflow")):
            return NotReady("the model is loading; ask again when /v2/health/ready answers 200")
        known = [route.path for route in self._app.router.routes if isinstance(route, Route) and "{" not in route.path]
        near = get_close_matches(path, known, n=1, cutoff=0.8) if len(path) <= LONGEST_GUESSED else []
        return NotFound(f"no such path: {shown(path)}" + (f"; there is {near[0]}" if near else ""))

    def _allowed(self, request: Request) -> set[str]:
        """The methods of every route at this path, not only of the first."""
        routes = [route for route in self._app.router.routes if isinstance(route, Route)]
        return {method for route in routes if route.matches(request.scope)[0] is not Match.NONE for method in route.methods or ()}

    # -- a model's own routes --------------------------------------------------------------------------------------------------

    async def add_custom_handlers(self, model: MLModel) -> MLModel:
        """Handlers that take a request and answer a response become plain routes; any other shape is left to MLServer and FastAPI."""
        before = list(self._app.router.routes)
        for custom, method in get_custom_handlers(model):
            if len(signature(method).parameters) == 1:
                gate = self._gate(model, custom.rest_path, method)
                self._app.router.routes.append(TemplateRoute(custom.rest_path, gate, methods=[custom.rest_method]))
                if custom.rest_method == "POST":
                    self._gated[custom.rest_path] = model
            else:
                gates = [Depends(self._demand(model, custom.rest_path))]
                self._app.add_api_route(custom.rest_path, method, methods=[custom.rest_method], dependencies=gates)
        self._custom[id(model)] = [route for route in self._app.router.routes if route not in before]
        return model

    async def delete_custom_handlers(self, model: MLModel) -> MLModel:
        gone = self._custom.pop(id(model), [])
        self._gated = {path: other for path, other in self._gated.items() if other is not model}
        self._app.router.routes[:] = [route for route in self._app.router.routes if all(route is not other for other in gone)]
        return model

    def _gate(self, model: MLModel, path: str, handler: Handler) -> Handler:
        demand = self._demand(model, path)

        async def gated(request: Request) -> Response:
            await demand()
            if request.method == "POST":
                self._catalog.admit(model)
            return await handler(request)

        return gated

    def _asked(self, path: str) -> tuple[str, MLModel] | None:
        if (model := self._gated.get(path)) is not None:
            return path, model
        for route in self._v2:
            if match := route.path_regex.match(path):
                with suppress(PilothouseError):
                    return route.path, self._catalog.find(match["model"], match.groupdict().get("version"))
        return None

    def _demand(self, model: MLModel, path: str) -> Callable[[], Awaitable[None]]:
        """Raises `NotReady` where this path needs a model that can answer, or a server that takes traffic."""

        async def demand() -> None:
            if path in _READINESS:
                if reason := self._health.unready():
                    raise NotReady(reason)
            elif path not in _FREE:
                self._catalog.demand(model)

        return demand

    # -- life ------------------------------------------------------------------------------------------------------------------

    async def serve(self, listening: socket.socket) -> None:
        """Answer on `listening` until `stop`, then finish what runs."""
        await self._server.serve(sockets=[listening])

    async def stop(self, sig: int | None = None) -> None:
        """Take no new connections; those without a request are closed."""
        self._server.stop()

    def cut(self) -> None:
        """End what still runs."""
        for task in list(self._server.server_state.tasks):
            task.cancel()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    @property
    def busy(self) -> int:
        """Requests being answered."""
        return len(self._server.server_state.tasks)


def _feedback(server: "TrackingServer | None") -> TemplateRoute:
    """The route for feedback; one that says so where no traces go to MLflow."""

    async def absent(request: Request) -> Response:
        raise NotFound("feedback needs traces, and this server sends none to MLflow (settings traces and trace_experiment)")

    if server is None:
        return TemplateRoute(feedback.PATH, absent, methods=["POST"])
    from pilothouse.server.feedback import Assessor

    return TemplateRoute(feedback.PATH, Assessor(server).answer, methods=["POST"])
