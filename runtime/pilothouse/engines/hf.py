"""Continuous batching over a transformers model: one flat batch of tokens a step mixes decoding rows and pieces of prompts.

The library's own continuous batching (`init_continuous_batching`, its PagedAttentionCache and input preparation) owns scheduling, sampling and
memory together, behind private classes that move with each release; it has no seeds, guides or log-probabilities per request. So the model is
called through what is public: its forward with explicit positions, and an attention function registered for it (hf_attention) that keeps each
row's keys and values. Sampling stays ours.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pilothouse.engines import hf_model
from pilothouse.engines.base import Capabilities, Logits, Work
from pilothouse.engines.refusals import GraphRefused
from pilothouse.errors import ModelError

if TYPE_CHECKING:
    from pilothouse.engines.hf_attention import Keys

STEP_TOKENS = {"cpu": 256, "cuda": 2048}
GPU_SHARE = 0.85  # of what is free after loading, when no size is given


class HFStep:
    """A `StepEngine`. torch and transformers are imported by the constructor, on the thread that will own the engine.

    `context` and `tokens_per_step` (0: by the device) are in tokens. `kv_memory_bytes` bounds keys and values of all rows; 0 means whatever
    all rows can need on a CPU, and most of what is free on a GPU. Raises `ModelError` for a folder that can't be served,
    `GraphRefused` for one that only `hf_serial` can.
    """

    name = "transformers"
    stages = 1

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        context: int,
        rows: int,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        kv_memory_bytes: int = 0,
        tokens_per_step: int = 0,
    ) -> None:
        started = time.perf_counter()
        torch, transformers = hf_model.library()
        from pilothouse.engines import hf_attention

        self._torch, self._attention, self._version = torch, hf_attention, transformers.__version__
        torch.set_num_threads(threads)
        self._threads = threads
        self.device = hf_model.device(torch, device)
        config = hf_model.config(folder)
        _demand_steady_positions(config)
        self._dtype = hf_model.dtype(torch, dtype, self.device, config)
        transformers.AttentionInterface.register(hf_attention.NAME, hf_attention.attend)
        self._model = hf_model.load(folder, config, self._dtype, self.device, hf_attention.NAME)
        if not self._model.is_backend_compatible():
            raise GraphRefused(self.name, f"the attention of {type(self._model).__name__} can't be replaced")
        rope = config.rope_parameters if isinstance(getattr(config, "rope_parameters", None), dict) else {}
        self.turn: int | None = rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else None

        self.rows = rows
        self._rows: dict[int, _Row] = {}
        self._token_bytes = self._probe()
        self._most = self._memory(kv_memory_bytes, rows * context) // self._token_bytes
        self.context = min(context, config.max_position_embeddings, self._most)
        if self.context < 2:
            raise ModelError(
                f"kv_memory_bytes holds no text: the model in {folder} needs {self._token_bytes} bytes for each token; give more"
            )
        self.tokens_per_step = self.tokens_alone = max(tokens_per_step or STEP_TOKENS[self.device], rows)
        self.capabilities = Capabilities(rollback=True, batched=True, exact=self.device == "cpu" and self._dtype == torch.float32)
        self._load_seconds = time.perf_counter() - started

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row` and set memory for its prompt aside."""
        self._rows[row] = _Row(self._attention.Keys(), len(prompt))
        if self.extend(row, len(prompt)):
            return 0
        del self._rows[row]
        return None

    def extend(self, row: int, tokens: int) -> bool:
        """Memory is set aside in blocks; a row never has more than the context."""
        keys, length = self._rows[row].keys, len(self._rows[row].tokens) + tokens
        if length <= keys.capacity:
            return True
        block = self._attention.BLOCK
        wanted = min(-(-length // block) * block, self.context)
        if length > self.context or self._used() + wanted - keys.capacity > self._most:
            return False
        keys.capacity = wanted
        return True

    def step(self, work: Sequence[Work]) -> Logits:
        """One forward of all rows. With long rope two: texts beyond the original window turn by other factors, from their first token on."""
        answers: list[Logits] = [np.empty(0, np.float32)] * len(work)
        turned = [self._is_long(self._rows[item.row], len(item.tokens)) for item in work]
        for long in sorted(set(turned)):
            part = [(at, item) for at, item in enumerate(work) if turned[at] == long]
            logits = self._forward([(self._rows[item.row], item) for _, item in part])
            ends = np.cumsum([item.wanted for _, item in part])
            for (at, item), end in zip(part, ends, strict=True):
                answers[at] = logits[end - item.wanted : end]
        return np.concatenate(answers)

    def rollback(self, row: int, tokens: int) -> None:
        """Forget tokens; one that falls back below the long-rope turn is computed anew with its next token."""
        held = self._rows[row]
        was_long = self._is_long(held, 0)
        del held.tokens[len(held.tokens) - tokens :]
        held.keys.length = min(held.keys.length, len(held.tokens)) if was_long == self._is_long(held, 0) else 0

    def withdraw(self, row: int) -> None:
        del self._rows[row]

    def usage(self) -> float:
        return self._used() / self._most

    def warm_up(self) -> None:
        """A piece of a prompt, and a token for every row."""
        prompt = [0] * min(self.tokens_per_step, self.context - 1)
        for row in range(self.rows):
            if self.admit(row, prompt if row == 0 else [0], "") is None:
                break
        self.step([Work(0, prompt, 1)])
        self.step([Work(row, [0], 1) for row in self._rows if self.extend(row, 1)])
        self._rows.clear()

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": f"transformers {self._version} on torch {self._torch.__version__}, flat batches",
            "model": type(self._model).__name__,
            "device": self._torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "compute": str(self._dtype).removeprefix("torch."),
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "step_tokens": self.tokens_per_step,
            "kv_tokens": self._most,
            "kv_bytes_per_token": self._token_bytes,
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free keys, values and weights."""
        self._rows.clear()
        del self._model
        if self.device == "cuda":
            self._torch.cuda.empty_cache()

    def _used(self) -> int:
        return sum(row.keys.capacity for row in self._rows.values())

    def _is_long(self, row: "_Row", more: int) -> bool:
        return self.turn is not None and max(row.prompt, len(row.tokens) + more) > self.turn

    def _forward(self, parts: "list[tuple[_Row, Work]]") -> Logits:
        """Feed each row its tokens, and those that it lost; float32 logits [sum of wanted, vocabulary]."""
        torch = self._torch
        ids, positions, kept, pieces = list[int](), list[int](), list[int](), []
        for row, item in parts:
            if self._is_long(row, len(item.tokens)) != self._is_long(row, 0):
                row.keys.length = 0
            row.tokens.extend(item.tokens)
            fed = row.tokens[row.keys.length :]
            ids += fed
            positions += range(row.keys.length, len(row.tokens))
            kept += range(len(ids) - item.wanted, len(ids))
            pieces.append(self._attention.Piece(row.keys, len(fed)))
        if self.turn is not None and max(positions) < self.turn and self._is_long(parts[0][0], 0):
            # The model chooses its factors by the farthest position of a forward: a token of nobody's stands there.
            ids.append(0)
            positions.append(self.turn)
            pieces.append(self._attention.Piece(self._attention.Keys(), 1))
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                logits_to_keep=torch.tensor(kept, dtype=torch.int64, device=self.device),
                use_cache=False,
                pieces=pieces,
            ).logits[0]
            for row, _ in parts:
                row.keys.length = len(row.tokens)
            answer: Logits = logits.to(torch.float32).cpu().numpy()
        return answer

    def _probe(self) -> int:
        """Compute one token: what the model's attention needs beyond ours is refused here, and the size of a token's keys is seen."""
        row = _Row(self._attention.Keys(), 1)
        try:
            self._forward([(row, Work(0, [0], 1))])
        except (TypeError, AttributeError) as error:
            raise GraphRefused(self.name, f"{type(self._model).__name__} asks for what a flat batch has not ({error})") from error
        return row.keys.token_bytes()

    def _memory(self, given: int, tokens: int) -> int:
        if self.device == "cuda":
            free, _ = self._torch.cuda.mem_get_info()
            return min(given, free) if given else int(free * GPU_SHARE)
        return given or tokens * self._token_bytes


class _Row:
    """A row's text and keys; `keys.length` falls behind when its text has to be computed anew."""

    def __init__(self, keys: "Keys", prompt: int) -> None:
        self.keys = keys
        self.prompt = prompt  # tokens: a long one is long from its first piece on
        self.tokens: list[int] = []


def _demand_steady_positions(config: Any) -> None:
    """Raise `GraphRefused` for a model that turns all its positions as a text grows: its rows would depend on each other."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part.get("rope_type", "") for part in rope.values() if isinstance(part, dict)]
    if any("dynamic" in kind for kind in (*kinds, rope.get("rope_type", ""))) or "longrope" in kinds:
        raise GraphRefused("transformers", "it turns all its positions as a text grows (dynamic rope), so its rows can't be batched")
