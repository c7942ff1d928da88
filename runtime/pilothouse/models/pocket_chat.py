"""The pocket model's Hugging Face form, made from the ONNX form in the wheel: the same network, so that it ships once.

Its weights were trained on the export's 4-bit grid, hence nothing is lost on the way back.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ModelError
from pilothouse.models import onnx_files, pocket

BLOCK = 32  # weights that share one scale
ZERO = 8  # the 4-bit value that stands for 0


def make(folder: Path, onnx: Path = pocket.FOLDER) -> Path:
    """Write the Hugging Face form of `onnx` (a Phi-3 of the pocket's kind) to `folder`; one that is there already is left. Answers `folder`.

    Raises `ModelError` where safetensors is not installed, or `onnx` is not of that kind.
    """
    if (folder / "config.json").is_file():
        return folder
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise ModelError("a chat model needs transformers and torch; pip install 'pilothouse[mlflow,transformers]'") from None
    exported = json.loads((onnx / "genai_config.json").read_text())["model"]
    weights = onnx_files.weights(onnx / exported["decoder"]["filename"])
    layers = exported["decoder"]["num_hidden_layers"]
    try:
        named = dict(_tensors(weights, layers))
    except KeyError as missing:
        raise ModelError(f"{onnx} is no pocket model: it has no weight {missing.args[0]}") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(onnx / name, made)
        (made / "config.json").write_text(json.dumps(_config(exported, named, layers), indent=1))
        ends = {name: exported[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        (made / "generation_config.json").write_text(json.dumps(ends))
        save_file(named, made / "model.safetensors", metadata={"format": "pt"})
        if not folder.exists():
            made.rename(folder)
    return folder


def _tensors(weights: dict[str, NDArray[Any]], layers: int) -> list[tuple[str, NDArray[np.float32]]]:
    """The weights under transformers' names."""

    def linear(name: str) -> NDArray[np.float32]:
        return _dense(weights[f"{name}.MatMul.weight_Q4"], weights[f"{name}.MatMul.weight_scales"])

    named = [("model.embed_tokens.weight", weights["model.embed_tokens.weight"].copy()), ("lm_head.weight", linear("lm_head"))]
    for i in range(layers):
        layer = f"model.layers.{i}"
        named += [
            (f"{layer}.{norm}.weight", weights[f"{layer}.{norm}.weight"].copy()) for norm in ("input_layernorm", "post_attention_layernorm")
        ]
        named += [(f"{layer}.self_attn.{proj}.weight", linear(f"{layer}.attn.{proj}")) for proj in ("qkv_proj", "o_proj")]
        gate_up = np.concatenate([linear(f"{layer}.mlp.gate_proj"), linear(f"{layer}.mlp.up_proj")])
        named += [(f"{layer}.mlp.gate_up_proj.weight", gate_up), (f"{layer}.mlp.down_proj.weight", linear(f"{layer}.mlp.down_proj"))]
    return [*named, ("model.norm.weight", weights[f"model.layers.{layers}.final_norm_layernorm.weight"].copy())]


def _dense(packed: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """4-bit blocks [rows, blocks, BLOCK / 2], low half first, and their scales [rows, blocks], as float32 [rows, blocks * BLOCK]."""
    rows, blocks, half = packed.shape
    values = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(rows, blocks, 2 * half).astype(np.float32) - ZERO
    return (values * scales.reshape(rows, blocks, 1)).reshape(rows, blocks * 2 * half)


def _config(exported: dict[str, Any], named: dict[str, NDArray[np.float32]], layers: int) -> dict[str, Any]:
    decoder, window = exported["decoder"], exported["context_length"]
    vocabulary, width = named["model.embed_tokens.weight"].shape
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": named["model.layers.0.mlp.down_proj.weight"].shape[1],
        "num_hidden_layers": layers,
        "num_attention_heads": decoder["num_attention_heads"],
        "num_key_value_heads": decoder["num_key_value_heads"],
        "max_position_embeddings": window,
        "original_max_position_embeddings": window,
        "sliding_window": decoder.get("sliding_window", {}).get("window_size"),
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": exported["bos_token_id"],
        "eos_token_id": exported["eos_token_id"],
        "pad_token_id": exported["pad_token_id"],
    }
