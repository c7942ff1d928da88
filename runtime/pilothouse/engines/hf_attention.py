"""Attention over rows of different lengths in one flat batch of tokens, as a function that transformers lets us register.

This is the library's public place for serving engines to plug in (`AttentionInterface`): a model marked as backend compatible passes queries,
keys and values of all tokens here, with whatever else its forward was called with, and asks for no mask and no cache of its own.
Each row's keys and values lie in buffers of its own, so a row is computed with the same shapes alone and among others.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pilothouse.engines.refusals import GraphRefused

NAME = "pilothouse"
BLOCK = 128  # tokens that a row's buffers grow by
HARMLESS = frozenset(("dropout", "position_ids", "use_cache", "position_embeddings", "cache_position"))


class Keys:
    """One row's keys and values, a pair of [kv heads, capacity, head size] for each layer. `length` tokens of them count."""

    def __init__(self) -> None:
        self.length = 0
        self.capacity = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [kv heads, new, head size] after the row's `length` tokens, which is not moved; answers old and new together."""
        start, stop = self.length, self.length + keys.shape[1]
        held = self._layers.get(layer)
        if held is None or held[0].shape[1] < stop:
            capacity = max(self.capacity, stop)
            grown = tuple(new.new_empty(new.shape[0], capacity, new.shape[2]) for new in (keys, values))
            if held is not None:
                for wide, narrow in zip(grown, held, strict=True):
                    wide[:, :start] = narrow[:, :start]
            held = self._layers[layer] = (grown[0], grown[1])
        held[0][:, start:stop] = keys
        held[1][:, start:stop] = values
        return held[0][:, :stop], held[1][:, :stop]

    def token_bytes(self) -> int:
        """Bytes of one token over all layers met so far."""
        return sum(part.shape[0] * part.shape[2] * part.element_size() for pair in self._layers.values() for part in pair)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of the flat batch: `count` of one row, after the `keys.length` that it holds."""

    keys: Keys
    count: int
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)  # by window; the same on every layer

    def mask(self, window: int | None, device: torch.device) -> Tensor | None:
        """Which of the row's tokens each new one sees, [count, length + count]; None where the kernel's own causal mask says the same."""
        if window not in self.masks:
            past = self.keys.length
            if past == 0 and (window is None or self.count <= window):
                self.masks[window] = None
            else:
                here = torch.arange(past, past + self.count, device=device)[:, None]
                there = torch.arange(past + self.count, device=device)[None, :]
                seen = there <= here
                self.masks[window] = seen if window is None else seen & (there > here - window)
        return self.masks[window]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    pieces: list[Piece] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat batch [1, heads, tokens, head size] whose tokens belong to `pieces`, in order. Answers [1, tokens, heads, head size]."""
    unknown = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if unknown or attention_mask is not None or pieces is None:
        raise GraphRefused("transformers", f"its attention needs {', '.join(unknown) or 'a mask or cache of its own'}")
    answers, start = [], 0
    for piece in pieces:
        stop = start + piece.count
        keys, values = piece.keys.put(module.layer_idx, key[0, :, start:stop], value[0, :, start:stop])
        answers.append(_row(query[:, :, start:stop], keys, values, piece, scaling, sliding_window, softcap))
        start = stop
    return torch.cat(answers, 2).transpose(1, 2).contiguous(), None


def _row(
    query: Tensor, keys: Tensor, values: Tensor, piece: Piece, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """One row: [1, heads, count, head size] over all its [kv heads, tokens, head size]."""
    heads, count, size = query.shape[1:]
    shared = heads // keys.shape[0]  # query heads on one key head
    if count == 1:
        if window is not None:
            keys, values = keys[:, -window:], values[:, -window:]
        query, mask = query.reshape(1, keys.shape[0], shared, size), None  # the query heads stand where more tokens would
    else:
        keys, values = (part.repeat_interleave(shared, 0) if shared > 1 else part for part in (keys, values))
        mask = piece.mask(window, query.device)
    if softcap is None:
        causal = count > 1 and mask is None
        answer = scaled_dot_product_attention(query, keys[None], values[None], attn_mask=mask, is_causal=causal, scale=scaling)
    else:
        if count > 1 and mask is None:
            mask = torch.ones(count, count, dtype=torch.bool, device=query.device).tril()
        answer = _capped(query, keys[None], values[None], mask, scaling or size**-0.5, softcap)
    return answer.reshape(1, heads, count, -1)


def _capped(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float, softcap: float) -> Tensor:
    """Attention whose scores are kept within softcap, as Gemma 2 has it; no kernel does that."""
    scores = torch.tanh(query @ keys.transpose(2, 3) * (scaling / softcap)) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1, torch.float32).to(query.dtype) @ values
