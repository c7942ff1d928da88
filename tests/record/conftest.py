"""Both sides, for the session, and what they were seen to do."""

import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of names that newer Starlettes deprecate
    import mlserver.grpc.dataplane_pb2_grpc  # noqa: F401

from record import page
from record.case import Seen
from record.sides import Ours, Stock

RUNS: dict[str, tuple[Seen, Seen]] = {}


@pytest.fixture(scope="session")
def runs() -> dict[str, tuple[Seen, Seen]]:
    """What each entry's two sides were seen to do, as far as they ran."""
    return RUNS


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stock, Ours]]:
    """Stock MLServer and ours; every host that a case started is ended."""
    with pytest.MonkeyPatch.context() as patch:
        # Models are packaged in this process: without telemetry, a hub, or this checkout's uv.lock beside them.
        for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_UV_AUTO_DETECT": "false", "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(name, value)
        models = tmp_path_factory.mktemp("models")
        stock, ours = Stock(tmp_path_factory.mktemp("stock"), models), Ours(tmp_path_factory.mktemp("ours"), models)
        yield stock, ours
        ours.close()
        stock.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The two columns."""
    if RUNS:
        terminalreporter.section("the record: what was tried, stock MLServer, Pilothouse")
        for line in page.columns(RUNS):
            terminalreporter.write_line(line)
