"""A Hugging Face folder, loaded with transformers' own classes, from safetensors, on the device and in the numbers that were asked for."""

import os
from pathlib import Path
from typing import Any

from pilothouse.errors import ModelError


def library() -> tuple[Any, Any]:
    """torch and transformers, asking no hub."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library loads
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(f"a Transformers model needs torch and transformers: pip install 'pilothouse[transformers]' ({error})") from error
    return torch, transformers


def device(torch: Any, asked: str) -> str:
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and found != "cuda":
        raise ModelError("no GPU answered: device is cuda and torch sees none; give the pod a GPU, or set device to cpu")
    return found if asked == "auto" else asked


def dtype(torch: Any, asked: str, on: str, config: Any) -> Any:
    """auto: float32 on a CPU, where less is not exact and rarely faster; the format of the weights on a GPU."""
    if asked != "auto":
        return getattr(torch, asked)
    return torch.float32 if on == "cpu" else (config.dtype or torch.bfloat16)


def config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ModelError(f"there is no readable config.json in {folder}: give a Transformers model's own folder")
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )  # code of the model's own (auto_map) is passed over
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"transformers can't read config.json in {folder}: {error}") from error


def load(folder: Path, config: Any, dtype: Any, device: str, attention: str) -> Any:
    """The model, ready to answer; weights from safetensors only, since other files can run code."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            device_map={"": device} if device != "cpu" else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"transformers can't load the model in {folder} (safetensors weights of a causal language model are needed): {error}"
        ) from error
    return model.eval()
