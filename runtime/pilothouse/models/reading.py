"""Small readers of what somebody else wrote: each answers the value it promises, or a `ModelError` that names the file and the way out."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pilothouse.errors import ModelError
from pilothouse.messages import Defaults

_LARGEST = 32 << 20  # bytes of a text file that is parsed here


def within(root: Path, written: Any, what: str, *, folder_wanted: bool = True) -> Path:
    """The path `written` below `root`; one that was logged on Windows has its separators mended."""
    path = PurePosixPath(str(written or "").replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ModelError(f"{what}: {written!r} does not lie within the model's folder; log the model again")
    if folder_wanted and not (root / path).is_dir():
        raise ModelError(f"{what}: {path} is missing from {root}; fetch the model again")
    return root / path


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST:
            raise ModelError(f"{file.name} is over {_LARGEST >> 20} MiB; that is not a model's description")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} can't be read ({type(error).__name__}); check its permissions or fetch the model again") from None


def json_of(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError):
        raise ModelError(f"{file} is not JSON; fetch the model again") from None


def yaml_of(file: Path) -> Any:
    try:
        return yaml.load(_text(file), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        raise ModelError(f"{file} is not YAML; fetch the model again") from None


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{what} is missing or no mapping; log or export the model again")
    return value


def count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{what} must be a whole number of tokens, not {value!r}; export the model again")
    return value


def ids(value: Any, what: str) -> frozenset[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ModelError(f"{what} must be token ids, not {value!r}; export the model again")
    return frozenset(ids)


def defaults(config: Mapping[str, Any]) -> Defaults:
    """The defaults that a `model_config` states. Raises `ModelError` that names a value out of bounds; other keys are not ours."""
    config = {key: value for key, value in config.items() if value is not None}
    stated: dict[str, Any] = {}
    for name, low, high in _NUMBERS:
        if name in config:
            value, whole = config[name], name in ("max_length", "max_tokens", "top_k")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
                raise ModelError(
                    f"model_config: {name} must be a {'whole ' if whole else ''}number between {low} and {high}, not {value!r}"
                )
            stated[name] = value if whole else float(value)
    if "max_new_tokens" in config and "max_tokens" not in stated:
        stated["max_tokens"] = defaults({"max_tokens": config["max_new_tokens"]}).max_tokens
    if config.get("do_sample") is False:
        stated["temperature"] = 0.0
    if "stop" in config:
        stop = config["stop"]
        stop = (stop,) if isinstance(stop, str) else stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ModelError(f"model_config: stop must be a text or a list of texts, not {config['stop']!r}")
        stated["stop"] = tuple(stop)
    return Defaults(**stated)


_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("max_length", 1, 1 << 30),
    ("max_tokens", 1, 1 << 30),
    ("temperature", 0, 100),
    ("top_p", 1e-6, 1),
    ("top_k", 0, 1 << 30),
    ("min_p", 0, 1),
    ("repetition_penalty", 1e-3, 100),
)
