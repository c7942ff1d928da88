"""Tiny random models of every kind the model builder exports, made once and kept outside the checkout. Needs torch to make them.

`python tests/support/tiny_models.py KIND FOLDER` makes one; tests call `tiny`.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ORIGINAL = 64  # the short window of the long-rope kinds, in tokens
LAYERS = 2
SHAPE: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 320,  # no multiple of it is the vocabulary: the builder takes a product of that size for the head
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,  # large, so that the logits differ clearly
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def _long_rope(pairs: int, part: float) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "type": "longrope",  # the name that the builder reads
        "rope_theta": 10000.0,
        "partial_rotary_factor": part,
        "short_factor": [1 + 0.05 * i for i in range(pairs)],
        "long_factor": [1.5 + 0.5 * i for i in range(pairs)],
    }


LLAMA_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi35": (
        "Phi3Config",
        {"num_key_value_heads": 8, "original_max_position_embeddings": ORIGINAL, "rope_parameters": _long_rope(8, 1.0)},
    ),
    "phi4mini": (
        "Phi3Config",
        {
            "hidden_size": 256,
            "num_attention_heads": 4,
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": ORIGINAL,
            "rope_parameters": _long_rope(24, 0.75),
        },
    ),
    "llama": ("LlamaConfig", {"head_dim": 32, "rope_parameters": LLAMA_ROPE}),
    "mistral": ("MistralConfig", {"head_dim": 16, "sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 64}),
}


def tiny(kind: str) -> Path:
    """The exported int4 folder of `kind`. Makes it (20 s) when its configuration or a library changed; safe in several processes at once."""
    versions = [importlib.metadata.version(name) for name in ("onnxruntime-genai", "transformers", "torch")]
    facts = json.dumps([kind, KINDS[kind], SHAPE, versions], sort_keys=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "tiny"
    wanted = cache / f"{kind}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=cache))
            try:
                _run([sys.executable, __file__, kind, str(scratch / "hf")])
                build = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(scratch / "hf"), "-o", str(scratch / "onnx")]
                _run([*build, "-p", "int4", "-e", "cpu", "--extra_options", "int4_block_size=32", "int4_accuracy_level=4"])
                (scratch / "onnx").rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return wanted


def tiny_hf(kind: str) -> Path:
    """The Hugging Face folder that `tiny` exports, for the engine that needs no export."""
    facts = json.dumps([kind, KINDS[kind], SHAPE, importlib.metadata.version("transformers")], sort_keys=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "tiny-hf"
    wanted = cache / f"{kind}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=cache))
            try:
                make(kind, scratch / "hf")
                (scratch / "hf").rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return wanted


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode != 0:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")


def make(kind: str, folder: Path) -> None:
    """Write a model of random weights with the pocket model's tokenizer, which the builder wants to see."""
    import torch
    import transformers

    from pilothouse.models import pocket

    name, changes = KINDS[kind]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**SHAPE, **changes}))
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pocket.FOLDER / file, folder / file)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
