"""A real tracking server for the whole stage, and a real server of ours that sends its traces there."""

import warnings
from collections.abc import Callable, Iterator

import pytest

from monitoring.asking import KEYS, found
from support.server import Served, served
from support.tracking import server
from support.waiting import waited

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own modules warn about each other
    import mlflow
    from mlflow.entities import Trace


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> Iterator[None]:
    """No store but the one that a test names, no telemetry; spans go out soon."""
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        patch.delenv(name, raising=False)
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    with server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running.url


@pytest.fixture(scope="session")
def traced(tracking: str) -> Iterator[Served]:
    """The pocket model, every request traced, without content and without keys."""
    with served(traces=True, trace_experiment="served", tracking_uri=tracking) as server:
        yield server


@pytest.fixture(scope="session")
def keyed(tracking: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same with two keys, and with content."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("".join(f"{name}:{key}\n" for name, key in KEYS.items()))
    with served(traces=True, trace_experiment="keyed", trace_content=True, tracking_uri=tracking, api_keys_file=keys) as server:
        yield server


@pytest.fixture
def arrived(tracking: str) -> Callable[[str], Trace]:
    """A trace by its id, once MLflow has it: read with MLflow's own client."""
    client = mlflow.MlflowClient(tracking_uri=tracking)

    def get(trace_id: str) -> Trace:
        return waited(lambda: found(client, trace_id), f"no trace {trace_id} arrived")

    return get
