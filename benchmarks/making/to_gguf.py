"""A Phi-3 checkpoint as llama.cpp's GGUF, every matrix in Q4_0 (32 numbers a block, 4.5 bits each): python to_gguf.py CHECKPOINT FILE"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import tokenizer
from numpy.typing import NDArray

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight", "self_attn.qkv_proj.weight": "attn_qkv.weight",
    "self_attn.o_proj.weight": "attn_output.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
}  # fmt: skip


def tensors(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of the bfloat16 safetensors files, which numpy can't read as they are."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for name, told in header.items():
            begin, end = told["data_offsets"]
            raw = np.fromfile(file, np.uint16, (end - begin) // 2, offset=8 + size + begin)
            yield name, (raw.astype(np.uint32) << 16).view(np.float32).reshape(told["shape"])


def renamed(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"


def make(folder: Path, file: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "phi3")
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_scaling_orig_ctx_len(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_sliding_window(config["sliding_window"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokenizer.pieces())
    writer.add_token_scores([0.0] * tokenizer.SIZE)
    writer.add_token_types([_type(number) for number in range(tokenizer.SIZE)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(32000)
    writer.add_add_bos_token(False)
    for name, values in tensors(folder):
        if values.ndim == 1:
            writer.add_tensor(renamed(name), values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor(renamed(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _type(number: int) -> int:
    if number in tokenizer.SPECIAL:
        return gguf.TokenType.UNKNOWN if number == 0 else gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if number < tokenizer.FIRST_WORD else gguf.TokenType.NORMAL


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
