"""The gRPC port: our calls, the standard health service and reflection, on a port that is never shared, behind the same keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from grpc_health.v1 import health as health_v1
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pilothouse import calls
from pilothouse.calls import Call
from pilothouse.errors import NotReady, StartError, Unauthenticated, wire
from pilothouse.server import ports
from pilothouse.server.auth import OPEN_METHODS, Keys
from pilothouse.server.edge import TRACE_HEADERS, request_id
from pilothouse.server.finished import Finished
from pilothouse.server.grpc_account import abort
from pilothouse.server.grpc_calls import Calls
from pilothouse.server.grpc_messages import SERVICE, reflected
from pilothouse.server.health import Health
from pilothouse.server.tls import Tls
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.server.traces import Traces

_STREAMS = 1024  # at once on one connection
AGE_SECONDS = 4.0  # of a connection; less than a pod that is taken out still serves
BUSY_CLIENTS = 4  # connections whose calls began within a second: they come in numbers


class Grpc:
    """An asyncio gRPC server."""

    def __init__(
        self,
        settings: Settings,
        handlers: Calls,
        health: Health,
        keys: Keys | None,
        finished: Finished,
        traces: "Traces | None" = None,
        tls: Tls | None = None,
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._finished = finished
        self._traces = traces
        self._handlers = handlers
        self._health = health
        self._keys = keys

    async def start(self) -> int:
        """Listen; the port. Raises `StartError` where it is taken."""
        # Asked first: gRPC would say it in lines of its own on standard error.
        ports.listen(self._settings, "grpc_port").close()
        self._server = self._make()
        host, port = self._settings.host, self._settings.grpc_port
        try:
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            bound = self._server.add_secure_port(at, self._tls.credentials()) if self._tls else self._server.add_insecure_port(at)
        except RuntimeError:
            raise StartError(f"can't listen on {host} port {port} (setting grpc_port); choose another port or 0") from None
        await self._server.start()
        return int(bound)

    def _make(self) -> Any:
        methods = self._handlers.handlers()
        self._gate = _Gate(self._keys, methods, self._finished, self._traces)
        server = aio.server(
            interceptors=[self._gate],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self._settings.grpc_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", _STREAMS),
                *self._ages(),
            ],
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        generic = _Generic(server)
        health_pb2_grpc.add_HealthServicer_to_server(HealthService(self._health), generic)
        names = (SERVICE, health_v1.SERVICE_NAME, reflection.SERVICE_NAME)
        reflector = reflection.aio.ReflectionServicer(names, pool=reflected(health_pb2, reflection_pb2))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, generic)
        return server

    def _ages(self) -> list[tuple[str, int]]:
        """A channel stays on its connection, behind a Service on one pod, until it is told to go; the library tells it when it stops, and by then
        ends what arrives as CANCELLED. Told in time it goes without a loss: what runs ends where it began, the next call goes to whoever is there."""
        return [("grpc.max_connection_age_ms", round(AGE_SECONDS * 1000))] if self._settings.lame_duck_seconds else []

    async def stop(self, grace: float | None, *, settle: float = 0.0) -> None:
        """Take no new calls; those that run have `grace` seconds, None: they end now.

        The library ends what it has not yet handed over as CANCELLED, which tells a client nothing. Where many clients call at once some always wait
        there, so for `settle` seconds new calls are refused by name first. Where one or two do, each call is served until its client is told to go
        elsewhere: a refusal would meet more of them (five of 3000 in a rollout) than the library ends.
        """
        if self._handlers.callers(1.0) >= BUSY_CLIENTS:
            self._gate.closed = True
            await asyncio.sleep(settle)
        await self._server.stop(grace)


class _Generic:
    """Takes a service's handlers by their names only, never as registered methods.

    For each registered method aio waits for its next call apart, and when the server stops, the first of these waits to fail gives up all
    others: a call that was matched at that moment is answered by nobody, and its client hangs until the calls are cut.
    """

    def __init__(self, server: Any) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Those of `service` are known by their names already."""


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """grpc.health.v1, answered from the same readiness as everything else."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        if request.service not in ("", SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _serving(self._health.unready())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802  # gRPC's name
        known = request.service in ("", SERVICE)
        if not known:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        async for reason in self._health.watch():
            if known:
                yield _serving(reason)


def _serving(reason: str | None) -> Any:
    status = health_pb2.HealthCheckResponse
    return status(status=status.SERVING if reason is None else status.NOT_SERVING)


class _Gate(aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Begins each call's account and denies every method without a key but the open ones."""

    def __init__(self, keys: Keys | None, known: Collection[str], finished: Finished, traces: "Traces | None") -> None:
        self.closed = False  # new calls are refused by name
        self._keys = keys
        self._finished = finished
        self._traces = traces
        self._known = known

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        call = Call(id=request_id(metadata.get("x-request-id")), protocol="grpc")
        if self._traces is not None and details.method not in OPEN_METHODS:
            self._traces.begin(call, {name: metadata[name] for name in TRACE_HEADERS if name in metadata})
            call.trace = self._traces.name(call, details.method.rpartition("/")[2], "OK")
        calls.begin(call)
        if details.method not in OPEN_METHODS:
            try:
                if self._keys is not None:
                    call.tenant = self._keys.admit(*(value for key, value in details.invocation_metadata or () if key == "authorization"))
                if self.closed:
                    raise NotReady("the server is stopping; send the request again, another one answers")
            except (Unauthenticated, NotReady) as error:
                service, _, method = details.method.rpartition("/")
                known = service == f"/{SERVICE}" and method in self._known
                call.route, call.status = method if known else "unknown", wire(error).grpc
                self._finished(call)
                return _denied(error)
        return await continuation(details)


def _denied(error: Exception) -> Any:
    async def deny(request: Any, context: Any) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(deny)
