"""Every private name of the host that is touched, and the shape it is relied on for: the list to read before a pin is moved."""

import inspect
import re

import h11
import mlserver
import prometheus_client
import pytest
import uvicorn
from fastapi import FastAPI
from google.protobuf.unknown_fields import UnknownFieldSet
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.handlers import DataPlane, ModelRepositoryHandlers, custom_handler, get_custom_handlers
from mlserver.registry import MultiModelRegistry
from mlserver.repository import ModelRepository
from mlserver.rest import RESTServer
from mlserver.settings import ModelParameters
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle


class Some(MLModel):
    """A model with one custom handler."""

    @custom_handler(rest_path="/some", rest_method="GET")
    async def some(self, request: object) -> None: ...


def some(version: str | None = None) -> ModelSettings:
    return ModelSettings(name="some", implementation=Some, parameters={"version": version} if version else None, _env_file=None)


@pytest.fixture
def data_plane() -> DataPlane:
    """MLServer's data plane, its global counters taken away again."""
    plane = DataPlane(settings=Settings(_env_file=None), model_registry=MultiModelRegistry())
    for name in ("_ModelInferRequestSuccess", "_ModelInferRequestFailure", "_ModelInferRequestDuration"):
        prometheus_client.REGISTRY.unregister(getattr(plane, name))
    return plane


def test_the_pin_is_the_one_that_was_read() -> None:
    """The names below were read in this version."""
    assert mlserver.__version__ == "1.7.1"


def test_the_constructor_calls_what_is_overridden() -> None:
    """MLServer.__init__ calls these four, in this order, and needs nothing else of ours."""
    source = inspect.getsource(MLServer.__init__)
    called = ("_add_signal_handlers", "_create_model_registry", "_configure_logger", "_create_servers")
    places = [source.index(f"self.{name}()") for name in called]
    assert places == sorted(places)
    for name in ("_settings", "_data_plane", "_model_registry", "_model_repository_handlers"):
        assert f"self.{name} = " in source
    for name in ("add_custom_handlers", "reload_custom_handlers", "remove_custom_handlers"):
        assert inspect.iscoroutinefunction(getattr(MLServer, name))
    assert "_rest_server.add_custom_handlers" in inspect.getsource(MLServer.add_custom_handlers)
    assert "_rest_server.delete_custom_handlers" in inspect.getsource(MLServer.remove_custom_handlers)
    assert "self._kafka_server" in inspect.getsource(MLServer.add_custom_handlers)


def test_the_settings_that_are_set_exist() -> None:
    """Each is a field, and no environment file of the working directory is read."""
    names = {
        "debug",
        "parallel_workers",
        "host",
        "http_port",
        "grpc_port",
        "metrics_port",
        "metrics_endpoint",
        "gzip_enabled",
        "cache_enabled",
    }
    names |= {"kafka_enabled", "tracing_server", "cors_settings", "root_path", "server_name", "server_version", "load_models_at_startup"}
    assert names <= set(Settings.model_fields)
    assert {"max_batch_size", "max_batch_time", "cache_enabled", "parameters"} <= set(ModelSettings.model_fields)
    assert {"environment_tarball", "environment_path", "version"} <= set(ModelParameters.model_fields)
    assert Settings(_env_file=None, parallel_workers=0).parallel_workers == 0


async def test_the_registry_holds_models_as_the_catalog_reads_them() -> None:
    """`_models` by name, in each `_versions` by version, `default`, and `_find_model`."""
    registry = MultiModelRegistry(on_model_load=[], on_model_reload=[], on_model_unload=[], model_initialiser=Some)
    plain, versioned = await registry.load(some()), await registry.load(some("2"))
    single = registry._models["some"]
    assert single.default is plain
    assert single._versions == {"2": versioned}
    assert (single._find_model(None), single._find_model("2"), single._find_model("3")) == (plain, versioned, None)


