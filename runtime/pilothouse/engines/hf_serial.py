"""A transformers model that the flat batch refuses, one request at a time, through its own attention and cache, as `generate` runs it.

Only the forward pass is the library's: sampling, stops and cancellation are those of every engine.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pilothouse.engines import hf_model
from pilothouse.engines.base import Capabilities, Logits, Work
from pilothouse.errors import ModelError


class HFSerialStep:
    """A `StepEngine` of one row. A prompt goes in whole: such a model may answer otherwise in pieces. `attention` is the library's name for one."""

    name = "transformers"
    rows = 1
    turn: int | None = None
    stages = 1

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        context: int,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        attention: Literal["sdpa", "eager"] = "sdpa",
        kv_memory_bytes: int = 0,
    ) -> None:
        started = time.perf_counter()
        torch, transformers = hf_model.library()
        self._torch, self._transformers = torch, transformers
        torch.set_num_threads(threads)
        self._threads, self._attention = threads, attention
        self.device = hf_model.device(torch, device)
        config = hf_model.config(folder)
        self._dtype = hf_model.dtype(torch, dtype, self.device, config)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._token_bytes = 2 * config.num_hidden_layers * heads * size * self._dtype.itemsize
        fitting = kv_memory_bytes // self._token_bytes if kv_memory_bytes else context
        self.context: int = min(context, config.max_position_embeddings, fitting)
        if self.context < 2:
            raise ModelError(
                f"kv_memory_bytes holds no text: the model in {folder} needs {self._token_bytes} bytes for each token; give more"
            )
        self._model = hf_model.load(folder, config, self._dtype, self.device, attention)
        self.tokens_per_step = self.tokens_alone = self.context
        self.capabilities = Capabilities(exact=False)
        self._row: int | None = None
        self._length = 0
        self._cache: Any = None
        self._load_seconds = time.perf_counter() - started

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row`, if no other one is."""
        if self._row is not None:
            return None
        self._row, self._length = row, 0
        self._cache = self._transformers.DynamicCache(config=self._model.config)
        return 0

    def extend(self, row: int, tokens: int) -> bool:
        return self._length + tokens <= self.context

    def step(self, work: Sequence[Work]) -> Logits:
        """Feed the one row's tokens."""
        [item] = work
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(item.tokens)], device=self.device)
            answer = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=max(1, item.wanted))
            self._length += len(item.tokens)
            logits: Logits = answer.logits[0].to(self._torch.float32).cpu().numpy()
        return logits if item.wanted else logits[:0]

    def rollback(self, row: int, tokens: int) -> None:
        raise NotImplementedError("nothing is drafted: capabilities.rollback is off")

    def withdraw(self, row: int) -> None:
        self._row, self._cache = None, None

    def usage(self) -> float:
        return self._length / self.context if self._row is not None else 0.0

    def warm_up(self) -> None:
        """A prompt and a token."""
        self.admit(0, (0, 0), "")
        self.step([Work(0, [0] * min(2, self.context - 1), 1)])
        self.step([Work(0, [0], 1)])
        self.withdraw(0)

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": f"transformers {self._transformers.__version__} on torch {self._torch.__version__}, one request at a time",
            "model": type(self._model).__name__,
            "attention": self._attention,
            "device": self._torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "compute": str(self._dtype).removeprefix("torch."),
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "kv_bytes_per_token": self._token_bytes,
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free keys, values and weights."""
        self._cache = None
        del self._model
        if self.device == "cuda":
            self._torch.cuda.empty_cache()
