"""The server: MLServer with its loading, registry and runtimes, and everything that meets a client replaced by ours.

What is touched of MLServer beside its public names is listed, and held, by tests/unit/server/test_host.py.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import prometheus_client
from mlserver import MLModel, MLServer, ModelSettings
from mlserver import Settings as HostSettings
from mlserver.handlers import ModelRepositoryHandlers
from mlserver.registry import MultiModelRegistry
from pydantic import ValidationError

from pilothouse import __version__
from pilothouse.errors import StartError
from pilothouse.metrics import Metrics
from pilothouse.server import ports
from pilothouse.server.auth import Keys
from pilothouse.server.catalog import Catalog
from pilothouse.server.finished import Finished
from pilothouse.server.grpc_calls import Calls
from pilothouse.server.grpc_server import Grpc
from pilothouse.server.health import LOOK_SECONDS, Health, Phase
from pilothouse.server.metrics_server import MetricsServer
from pilothouse.server.quotas import Quotas
from pilothouse.server.repository import FixedRepository
from pilothouse.server.rest import Rest
from pilothouse.server.tls import Tls
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.server.traces import Destination, Traces
    from pilothouse.server.tracking_server import TrackingServer

Initialiser = Callable[[ModelSettings, Metrics], MLModel]

_REFUSED = {
    "cache_enabled": "MLServer's response cache gives one model's answer for another's",
    "kafka_enabled": "requests over Kafka pass none of this server's limits and keys",
}


class PilothouseServer(MLServer):  # type: ignore[misc]  # MLServer has no types
    """One server on three ports. Make it in a running event loop; `listen`, `load`, and at the end `drain.leave`.

    `initialiser` makes a model of its settings; without one, the class that the settings name.
    """

    def __init__(self, settings: Settings, *, initialiser: Initialiser | None = None, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._initialiser = initialiser or (lambda model, _: model.implementation(model))
        self.finished = Finished()
        self.tracking_server: TrackingServer | None = None
        self.traces = self._traces()
        self._tls = Tls(settings) if settings.tls_certificate is not None else None
        super().__init__(_host_settings(settings))
        # Global counters with a label for every name that a client asks for (they would also collide with a second server's).
        for name in ("_ModelInferRequestSuccess", "_ModelInferRequestFailure", "_ModelInferRequestDuration"):
            prometheus_client.REGISTRY.unregister(getattr(self._data_plane, name))

    # -- what MLServer's constructor calls ---------------------------------------------------------------------------------------

    def _add_signal_handlers(self) -> None:
        """Signals are the process's business, not the server's."""

    def _configure_logger(self) -> None:
        """So are the logs."""

    def _create_model_registry(self) -> MultiModelRegistry:
        return MultiModelRegistry(
            on_model_load=[self.add_custom_handlers],
            on_model_reload=[self.reload_custom_handlers],
            on_model_unload=[self.remove_custom_handlers, self._forget],
            model_initialiser=lambda model: self._initialiser(model, self.metrics),
        )

    def _create_servers(self) -> None:
        s = self.settings
        self._model_repository = FixedRepository()
        self._model_repository_handlers = ModelRepositoryHandlers(repository=self._model_repository, model_registry=self._model_registry)
        self.catalog = Catalog(self._model_registry)
        self.health = self.catalog.health = Health(self.catalog.all, stall_seconds=s.stall_seconds, device=s.device)
        keys = Keys(s.api_keys_file) if s.api_keys_file is not None else None
        quotas = Quotas(keys.allowance) if keys is not None else None
        self._kafka_server = None
        self._rest_server = self.rest = Rest(
            self._settings,
            self._data_plane,
            self._model_repository_handlers,
            settings=s,
            catalog=self.catalog,
            health=self.health,
            metrics=self.metrics,
            keys=keys,
            quotas=quotas,
            finished=self.finished,
            traces=self.traces,
            tls=self._tls,
            tracking_server=self.tracking_server,
        )
        repository = self._model_repository_handlers
        calls = Calls(self.catalog, self.health, self.metrics, repository, self.finished, quotas, repository_api=s.repository_api)
        self._grpc_server = self.grpc = Grpc(s, calls, self.health, keys, self.finished, self.traces, self._tls)
        self.metrics_server = MetricsServer(self.metrics, s, self.health, self._tls)

    def _traces(self) -> "Traces | None":
        """What sends spans; None where the setting is off, and then nothing of it is imported."""
        if not self.settings.traces:
            return None
        from pilothouse.server.traces import Traces

        traces = Traces(self._served, self._mlflow(), sample=self.settings.trace_sample)
        self.finished.tell(traces.ended)
        return traces

    def _mlflow(self) -> "Callable[[], Destination] | None":
        """MLflow's tracking server as the place for traces, where the settings name an experiment; it takes feedback, too."""
        if self.settings.trace_experiment is None:
            return None
        from pilothouse.models import tracking
        from pilothouse.server.mlflow_traces import Mlflow
        from pilothouse.server.tracking_server import TrackingServer

        server = TrackingServer(tracking.address(self.settings.tracking_uri), self.settings.trace_experiment)
        self.tracking_server = server
        return lambda: Mlflow(server, self.metrics.traced, content=self.settings.trace_content)

    def _served(self) -> dict[str, str]:
        """The facts of the served model, by name; none before it is loaded."""
        return next(({"name": model.name, **_facts(model)()} for model in self.catalog.all()), {})

    async def _forget(self, model: MLModel) -> MLModel:
        self.metrics.unwatch(model.name)
        return model

    # -- life ------------------------------------------------------------------------------------------------------------------

    async def listen(self) -> dict[str, int]:
        """Open the three ports and answer on them; the ports by name. Raises `StartError` where one is taken."""
        with contextlib.ExitStack() as opened:
            rest = opened.enter_context(ports.listen(self.settings, "rest_port"))
            metrics = opened.enter_context(ports.listen(self.settings, "metrics_port"))
            grpc_port = await self.grpc.start()
            opened.pop_all()  # theirs now
        bound = {"rest": rest.getsockname()[1], "grpc": grpc_port, "metrics": metrics.getsockname()[1]}
        self.tasks = [asyncio.create_task(self.rest.serve(rest)), asyncio.create_task(self.metrics_server.serve(metrics))]
        self.watching = asyncio.create_task(self.watch())
        return bound

    async def watch(self) -> None:
        """Give up engines that hang, for as long as this runs: their clients would wait for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for model, _ in self.health.stuck():
                give_up = getattr(model, "give_up", None)
                if give_up is not None:
                    give_up()

    async def load(self, models: Sequence[ModelSettings]) -> None:
        """Load every model; the server takes traffic when all are warm. Raises `StartError` for settings that can't be honoured."""
        for model in models:
            _judge(model)
        self._model_repository.models = models
        await asyncio.gather(*[self._load(model) for model in models])
        self.health.phase = Phase.SERVING

    async def _load(self, settings: ModelSettings) -> None:
        model = await self._model_registry.load(settings)
        self.metrics.watch(model.name, _stats(model), _facts(model))

    async def unload(self) -> None:
        """Unload every model: engines stop, and what they still compute ends with an error of its own."""
        await asyncio.gather(*[self._unload(model) for model in self.catalog.all() if model.ready], return_exceptions=True)

    async def _unload(self, model: MLModel) -> None:
        model.ready = False  # before its facts are gone
        await model.unload()

    async def start(self, models_settings: Sequence[ModelSettings] = ()) -> None:
        """MLServer's verb: listen, load, and serve until stopped."""
        await self.listen()
        await self.load(models_settings)
        await asyncio.gather(*self.tasks)

    async def stop(self, sig: int | None = None) -> None:
        """MLServer's verb: leave at once."""
        from pilothouse.server import drain

        await drain.leave(self, lame_duck_seconds=0, drain_seconds=0)


