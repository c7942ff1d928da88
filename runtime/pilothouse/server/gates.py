"""A model's own routes, each behind a gate: OpenAI's and MLflow's, as the runtime hands them to MLServer.

What is asked of a model goes from here to its handler at once: the framework would look for it among all routes, behind seven layers that have
nothing to do for it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import signature

from fastapi import Depends, FastAPI
from mlserver import MLModel
from mlserver.handlers import get_custom_handlers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pilothouse.errors import NotReady
from pilothouse.server.catalog import Catalog
from pilothouse.server.edge import TemplateRoute
from pilothouse.server.health import Health

READINESS = frozenset({"/ping", "/health"})
FREE = frozenset({"/version"})  # answered whatever the model's state

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Gate:
    """One route that a model is asked by."""

    model: MLModel
    route: TemplateRoute
    handler: Handler


class Gates:
    """The routes of all models, as they are loaded and unloaded."""

    def __init__(self, app: FastAPI, catalog: Catalog, health: Health) -> None:
        self._app = app
        self._catalog = catalog
        self._health = health
        self._of_model: dict[int, list[BaseRoute]] = {}
        self._by_path: dict[str, Gate] = {}

    def asked(self, path: str) -> Gate | None:
        """The gate that answers a POST to `path`."""
        return self._by_path.get(path)

    def add(self, model: MLModel) -> None:
        """Handlers that take a request and answer a response become plain routes; any other shape is left to MLServer and FastAPI."""
        routes = self._app.router.routes
        before = list(routes)
        for custom, method in get_custom_handlers(model):
            if len(signature(method).parameters) == 1:
                handler = self._gated(model, custom.rest_path, method)
                route = TemplateRoute(custom.rest_path, handler, methods=[custom.rest_method])
                routes.append(route)
                if custom.rest_method == "POST":
                    self._by_path.setdefault(custom.rest_path, Gate(model, route, handler))
            else:
                gates = [Depends(self._demand(model, custom.rest_path))]
                self._app.add_api_route(custom.rest_path, method, methods=[custom.rest_method], dependencies=gates)
        self._of_model[id(model)] = [route for route in routes if route not in before]

    def remove(self, model: MLModel) -> None:
        gone = self._of_model.pop(id(model), [])
        self._by_path = {path: gate for path, gate in self._by_path.items() if gate.model is not model}
        routes = self._app.router.routes
        routes[:] = [route for route in routes if all(route is not other for other in gone)]

    def _gated(self, model: MLModel, path: str, handler: Handler) -> Handler:
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
            if path in READINESS:
                if reason := self._health.unready():
                    raise NotReady(reason)
            elif path not in FREE:
                self._catalog.demand(model)

        return demand
