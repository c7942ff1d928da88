"""Pilothouse serves MLflow's Phi-3 models on Kubernetes."""

from typing import TYPE_CHECKING, Any

from pilothouse.version import __version__

if TYPE_CHECKING:
    from pilothouse.runtime import ChatRuntime

__all__ = ["ChatRuntime", "__version__"]


def __getattr__(name: str) -> Any:
    """`pilothouse.ChatRuntime`, the name for model-settings.json; imported when asked for, as it brings MLServer."""
    if name == "ChatRuntime":
        from pilothouse.runtime import ChatRuntime

        return ChatRuntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