async def test_a_model_is_registered_before_it_is_loaded() -> None:
    """So that it is known, and not ready, while it loads; a failed load raises what loading raised."""
    seen = []

    class Failing(Some):
        async def load(self) -> bool:
            seen.append([model.ready for model in await registry.get_models()])
            raise ValueError("no")

    registry = MultiModelRegistry(model_initialiser=Failing)
    with pytest.raises(ValueError, match="no"):
        await registry.load(some())
    assert seen == [[False]]


def test_the_rest_server_has_its_application_and_no_more_state(data_plane: DataPlane) -> None:
    """`_app` is a FastAPI whose router's routes can be replaced, with MLServer's own among them."""
    handlers = ModelRepositoryHandlers(repository=None, model_registry=MultiModelRegistry())
    rest = RESTServer(Settings(_env_file=None, debug=False, metrics_endpoint=None, gzip_enabled=False), data_plane, handlers)
    assert isinstance(rest._app, FastAPI)
    assert isinstance(rest._app.router.routes, list)
    assert {"/v2/repository/index", "/v2/repository/models/{model_name}/load"} <= {route.path for route in rest._app.router.routes}
    assert rest._app.router.redirect_slashes is True
    assert rest._app.user_middleware == []


def test_custom_handlers_are_found_with_their_paths() -> None:
    """`get_custom_handlers` gives (rest_path, rest_method) and the bound method."""
    [(handler, method)] = get_custom_handlers(Some(some()))
    assert (handler.rest_path, handler.rest_method) == ("/some", "GET")
    assert list(inspect.signature(method).parameters) == ["request"]


def test_the_repository_has_two_methods() -> None:
    """What FixedRepository implements is all there is to implement."""
    assert ModelRepository.__abstractmethods__ == {"list", "find"}


def test_the_schema_has_the_fields_that_are_written_by_hand() -> None:
    """ModelInferResponse is what the stream wraps; doubles and unsigned integers are still missing of InferParameter."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert service.methods_by_name["ModelStreamInfer"].output_type.name == "ModelInferResponse"
    assert set(pb.InferParameter.DESCRIPTOR.fields_by_name) == {"bool_param", "int64_param", "string_param"}
    parameter = pb.InferParameter.FromString(b"\x21" + bytes(8))
    assert [(field.field_number, field.data) for field in UnknownFieldSet(parameter)] == [(4, 0)]


def test_uvicorns_connection_has_the_state_that_the_clock_reads() -> None:
    """h11's two states, the keep-alive timer, and the hooks around them."""
    source = inspect.getsource(H11Protocol)
    for name in ("self.timeout_keep_alive_task", "self.conn", "self.transport", "self.loop", "on_response=self.on_response_complete"):
        assert name in source
    for name in ("connection_made", "data_received", "connection_lost", "on_response_complete", "send_400_response"):
        assert callable(getattr(H11Protocol, name))


def test_uvicorns_request_has_the_state_that_the_pipe_reads_and_sets() -> None:
    """What its `send` does at a response's start, and its `receive` before it waits; h11's steps within `send`, which are taken apart."""
    cycle, sending = inspect.getsource(RequestResponseCycle), inspect.getsource(h11.Connection.send_with_data_passthrough)
    for name in ("flow", "transport", "conn", "scope", "default_headers", "more_body", "message_event", "disconnected"):
        assert f"self.{name} = " in cycle
    start = inspect.getsource(RequestResponseCycle.send).partition("elif not self.response_complete:")[0]
    assert set(re.findall(r"self\.(\w+) = ", start)) == {"response_started", "waiting_for_100_continue"}
    assert "await self.message_event.wait()" in cycle
    places = [
        sending.index(step) for step in ("_clean_up_response_headers_for_sending(", "self._writer", "_process_event(", "writer(event")
    ]
    assert places == sorted(places)


def test_uvicorns_server_has_the_state_that_the_drain_reads() -> None:
    """`should_exit`, the tasks and the connections; `capture_signals` is a context manager around serving."""
    server = uvicorn.Server(uvicorn.Config(lambda: None, log_config=None))
    assert (server.should_exit, server.server_state.tasks, server.server_state.connections) == (False, set(), set())
    assert "with self.capture_signals():" in inspect.getsource(uvicorn.Server.serve)
