"""Which engine computes a model's tokens: settings, the model's kind and this machine decide, in that order, and the reason is kept in words."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.engines import cpu, genai_model
from pilothouse.engines.base import StepEngine, TokenEngine
from pilothouse.engines.refusals import GraphRefused
from pilothouse.errors import ModelError
from pilothouse.settings import Settings

log = logging.getLogger(__name__)

_INSTALL = {"onnx": "pip install 'pilothouse[onnx]'", "transformers": "pip install 'pilothouse[transformers]'"}
ONNX_ENGINES = ("paged", "slots", "genai")


@dataclass
class Choice:
    """Makes the engine, on the thread that will own it; afterwards `reasons` says why this one."""

    settings: Settings
    kind: str  # onnx or transformers
    folder: Path
    context: int  # the model's own window, in tokens
    reasons: list[str] = field(default_factory=list)

    def __call__(self) -> StepEngine | TokenEngine:
        """The first engine that takes this model. Raises `ModelError` when the one that was asked for refuses, or none is left."""
        self.reasons.clear()
        for name in self._candidates():
            try:
                return _MAKERS[name](self)
            except GraphRefused as refusal:
                if self.settings.engine == name:
                    raise ModelError(f"{refusal}; set engine to auto") from None
                self.reasons.append(str(refusal))
                log.info("%s; trying the next engine", refusal)
            except ModuleNotFoundError as missing:
                if self.settings.engine == name or self.kind == "transformers":
                    raise ModelError(f"engine {name} needs {missing.name}, which is not installed: {_INSTALL[self.kind]}") from None
                self.reasons.append(f"the {name} engine needs {missing.name}, which is not installed")
        raise ModelError(f"no engine can carry the model in {self.folder}: {'; '.join(self.reasons)}")

    def _candidates(self) -> tuple[str, ...]:
        asked = self.settings.engine
        if self.kind == "transformers":
            if asked not in ("auto", "transformers"):
                raise ModelError(f"engine {asked} needs an ONNX model and this is a Transformers one; set engine to auto or transformers")
            return ("transformers",)
        if asked == "transformers":
            raise ModelError(
                "engine transformers needs a Transformers model and this is an ONNX one; set engine to auto, paged, slots or genai"
            )
        if asked in ("paged", "slots") and self.settings.device == "cuda":
            raise ModelError(
                f"no GPU answered: device is cuda and the {asked} engine computes on the cpu; set engine to auto, or device to cpu"
            )
        if self.settings.dtype == "float16" or (self.settings.dtype == "bfloat16" and asked not in ("auto", "paged")):
            raise ModelError(
                f"dtype {self.settings.dtype} is not for this model: of the engines for ONNX the paged one alone has a choice, float32 or bfloat16;"
                " set dtype to auto"
            )
        if asked != "auto":
            self.reasons.append(f"setting engine is {asked}")
            return (asked,)
        if self.settings.dtype == "bfloat16":
            self.reasons.append("setting dtype is bfloat16, which only the paged engine computes in")
            return ("paged",)
        provider = genai_model.read(self.folder).provider
        if self.settings.device == "cuda":
            genai_model.refuse(self.folder, provider, "cuda")  # before anything is loaded
            self.reasons.append("setting device is cuda, which only the genai engine computes on")
            return ("genai",)
        if self.settings.device == "auto" and provider == "cuda":
            self.reasons.append("the model is a build for CUDA")
            return ("genai", "paged", "slots")
        first, why = cpu.choose(cpu.features())
        self.reasons.append(why)
        return (first, *(name for name in ONNX_ENGINES if name != first))

    @property
    def threads(self) -> int:
        return self.settings.threads or cpu.threads()

    @property
    def window(self) -> int:
        """Tokens of prompt and answer: the setting, never above the model's own."""
        return min(self.settings.context_tokens or self.context, self.context)

    @property
    def rows(self) -> int:
        return self.settings.rows or cpu.rows()

    @property
    def kv_memory(self) -> int:
        return self.settings.kv_memory_bytes or cpu.kv_memory(cpu.weights_of(self.folder))


def _paged(c: Choice) -> StepEngine:
    from pilothouse.engines.paged import PagedStep

    s = c.settings
    return PagedStep(
        c.folder,
        threads=c.threads,
        rows=c.rows,
        context=c.window,
        kv_memory_bytes=c.kv_memory,
        kv_precision=s.kv_precision,
        dtype="bfloat16" if s.dtype == "bfloat16" else "float32",
        step_tokens=s.step_tokens,
        prefix_cache=s.prefix_cache,
        prefix_isolation=s.prefix_isolation,
    )


def _slots(c: Choice) -> StepEngine:
    from pilothouse.engines.slots import SlotsStep

    s = c.settings
    return SlotsStep(
        c.folder,
        threads=c.threads,
        rows=c.rows,
        context=c.window,
        kv_memory_bytes=c.kv_memory,
        step_tokens=s.step_tokens,
        prefix_cache=s.prefix_cache,
        prefix_isolation=s.prefix_isolation,
    )


def _genai(c: Choice) -> StepEngine | TokenEngine:
    s = c.settings
    if genai_model.read(c.folder).batching is not None:
        from pilothouse.engines.genai_batching import GenaiBatching

        return GenaiBatching(
            c.folder,
            threads=c.threads,
            context=c.window,
            rows=s.rows,
            device=s.device,
            kv_memory_bytes=s.kv_memory_bytes,  # a GPU's own memory is the library's to look at
            step_tokens=s.step_tokens,
            prefix_cache=s.prefix_cache,
            prefix_isolation=s.prefix_isolation,
        )
    from pilothouse.engines.genai import GenaiStep

    return GenaiStep(
        c.folder,
        threads=c.threads,
        context=c.window,
        device=s.device,
        kv_memory_bytes=c.kv_memory,
        prefix_cache=s.prefix_cache,
        prefix_isolation=s.prefix_isolation,
    )


def _transformers(c: Choice) -> StepEngine:
    from pilothouse.engines.hf import HFStep
    from pilothouse.engines.hf_serial import HFSerialStep

    s = c.settings
    kv_memory = s.kv_memory_bytes if s.device == "cuda" else c.kv_memory  # a GPU's own memory is the engine's to look at
    if s.attention == "auto":
        try:
            return HFStep(
                c.folder,
                threads=c.threads,
                context=c.window,
                rows=c.rows,
                dtype=s.dtype,
                device=s.device,
                kv_memory_bytes=kv_memory,
                tokens_per_step=s.step_tokens,
            )
        except GraphRefused as refusal:
            c.reasons.append(f"{refusal}; one request at a time")
            log.info("%s; its requests are computed one at a time", refusal)
    else:
        c.reasons.append(f"setting attention is {s.attention}; one request at a time")
    return HFSerialStep(
        c.folder,
        threads=c.threads,
        context=c.window,
        dtype=s.dtype,
        device=s.device,
        attention="sdpa" if s.attention == "auto" else s.attention,
        kv_memory_bytes=kv_memory,
    )


_MAKERS: dict[str, Callable[[Choice], StepEngine | TokenEngine]] = {
    "paged": _paged,
    "slots": _slots,
    "genai": _genai,
    "transformers": _transformers,
}
