"""What a Hugging Face folder must be to be loaded: whole, on the list, from safetensors, and with no code of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import reading

ARCHITECTURES = frozenset(
    {
        "Phi3ForCausalLM",  # Phi-3, Phi-3.5 and Phi-4-mini
        "PhiForCausalLM",
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "MistralForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
    }
)
"""What transformers itself brings the code for, and what the engines were written for."""
_OWN_CODE = ("auto_map", "custom_generate", "custom_pipelines")  # keys that ask transformers to import the folder's Python


def check(folder: Path, tokenizer: Path | None = None, *, ignore_own_code: bool = False) -> None:
    """Refuse a Hugging Face folder that is not whole, not on the list, pickled, or that asks for code of its own.

    Raises `ModelError` with what to do.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give the folder that save_pretrained or a download made")
    for file in sorted({*folder.glob("*config.json"), *(tokenizer or folder).glob("*config.json")}):
        if not ignore_own_code and (found := next(_asks_for_code(reading.json_of(file)), None)):
            raise ModelError(f"{file.name}: {found} asks for Python code of the model's own, which is never run; package the model again")
    architectures = reading.mapping(reading.json_of(folder / "config.json"), "config.json").get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
        raise ModelError(f"config.json: architectures {architectures} is not served here; the list is {', '.join(sorted(ARCHITECTURES))}")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors (pickled weights are never loaded); save it with save_pretrained")
    if not ((tokenizer or folder) / "tokenizer.json").is_file():
        raise ModelError(f"{tokenizer or folder} has no tokenizer.json; save the tokenizer with save_pretrained")


def _asks_for_code(value: Any) -> Iterator[str]:
    """Keys, however deep, that make transformers import Python files of the folder."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _OWN_CODE and inner:
                yield key
            yield from _asks_for_code(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _asks_for_code(inner)


def architecture(folder: Path) -> str:
    """The one architecture of a Hugging Face folder that `check` took."""
    return str(reading.json_of(folder / "config.json")["architectures"][0])
