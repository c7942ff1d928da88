"""The REST port: MLServer's application with our routes, behind our layers, on a socket that is already ours."""

import socket
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING

import orjson
from fastapi.exceptions import RequestValidationError
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.rest import RESTServer
from mlserver.settings import Settings as HostSettings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

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
from pilothouse.server.gates import FREE, READINESS, Gates
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

LONGEST_GUESSED = 60  # characters of a path that was meant to be another; guessing takes time by its square


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
        self._gates = Gates(self._app, catalog, health)
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
            self._answer,
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

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate = self._gates.asked(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if gate is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = gate.route
        request = Request(scope, receive, send)
        try:
            response = await gate.handler(request)
        except (PilothouseError, MLServerError, HTTPException) as error:
            response = await self._refuse(request, error)
        await response(scope, receive, send)

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
        if self._catalog.starting and (path in READINESS | FREE or protocol_of(path) in ("openai", "mlflow")):
            return NotReady("the model is loading; ask again when /v2/health/ready answers 200")
        known = [route.path for route in self._app.router.routes if isinstance(route, Route) and "{" not in route.path]
        near = get_close_matches(path, known, n=1, cutoff=0.8) if len(path) <= LONGEST_GUESSED else []
        return NotFound(f"no such path: {shown(path)}" + (f"; there is {near[0]}" if near else ""))

    def _allowed(self, request: Request) -> set[str]:
        """The methods of every route at this path, not only of the first."""
        routes = [route for route in self._app.router.routes if isinstance(route, Route)]
        return {method for route in routes if route.matches(request.scope)[0] is not Match.NONE for method in route.methods or ()}

    async def add_custom_handlers(self, model: MLModel) -> MLModel:
        """MLServer's name for a model's own routes."""
        self._gates.add(model)
        return model

    async def delete_custom_handlers(self, model: MLModel) -> MLModel:
        self._gates.remove(model)
        return model

    def _asked(self, path: str) -> tuple[str, MLModel] | None:
        """The route and the model that a POST to `path` is for."""
        if (gate := self._gates.asked(path)) is not None:
            return path, gate.model
        for route in self._v2:
            if match := route.path_regex.match(path):
                with suppress(PilothouseError):
                    return route.path, self._catalog.find(match["model"], match.groupdict().get("version"))
        return None

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
