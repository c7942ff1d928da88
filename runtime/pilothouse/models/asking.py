"""Questions to an MLflow store: which of them it can't answer because there is no such thing, and which because it is not there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

from pilothouse.errors import ModelError
from pilothouse.models import tracking

T = TypeVar("T")


class Asker:
    """Runs one question to the store: None when it says "does not exist", a `ModelError` when it does not answer."""

    def __init__(self, flow: ModuleType, address: str) -> None:
        self._refusal = flow.exceptions.MlflowException
        self.address = address

    def __call__(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._refusal as refusal:
            if refusal.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"):
                return None
            raise ModelError(
                f"the MLflow store {tracking.shown(self.address)} did not answer ({tracking.said(refusal)}); check that it runs, its address and credentials"
            ) from refusal
        except ModelError:
            raise
        except Exception as failure:
            raise ModelError(
                f"the MLflow store {tracking.shown(self.address)} did not answer ({type(failure).__name__}); check that it runs and its address"
            ) from failure


@contextmanager
def opened(address: str) -> Iterator[ModuleType]:
    """MLflow at `address`; a SQLite file that is not there is said, not made."""
    if (file := tracking.database(address)) and not file.is_file():
        raise ModelError(f"there is no MLflow store at {file}; name one with --tracking-uri or MLFLOW_TRACKING_URI")
    with tracking.store(address) as flow:
        yield flow
