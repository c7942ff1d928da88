"""The models that are served, by name and version: what REST, gRPC and health all look up."""

from typing import TYPE_CHECKING, Any

from pilothouse.errors import NotFound, NotReady
from pilothouse.protocols.fields import shown
from pilothouse.server.health import Health, Phase

if TYPE_CHECKING:
    from mlserver import MLModel
    from mlserver.registry import MultiModelRegistry


class Catalog:
    """A view of MLServer's registry that never waits and never makes a label of a client's word."""

    def __init__(self, registry: "MultiModelRegistry") -> None:
        self._registry = registry
        self.health: Health

    def all(self) -> list["MLModel"]:
        """Every registered model, loading ones too."""
        found: list[Any] = []
        for single in self._registry._models.values():
            found.extend(single._versions.values())
            if single.default is not None and single.default not in found:
                found.append(single.default)
        return found

    def find(self, name: str, version: str | None = None) -> "MLModel":
        """The model, ready or not. Raises `NotFound`, or `NotReady` while it can't be told."""
        single = self._registry._models.get(name)
        model = single._find_model(version or None) if single is not None else None
        if model is not None:
            return model
        if self.starting:
            raise NotReady("the model is loading; ask again when /v2/health/ready answers 200")
        if single is not None and version:
            raise NotFound(f"model {shown(name)} has no version {shown(version)}", field="model_version", code="model_not_found")
        served = ", ".join(sorted(self._registry._models)) or "none"
        raise NotFound(f"model {shown(name)} is not served here; served: {served}", field="model", code="model_not_found")

    def ready(self, name: str, version: str | None = None) -> "MLModel":
        """The model, fit to answer. Raises `NotFound` or `NotReady`."""
        model = self.find(name, version)
        self.demand(model)
        return model

    def demand(self, model: "MLModel") -> None:
        """Raise `NotReady` unless `model` can answer; a server that drains still does."""
        if reason := self.health.unfit(model):
            raise NotReady(reason)

    def admit(self, model: "MLModel", *, ahead: int = 0) -> None:
        """Raise `Overloaded` where `model` has no place for one more request behind `ahead` others; asked before any work is done for it."""
        admit = getattr(model, "admit", None)
        if admit is not None:
            admit(ahead)

    @property
    def starting(self) -> bool:
        """Whether nothing is known yet of what will be served."""
        return not self._registry._models and self.health.phase is Phase.STARTING
