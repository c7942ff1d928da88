"""Every engine that could carry a model, timed on this machine one after the other: what `auto` guesses from the CPU, measured."""

from collections.abc import Iterator
from pathlib import Path

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines import cpu, timing
from pilothouse.engines.base import TokenEngine
from pilothouse.engines.timing import Timing
from pilothouse.errors import ModelError
from pilothouse.models import pocket, registry, source
from pilothouse.models.choosing import ONNX_ENGINES, Choice
from pilothouse.settings import Settings


def engines(settings: Settings, *, seconds: float = 1.0) -> Iterator[tuple[dict[str, str], Timing | str]]:
    """The settings that choose each engine with its figures, or with the reason that it can't carry the model. About ten times `seconds` each."""
    folder = registry.resolve(settings.model or str(pocket.FOLDER), tracking_uri=settings.tracking_uri).folder
    described = source.describe(Path(folder))
    if described.kind == "pyfunc":
        raise ModelError(f"{described.model_name} is a generic pyfunc: no engine computes it")
    vocabulary = Tokenizer.from_folder(described.tokenizer_folder, end_ids=described.end_ids).size
    for changes in _variants(described.kind):
        choice = Choice(settings.model_copy(update=changes), described.kind, described.folder, described.context or 4096)
        try:
            engine = choice()
        except ModelError as refusal:
            yield changes, str(refusal)
            continue
        if isinstance(engine, TokenEngine):
            engine.close()
            yield changes, "it schedules by itself, on another device: not timed beside the engines of the CPU"
            continue
        try:
            engine.warm_up()
            yield changes, timing.measure(engine, vocabulary, seconds=seconds)
        finally:
            engine.close()


def _variants(kind: str) -> list[dict[str, str]]:
    """What to time, as the settings that choose it."""
    if kind != "onnx":
        return [{"engine": "transformers"}]
    wide = [{"engine": "paged", "dtype": "bfloat16"}] if "bf16" in cpu.features() else []
    return [*({"engine": name} for name in ONNX_ENGINES), *wide]
