"""How much memory a model's chats take: from its folder's files alone, with the arithmetic that the server itself uses when it starts."""

from dataclasses import dataclass
from pathlib import Path

from pilothouse.engines import cpu, genai_model
from pilothouse.errors import ModelError
from pilothouse.models import reading
from pilothouse.models.source import Described

MIB = 1 << 20
U8_EXTRA = 8  # bytes beside each head's numbers: the scale and the zero point that the paged engine keeps with them


@dataclass(frozen=True, slots=True)
class Size:
    """What one model takes. Bytes; the window in tokens."""

    weights: int
    window: int
    token: int  # keys and values of one token, fp16 (or the model's own number format)
    token_u8: int | None  # the same with kv_precision u8; None where the engine has none

    def limit(self, chats: int, tokens: int, *, u8: bool = False) -> int:
        """The memory limit, in whole MiB, under which `chats` of `tokens` each fit at once with every setting at its default."""
        each = self.token_u8 if u8 and self.token_u8 is not None else self.token
        wanted = chats * tokens * each
        least = cpu.limit_for(wanted, self.weights)
        return -(-least // MIB) * MIB


def size(described: Described) -> Size:
    """Read a described model's files. Raises `ModelError` for a generic pyfunc, which has no chats, and for a config without its numbers."""
    if described.kind == "pyfunc":
        raise ModelError("a generic pyfunc has no chats to size: its memory is its own code's")
    weights, window = cpu.weights_of(described.folder), described.context or 0
    if described.kind == "onnx":
        facts = genai_model.read(described.folder)
        u8 = facts.layers * facts.kv_heads * (facts.head_size + U8_EXTRA) * 2
        return Size(weights, window or facts.context, facts.token_bytes(2), u8)
    return Size(weights, window, _token(described.folder), None)


def _token(folder: Path) -> int:
    """Keys and values of one token of a Hugging Face model, in its own number format."""
    config = reading.mapping(reading.json_of(folder / "config.json"), "config.json")
    try:
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        number = 4 if str(config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
        return int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * head * 2 * number
    except (KeyError, TypeError, ValueError):
        raise ModelError("config.json lacks its layers, heads or hidden size; fetch the model again") from None
