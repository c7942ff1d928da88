"""The MLServer runtime: joins the protocols to one served model.

`ChatRuntime` is what model-settings.json names. Under `pilothouse serve` it gets a model that is already loading; under a plain `mlserver
start` (with `parallel_workers: 0`) it loads its own, and answers the same routes.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataTensor, Parameters

from pilothouse import calls
from pilothouse import settings as settings_room
from pilothouse.answering import Answerer
from pilothouse.engines.base import Stats
from pilothouse.errors import InvalidRequest, NotReady
from pilothouse.models import loading, source
from pilothouse.models.loading import Loaded
from pilothouse.protocols import v2
from pilothouse.protocols.limits import Limits
from pilothouse.routes import Routes
from pilothouse.tally import Observer


class ChatRuntime(Routes, MLModel):  # type: ignore[misc]  # MLServer has no types
    """Serves one MLflow model: `Loaded` says which engine answers, or that a generic pyfunc does."""

    def __init__(self, settings: ModelSettings, *, model: "Future[Loaded] | None" = None, observer: Observer | None = None) -> None:
        super().__init__(settings)
        self._future = model
        self._observer = observer
        self._loaded: Loaded | None = None
        self._answerer: Answerer | None = None
        self.limits: Limits | None = None

    # -- life --------------------------------------------------------------------------------------------------------------------

    async def load(self) -> bool:
        """Wait for the model, off the event loop. Ready only after a first answer was computed."""
        if self._future is None:
            self._future = loading.begin(self._kit())
        loaded = await asyncio.wrap_future(self._future)
        self._loaded = loaded
        if loaded.engine is not None:
            assert loaded.tokenizer is not None
            self.limits = Limits.from_settings(loaded.settings, loaded.tokenizer.size)
            self._answerer = Answerer(
                loaded.engine,
                loaded.tokenizer,
                loaded.template,
                defaults=loaded.defaults,
                check=self.limits.check,
                most_tokens=loaded.settings.max_tokens,
                observer=self._observer,
            )
        self.inputs, self.outputs = self._tensors(loaded)
        return True

    async def unload(self) -> bool:
        """Stop the engine's thread and free its memory."""
        loaded, self._loaded, self._answerer = self._loaded, None, None
        if loaded is not None:
            await asyncio.to_thread(loaded.close)
        return True

    def _kit(self) -> settings_room.Settings:
        """Settings under a plain `mlserver start`: `parameters.uri` and `parameters.extra` over the environment."""
        parameters = self.settings.parameters
        values: dict[str, Any] = dict(parameters.extra or {}) if parameters else {}
        # MLServer sets the uri of a model that has none to the folder of its model-settings.json: that names no model by itself.
        if parameters and parameters.uri and source.is_model(parameters.uri):
            values.setdefault("model", parameters.uri)
        values.setdefault("model_name", self.settings.name)
        return settings_room.load(**values)

    def loaded(self) -> Loaded:
        if self._loaded is None:
            raise NotReady("the model is loading; ask again when /v2/health/ready answers 200", retry_after=1.0)
        return self._loaded

    def answerer(self) -> Answerer:
        if self._answerer is None:
            name = self.loaded().name
            raise InvalidRequest(f"{name} is a generic MLflow model: send it tensors over V2, or MLflow's forms to /invocations")
        return self._answerer

    def stats(self) -> Stats | None:
        """The engine's numbers; None for a generic pyfunc, which has no engine."""
        return self._loaded.engine.stats() if self._loaded and self._loaded.engine else None

    def admit(self, ahead: int = 0) -> None:
        """Raise `Overloaded` where a request's answer would find no place behind `ahead` others: asked before its body is read."""
        if self._loaded and self._loaded.engine:
            self._loaded.engine.reserve(1, calls.current().tenant, ahead=ahead)

    def give_up(self) -> None:
        """End what an engine that hangs will not."""
        if self._loaded and self._loaded.engine:
            self._loaded.engine.give_up()

    def describe(self) -> dict[str, Any]:
        """Facts for metadata, metrics and logs."""
        return self.loaded().describe()

    # -- V2 ------------------------------------------------------------------------------------------------------------------------

    async def metadata(self) -> MetadataModelResponse:
        """Names, versions and tensors as they really are; as parameters the address and the digest that the model was resolved to."""
        loaded = self.loaded()
        inputs, outputs = self._tensors(loaded)
        resolved = {name: fact for name, fact in loaded.describe().items() if name in ("uri", "digest")}
        return MetadataModelResponse(
            name=loaded.name,
            versions=[loaded.version],
            platform=loaded.platform,
            inputs=inputs,
            outputs=outputs,
            parameters=Parameters(**resolved) if resolved else None,
        )

    def _tensors(self, loaded: Loaded) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
        if loaded.generic is not None:
            inputs, outputs = loaded.generic.tensors()
            return inputs, outputs
        return v2.INPUTS, v2.OUTPUTS

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One output row for each prompt or chat of the request, in order."""
        loaded = self.loaded()
        if loaded.generic is not None:
            return await loaded.generic.predict(payload)
        assert self.limits is not None
        answers = await self.answerer().answers(v2.requests(payload, self.limits), protocol="v2")
        return v2.response(loaded.name, loaded.version, payload.id, answers)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """Deltas of one prompt or chat as they come; every request of the client's stream in turn."""
        loaded = self.loaded()
        if loaded.generic is not None:
            async for payload in payloads:
                yield await loaded.generic.predict(payload)
            return
        assert self.limits is not None
        async for payload in payloads:
            requests = v2.requests(payload, self.limits)
            if len(requests) != 1:
                raise InvalidRequest(f"a stream answers one prompt, not {len(requests)}; send each in its own request", field="inputs")
            async with aclosing(self.answerer().stream(requests[0], protocol="v2_stream")) as chunks:
                async for chunk in chunks:
                    yield v2.stream_response(loaded.name, loaded.version, payload.id, chunk)
