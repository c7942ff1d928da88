"""From settings to something that answers: the model is found, judged, loaded and warm.

Nothing of a model's own code runs here but for a generic pyfunc that the settings allow.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.base import Engine, Guidance
from pilothouse.engines.loop import Loop
from pilothouse.messages import Defaults
from pilothouse.models import manifest, pocket, registry, source
from pilothouse.models.choosing import Choice
from pilothouse.models.registry import Resolved
from pilothouse.models.source import Described
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.models.generic import GenericModel

log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 4096  # tokens, where a model does not state its window


@dataclass
class Loaded:
    """A model that answers. Exactly one of `engine` (with its tokenizer) and `generic` is there."""

    settings: Settings
    name: str
    version: str
    described: Described
    resolved: Resolved
    defaults: Defaults
    engine: Engine | None = None
    tokenizer: Tokenizer | None = None
    template: ChatTemplate | None = None
    generic: "GenericModel | None" = None
    choice: Choice | None = None
    digest: str | None = None

    @property
    def platform(self) -> str:
        """V2's platform: who wrapped the model and what computes it."""
        return f"mlflow_{self.engine.name if self.engine else 'pyfunc'}"

    @property
    def sentence(self) -> str:
        """One line for people: what answers here."""
        if self.engine is None:
            return f"{self.name} (an MLflow pyfunc)"
        return f"{self.name} ({self.described.architecture}, {self.described.kind}) on the {self.engine.name} engine, {self.engine.device}"

    def describe(self) -> dict[str, Any]:
        """Facts for metadata, metrics and the log. Of a model that lies in a folder, no path: clients read this."""
        facts: dict[str, Any] = {
            "version": self.version,
            "kind": self.described.kind,
            "architecture": self.described.architecture,
            "uri": self.resolved.uri if self.resolved.uri.startswith(("models:", "runs:")) else self.described.registered,
            "digest": self.digest,
        }
        if self.engine is not None:
            facts |= {"engine": self.engine.name, "device": self.engine.device, "context_tokens": self.engine.context}
            facts |= self.engine.describe()
        if self.choice is not None:
            facts["chosen"] = "; ".join(self.choice.reasons)
        return {name: fact for name, fact in facts.items() if fact is not None}

    def close(self) -> None:
        """Stop the engine's thread; blocks until it ended."""
        if self.engine is not None:
            self.engine.stop()
        if self.generic is not None:
            self.generic.close()


def begin(settings: Settings, *, observer: "EngineObserver | None" = None) -> "Future[Loaded]":
    """Start loading on a thread of its own and answer at once; the future has the model, or the `ModelError`."""
    future: Future[Loaded] = Future()

    def work() -> None:
        try:
            future.set_result(load(settings, observer=observer))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="pilothouse-load", daemon=True).start()
    return future


def load(settings: Settings, *, observer: "EngineObserver | None" = None) -> Loaded:
    """Find, judge and load the model that `settings` name; returns once it has answered.

    Raises `ModelError` with one line: what is wrong and what to do.
    """
    resolved = registry.resolve(settings.model or str(pocket.FOLDER), tracking_uri=settings.tracking_uri)
    digest = _verified(resolved) if settings.verify_digests else resolved.digest
    name = settings.model_name or resolved.name or ("pocket" if settings.model is None else None)
    described = source.describe(resolved.folder, name=name, version=resolved.version)
    loaded = Loaded(
        settings=settings,
        name=described.model_name,
        version=described.version or "1",
        described=described,
        resolved=resolved,
        digest=digest,
        defaults=described.defaults,
    )
    if described.kind == "pyfunc":
        from pilothouse.models.generic import GenericModel  # imports mlflow: three seconds

        loaded.generic = GenericModel(described, allow_code=settings.allow_model_code)
        loaded.generic.load()
        return loaded
    loaded.tokenizer = Tokenizer.from_folder(described.tokenizer_folder, end_ids=described.end_ids)
    loaded.template = ChatTemplate.from_folder(described.tokenizer_folder, loaded.tokenizer)
    loaded.engine = _engine(loaded, loaded.tokenizer, observer or EngineObserver())
    loaded.engine.start()
    log.info("%s is loaded", loaded.name, extra={"fields": loaded.describe()})
    return loaded


def _verified(resolved: Resolved) -> str | None:
    """The manifest's digest, every file checked against it. A bare folder of the user's own has none, and may be made of links."""
    if resolved.digest is None and not (resolved.folder / manifest.MLMODEL).is_file() and not (resolved.folder / manifest.NAME).is_file():
        return None
    found = manifest.verify(resolved.folder, expected=resolved.digest)
    return found.digest if found else None


@dataclass(frozen=True)
class EngineObserver:
    """What the engine's thread tells of itself."""

    queued: Callable[[float], None] = lambda seconds: None  # seconds that a job waited


def _engine(loaded: Loaded, tokenizer: Tokenizer, observer: EngineObserver) -> Engine:
    settings, described = loaded.settings, loaded.described
    loaded.choice = choice = Choice(settings, described.kind, described.folder, described.context or DEFAULT_CONTEXT)

    def guidance() -> Guidance:
        from pilothouse.engines.guidance import LLGuidance

        return LLGuidance(
            tokenizer.source,
            tokenizer.end_ids,
            tokenizer.size,
            max_schema_bytes=settings.max_schema_bytes,
            max_schema_depth=settings.max_schema_depth,
        )

    return Loop(
        choice,
        tokenizer,
        guidance=guidance,
        queue=settings.queue,
        queue_tokens=settings.queue_tokens,
        queue_seconds=settings.queue_seconds,
        request_seconds=settings.request_seconds,
        speculation=settings.speculation,
        on_queue=observer.queued,
        on_failure=_log_failure,
    )


def _log_failure(error: BaseException) -> None:
    log.error("the engine failed: %s", error, exc_info=error)
