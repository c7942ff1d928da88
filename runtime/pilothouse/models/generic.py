"""Any other MLflow pyfunc: loaded by MLflow, run on threads of its own, spoken to over V2 and /invocations.

Loading one runs the Python that it was logged with, so the settings must allow it; unpickling needs MLflow's own switch besides.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pilothouse.errors import EngineFailed, InvalidRequest, ModelError, Overloaded, PilothouseError, UnsupportedMedia
from pilothouse.models import manifest, tracking
from pilothouse.models.source import Described

if TYPE_CHECKING:
    from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor

T = TypeVar("T")

log = logging.getLogger(__name__)

PICKLE_SWITCH = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
WORKERS = 4  # MLflow's own server calls predict from several threads as well


class _Unsaid(Exception):
    """Stands in the log for an error whose words may quote the request."""


def _failed(error: Exception) -> EngineFailed:
    """What the client is told. The log has the error's kind and where it was raised, in files and lines; its words may quote what was sent."""
    kind = type(error)
    log.error("the model failed", exc_info=(_Unsaid, _Unsaid(f"{kind.__module__}.{kind.__qualname__}"), error.__traceback__))
    return EngineFailed()


class GenericModel:
    """One pyfunc. `load` blocks; everything else is for the event loop."""

    def __init__(self, described: Described, *, allow_code: bool = False, workers: int = WORKERS, queue: int = 64) -> None:
        """`allow_code` is the settings' permission to run the model's code; beyond `workers` calls, `queue` may wait.

        Raises `ModelError` when a permission is missing.
        """
        if not allow_code:
            raise ModelError(
                f"{described.model_name} is a pyfunc of its own ({described.architecture}), and loading it runs its code; "
                "set allow_model_code if you trust it"
            )
        if described.pickled and os.environ.get(PICKLE_SWITCH, "false").lower() not in ("true", "1"):
            raise ModelError(
                f"{described.model_name} is loaded from a pickle, which can run anything; log it as models-from-code, "
                f"or set {PICKLE_SWITCH}=true if you trust it"
            )
        if (described.root / manifest.NAME).is_file() and (found := next(described.root.rglob("*.pyc"), None)) is not None:
            raise ModelError(f"{found.relative_to(described.root)} is byte code that Python would run unchecked; remove it")
        self.described = described
        self._model: Any = None
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pilothouse-pyfunc")
        self._room = workers + queue
        self._taken = 0

    def load(self) -> None:
        """Load with MLflow. Raises `ModelError`; the reason of the model's own code is chained to it."""
        os.environ.setdefault(PICKLE_SWITCH, "false")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        flow = tracking.mlflow()
        try:
            self._model = flow.pyfunc.load_model(str(self.described.root))
        except Exception as error:
            raise ModelError(
                f"{self.described.model_name} does not load ({type(error).__name__}: {tracking.said(error)}); "
                "install its requirements.txt and try mlflow.pyfunc.load_model on it"
            ) from error

    def close(self) -> None:
        """Calls that wait are dropped; one that runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def tensors(self) -> "tuple[list[MetadataTensor], list[MetadataTensor]]":
        """V2's inputs and outputs, as the model's signature has them; empty where it has none."""
        from pilothouse.models import generic_codecs

        return generic_codecs.tensors(self._model.metadata.signature)

    async def predict(self, request: "InferenceRequest") -> "InferenceResponse":
        """V2: tensors in and out by the model's signature. Raises `InvalidRequest`, `Overloaded`, `EngineFailed`."""
        return await self._run(lambda: self._predict(request))

    async def invocations(self, body: bytes, content_type: str) -> bytes:
        """MLflow's route: the body in any of its forms (JSON, CSV), the answer as MLflow's own server writes it. Raises as `predict` does."""
        return await self._run(lambda: self._invocations(body, content_type))

    def _predict(self, request: "InferenceRequest") -> "InferenceResponse":
        from pilothouse.models import generic_codecs

        signature = self._model.metadata.signature
        params = generic_codecs.params(request, signature)
        data = generic_codecs.decode(request, signature)
        answer = self._ask(data, params)
        return generic_codecs.encode(
            answer, signature, name=self.described.model_name, version=self.described.version, request_id=request.id
        )

    def _invocations(self, body: bytes, content_type: str) -> bytes:
        from mlflow.pyfunc import scoring_server

        if not content_type:
            raise UnsupportedMedia("Content-Type is missing; send application/json or text/csv", field="content-type")
        schema = self._model.metadata.get_input_schema()
        try:
            answer = scoring_server.invocations(body, content_type, _Asked(self), schema)  # type: ignore[no-untyped-call]  # MLflow's
        except Exception as error:
            if isinstance(error.__context__, PilothouseError):  # judged in `_ask`, then wrapped by MLflow
                raise error.__context__ from None
            log.info("an /invocations body was refused: %s", type(error).__name__)  # its text holds what was sent
            raise InvalidRequest(
                "the body is none that MLflow reads for this model: send one of dataframe_split, dataframe_records, inputs, instances"
                + self._wanted()
            ) from None
        if answer.status != 200:
            raise UnsupportedMedia("send application/json, text/csv or application/vnd.apache.parquet, in UTF-8", field="content-type")
        return str(answer.response).encode()

    def _ask(self, data: Any, params: dict[str, Any] | None) -> Any:
        """The model's answer. What doesn't fit its signature is the client's error, what its code raises ours."""
        from mlflow.exceptions import MlflowException

        try:
            return self._model.predict(data, params=params)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise _failed(error) from None
            log.info("a request was refused: %s", error.error_code)  # its text holds what was sent
            raise InvalidRequest(f"the input does not fit the model{self._wanted()}", field="inputs") from None
        except Exception as error:
            raise _failed(error) from None

    def _wanted(self) -> str:
        """The signature's inputs, for a refusal."""
        schema = self._model.metadata.get_input_schema()
        names = [f"{spec.name or i}: {getattr(spec.type, 'name', spec.type)}" for i, spec in enumerate(schema.inputs)] if schema else []
        return f"; its inputs are {', '.join(names)}" if names else ""

    async def _run(self, work: Callable[[], T]) -> T:
        """`work` on a thread; a call whose client went away keeps its place until it ends."""
        if self._taken >= self._room:
            raise Overloaded(f"{self._taken} requests are running or waiting; send it again later")
        self._taken += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._leave))
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        self._taken -= 1


class _Asked:
    """The model as MLflow's scoring server wants it, with our own way of asking."""

    def __init__(self, model: GenericModel) -> None:
        self._ask = model._ask
        self.metadata = model._model.metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return self._ask(data, params)
