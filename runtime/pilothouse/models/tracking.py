"""MLflow's store: the one import of MLflow for this room, and which store is meant.

MLflow reads its store's address from process-wide state, and by default waits minutes for a server that is gone: both are bounded here.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pilothouse.errors import ModelError

DATABASE = "mlflow.db"
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
"""Seconds, tries and back-off for one request, where the environment does not say."""

_FIXED = {
    "MLFLOW_UV_AUTO_DETECT": "false",  # else the current folder's uv.lock and pyproject.toml are copied into each model
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a run's address is ours to print: standard output may be JSON
}


def mlflow() -> ModuleType:
    """MLflow with its pyfunc room, its usage reports off. Raises `ModelError` where it is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own modules warn about each other when they are imported
            import mlflow
            import mlflow.pyfunc
    except ImportError:
        raise ModelError("MLflow is not installed, and models:/, runs:/ and packaging need it; pip install 'pilothouse[mlflow]'") from None
    return mlflow


def address(given: str | None = None) -> str:
    """The store that is meant: `given`, else MLFLOW_TRACKING_URI, else a SQLite file in the current folder. Relative files are made absolute."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
    file = database(uri)
    return f"sqlite:///{file}" if file else uri


def database(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute()


@contextmanager
def store(uri: str) -> Iterator[ModuleType]:
    """MLflow, pointed at the store `uri` for a while; what it was pointed at before is restored."""
    flow = mlflow()
    logger = logging.getLogger("mlflow")
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", *_FIXED, *_PATIENCE)
    before = {name: os.environ.get(name) for name in names}
    set_before = flow.get_tracking_uri() if flow.is_tracking_uri_set() else None
    level = logger.level
    try:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        os.environ.update(_FIXED)
        if not sys.stderr.isatty():
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        logger.setLevel(logging.ERROR)  # its hints are about its own servers
        flow.set_tracking_uri(uri)
        yield flow
    finally:
        logger.setLevel(level)
        flow.set_tracking_uri(set_before)
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def shown(address: str) -> str:
    """A store's address for people: without a user's name and password."""
    return re.sub(r"//[^/@]*@", "//", address)


def said(error: BaseException) -> str:
    """The first line of a library's error, of urllib3's only the cause, for the operator alone: no client ever reads it."""
    if cause := re.search(r"\(Caused by \w+\([\"'](?:\w+\([^)]*\): )?(.*?)[\"']\)\)", str(error)):
        return shown(cause[1])
    return shown((str(error).splitlines() or [""])[0])[:300] or type(error).__name__
