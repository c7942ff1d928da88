"""The model repository behind the admin switch: exactly the models this server was started with, and no folder that is searched."""

from collections.abc import Sequence

from mlserver import ModelSettings
from mlserver.errors import ModelNotFound
from mlserver.repository import ModelRepository


class FixedRepository(ModelRepository):  # type: ignore[misc]  # MLServer has no types
    """What `/v2/repository/index` lists, and load finds: no client names code or files."""

    def __init__(self) -> None:
        self.models: Sequence[ModelSettings] = ()

    async def list(self) -> Sequence[ModelSettings]:
        return self.models

    async def find(self, name: str) -> Sequence[ModelSettings]:
        found = [model for model in self.models if model.name == name]
        if not found:
            raise ModelNotFound(name)
        return found