def _host_settings(settings: Settings) -> HostSettings:
    """MLServer's settings for this server; what its environment asks for and we can't honour is refused, not overridden in silence."""
    try:
        asked = HostSettings(_env_file=None)
    except ValidationError as error:
        names = ", ".join(sorted({f"MLSERVER_{str(problem['loc'][0]).upper()}" for problem in error.errors()}))
        raise StartError(f"MLServer's own settings in the environment are not understood ({names}): unset them") from None
    for name, reason in _REFUSED.items():
        if getattr(asked, name):
            raise StartError(f"MLSERVER_{name.upper()} is on, and {reason}: unset it")
    return HostSettings(
        _env_file=None,
        debug=False,
        parallel_workers=0,
        host=settings.host,
        http_port=settings.rest_port,
        grpc_port=settings.grpc_port,
        metrics_port=settings.metrics_port,
        metrics_endpoint=None,
        gzip_enabled=False,
        cache_enabled=False,
        kafka_enabled=False,
        tracing_server=None,
        cors_settings=None,
        root_path="",
        server_name="pilothouse",
        server_version=__version__,
        load_models_at_startup=False,
    )


def _judge(model: ModelSettings) -> None:
    """Refuse what MLServer would do to a model and an LLM can't bear."""
    if model.max_batch_size > 1 or model.max_batch_time > 0:
        raise StartError(
            f"model {model.name}: max_batch_size and max_batch_time join requests of different callers into one; leave them out, the engine batches"
        )
    if model.cache_enabled:
        raise StartError(f"model {model.name}: cache_enabled gives one caller another's answer; leave it out")
    if model.parameters is not None and (model.parameters.environment_tarball or model.parameters.environment_path):
        raise StartError(f"model {model.name}: environment_tarball and environment_path need MLServer's workers; install into the image")


def _stats(model: MLModel) -> Callable[[], Any]:
    stats = getattr(model, "stats", None)
    return lambda: stats() if stats is not None and model.ready else None


def _facts(model: MLModel) -> Callable[[], dict[str, str]]:
    describe = getattr(model, "describe", None)

    def facts() -> dict[str, str]:
        known = describe() if describe is not None and model.ready else {}
        return {name: str(known[name]) for name in ("version", "engine", "device", "digest", "uri") if known.get(name) is not None}

    return facts
