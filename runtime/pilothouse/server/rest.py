"""The REST port: MLServer's application with our routes, behind our layers, on a socket that is already ours."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from inspect import signature
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
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
from pilothouse.server.http1 import timed
from pilothouse.server.quotas import Quotas
from pilothouse.server.refusals import WrongMethod, protocol_of, refusal
from pilothouse.server.tls import CLOSING_SECONDS, HANDSHAKE_SECONDS, Tls
from pilothouse.server.upload import Upload
from pilothouse.server.v2_rest import V2
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.server.traces import Traces
    from pilothouse.server.tracking_server import TrackingServer

_READINESS = frozenset({"/ping", "/health"})
_FREE = frozenset({"/version"})  # answered whatever the model's state

SETTLE_SECONDS = 0.1

Handler = Callable[[Request], Awaitable[Response]]


class QuietServer(uvicorn.Server):
    """Leaves the signals to us (uvicorn would catch each, and raise it again when it is done) and sleeps until it is told to stop."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(config)
        self._tls = tls
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Take no new connections, close the resting ones, and end when the others have."""
        self.should_exit = True
        self._told.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, once the requests that have already arrived are read: it would close their connections as resting ones."""
        loop = asyncio.get_running_loop()
        for listening in [listening for server in self.servers for listening in server.sockets]:
            loop.remove_reader(listening.fileno())
        # asyncio forgets a connection that it has accepted and not yet handed over when its server closes: the client would hang.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with TLS of our own: certificates that change, and an end to handshakes and goodbyes that never come."""
        if self._tls is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection,
                sock=listening,
                backlog=self.config.backlog,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
            for listening in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        # Its own would wake ten times a second; a tick of ten is what renews the Date header.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._told.wait()


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
        router = self._app.router
        router.redirect_slashes = False
        kept = [route for route in router.routes if settings.repository_api and route.path.startswith(REPOSITORY)]
        files = page.routes() if settings.page else []
        router.routes[:] = [
            *V2(catalog, health).routes(),
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
        self._server = server(edge, settings, tls.context(clients=True) if tls is not None else None)

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
            error = _hosted(error)
        return refusal(path, error)

    def _unknown(self, path: str) -> PilothouseError:
        if self._catalog.starting and (path in _READINESS | _FREE or protocol_of(path) in ("openai", "mlflow")):
            return NotReady("the model is loading; ask again when /v2/health/ready answers 200")
        return NotFound(f"no such path: {shown(path)}")

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
            else:
                gates = [Depends(self._demand(model, custom.rest_path))]
                self._app.add_api_route(custom.rest_path, method, methods=[custom.rest_method], dependencies=gates)
        self._custom[id(model)] = [route for route in self._app.router.routes if route not in before]
        return model

    async def delete_custom_handlers(self, model: MLModel) -> MLModel:
        gone = self._custom.pop(id(model), [])
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


def server(app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None = None) -> QuietServer:
    """A uvicorn server for `app`, with nothing of its own to say: no banner, no access log, no signals."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=timed(settings.upload_seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # seconds of a timer: a float does
    )
    return QuietServer(config, tls)


def _hosted(error: Any) -> PilothouseError:
    """MLServer's error by its status; its text may hold what a client sent, or a path."""
    if error.status_code == 404:
        return NotFound("no such model or version", code="model_not_found")
    return InvalidRequest("the model could not read this request")
