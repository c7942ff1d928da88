"""One piece of work as MLflow's run: where it is kept, what went into it, and its address for people.

Under `mlflow run` the run that MLflow began for the project is the one that is written to.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pilothouse.models import tracking
from pilothouse.version import __version__

EXPERIMENT = "pilothouse"
KIND = "pilothouse.kind"
"""A run's tag: prepare, package, evaluate or bench."""
_LONGEST = 250  # characters of a parameter's value, well below what any store takes


def experiment(flow: ModuleType, name: str, address: str) -> str:
    """The id of the experiment, made if missing; a new one in a SQLite store keeps its files beside the store."""
    client = flow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    file = tracking.database(address)
    place = (file.parent / "mlruns" / re.sub(r"[^A-Za-z0-9._-]+", "-", name)).as_uri() if file else None
    return str(client.create_experiment(name, artifact_location=place))


@contextmanager
def started(
    flow: ModuleType, address: str, kind: str, name: str, *, experiment_name: str = EXPERIMENT, params: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """MLflow's run, active within; it ends as failed where the work raises. `params` that are None are left out."""
    of_project = "MLFLOW_RUN_ID" in os.environ
    where = None if of_project else experiment(flow, experiment_name, address)
    with flow.start_run(experiment_id=where, run_name=name, tags={KIND: kind, "pilothouse.version": __version__}) as run:
        known = flow.MlflowClient().get_run(run.info.run_id).data.params  # of the project's entry point
        log_params(flow, {key: value for key, value in (params or {}).items() if key not in known})
        yield run


def log_params(flow: ModuleType, params: Mapping[str, Any]) -> None:
    """Parameters of the active run, each short enough for any store."""
    flow.log_params({key: str(value)[:_LONGEST] for key, value in params.items() if value is not None})


def log_folder(flow: ModuleType, folder: Path, name: str, context: str) -> None:
    """The folder as an input of the active run: where it is, and a digest of what is in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sources of every kind warn while they are looked through
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        source = resolve_dataset_source(str(folder.absolute()))
    of: Any = MetaDataset  # abstract by its types alone
    flow.log_input(of(source, name=name, digest=_digest(folder)), context=context)


def table(frame: Any, source: Path | str, name: str, targets: str) -> Any:
    """MLflow's dataset of a pandas frame, its digest over what it holds; `targets` is the column with the answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        from mlflow.data.pandas_dataset import from_pandas

        return from_pandas(frame, source=str(source), targets=targets, name=name)


def page(address: str, run: Any) -> str:
    """A run's address for people: its page, or for a file's store how to see it."""
    path = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    if address.startswith(("http://", "https://")):
        return f"{tracking.shown(address).rstrip('/')}/{path}"
    return f"http://127.0.0.1:5000/{path} (once `mlflow server --backend-store-uri {tracking.shown(address)}` runs)"


def _digest(folder: Path) -> str:
    """32 hexadecimal digits (MLflow takes 36) over every file's path and SHA-256."""
    files = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as opened:
            files.update(f"{path.relative_to(folder)}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return files.hexdigest()[:32]
