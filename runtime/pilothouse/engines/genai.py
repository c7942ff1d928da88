"""One row at a time on onnxruntime-genai's Generator: for exported models whose graph the batching engines refuse.

Only the forward pass is the library's: tokens go in, logits come out, and sampling is ours, so that seeds, penalties, guides and log-probabilities
mean the same as on every engine. The Generator is kept between requests and rewound to where the next prompt differs from the last text.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.engines import genai_model
from pilothouse.engines.base import Capabilities, Logits, Work
from pilothouse.errors import ModelError

STEP_TOKENS = 256  # of a prompt at once: others wait for a step, and its logits are all computed
FLOAT = 4  # bytes of a key's number on the CPU
LONG_ROPE = 4096  # beyond so many tokens Phi-3's long-context exports turn to other rotary factors, for the whole text


class GenaiStep:
    """A `StepEngine` of one row. Not thread-safe: it belongs to the thread that made it.

    `context` is in tokens; the keys and values of so many are allocated at once, `kv_memory_bytes` (0: no bound) shortens it to what fits.
    Raises `ModelError` for a folder that is no such model or does not load.
    """

    name = "genai"
    rows = 1
    turn: int | None = None  # a long text is computed anew in one step: there is nobody else to wait for it
    stages = 1

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        context: int,
        device: genai_model.Device = "auto",
        kv_memory_bytes: int = 0,
        prefix_cache: bool = True,
        prefix_isolation: bool = True,
    ) -> None:
        started = time.perf_counter()
        facts = genai_model.read(folder)
        self._threads = threads
        self._token_bytes = facts.token_bytes(FLOAT)
        fitting = kv_memory_bytes // self._token_bytes if kv_memory_bytes else context
        self.context: int = min(context, facts.context, fitting)
        if self.context < 2:
            raise ModelError(
                f"kv_memory_bytes {kv_memory_bytes} holds no text: the model in {folder} needs {self._token_bytes} bytes for each token"
            )
        self.tokens_per_step = self.tokens_alone = min(STEP_TOKENS, self.context)
        self._turns = facts.type.startswith("phi") and facts.context > LONG_ROPE
        self._model = genai_model.load(folder, facts, device=device, threads=threads)
        self._library = genai_model.library()
        try:
            self._generator = self._open()
            self._generator.append_tokens(np.zeros(min(2, self.context), np.int32))
            _, answered, self._vocabulary = self._generator.get_output("logits").shape
            self._wide = answered > 1  # a pruned head answers the last position only
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"onnxruntime-genai can't run the model in {folder}; export it with its model builder again: {error}"
            ) from error
        self.device = str(self._model.device_type).lower()
        self._rewinds = self._try_rewind()
        self.capabilities = Capabilities(prefix_cache=prefix_cache and self._rewinds, rollback=self._rewinds)
        self._isolated = prefix_isolation
        self._tokens: list[int] = []  # what the Generator holds
        self._tenant = ""
        self._row: int | None = None
        self._load_seconds = time.perf_counter() - started

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row`, if no other one is; the beginning that the prompt shares with the text before need not be fed."""
        if self._row is not None:
            return None
        self._row = row
        shared = 0
        if self.capabilities.prefix_cache and (tenant == self._tenant or not self._isolated):
            most = min(len(self._tokens), len(prompt) - 1)
            shared = next((i for i in range(most) if self._tokens[i] != prompt[i]), most)
        self._tenant = tenant
        self._cut(shared)
        return len(self._tokens)

    def extend(self, row: int, tokens: int) -> bool:
        return len(self._tokens) + tokens <= self.context

    def step(self, work: Sequence[Work]) -> Logits:
        """Feed the one row's tokens; drafts one by one where the graph answers the last position only."""
        [item] = work
        tokens = list(item.tokens)
        if not item.wanted:
            self._feed(tokens)
            return np.empty((0, self._vocabulary), np.float32)
        if item.wanted == 1 or self._wide:
            self._feed(tokens)
            return self._last(item.wanted)
        first = len(tokens) - item.wanted + 1
        answers = []
        for piece in (tokens[:first], *([token] for token in tokens[first:])):
            self._feed(piece)
            answers.append(self._last(1))
        return np.concatenate(answers)

    def rollback(self, row: int, tokens: int) -> None:
        self._cut(len(self._tokens) - tokens)

    def withdraw(self, row: int) -> None:
        """Close the row; its text stays for the next prompt to begin with."""
        self._row = None

    def usage(self) -> float:
        return len(self._tokens) / self.context if self._row is not None else 0.0

    def warm_up(self) -> None:
        """A piece of a prompt and a token: buffers of both sizes are made, and the weights read."""
        self._feed([0] * min(self.tokens_per_step, self.context - 1))
        self._feed([0])
        self._cut(0)

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": f"onnxruntime-genai {self._library.__version__} Generator, one request at a time",
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "step_tokens": self.tokens_per_step,
            "kv_bytes_per_token": self._token_bytes,
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free keys, values and weights, in this order."""
        del self._generator
        del self._model

    def _open(self) -> Any:
        params = self._library.GeneratorParams(self._model)
        params.set_search_options(max_length=self.context)
        return self._library.Generator(self._model, params)

    def _try_rewind(self) -> bool:
        """Leaves an empty Generator either way: a model that can't go back gets a new one for each request."""
        try:
            self._generator.rewind_to(1)
            self._generator.rewind_to(0)
            return True
        except RuntimeError:
            self._generator = self._open()
            return False

    def _empty(self) -> None:
        if self._rewinds:
            self._generator.rewind_to(0)
        else:
            self._generator = self._open()

    def _cut(self, length: int) -> None:
        """Keep the first `length` tokens; a model that can't go back keeps none."""
        kept = self._tokens[:length]
        if len(kept) == len(self._tokens):
            return
        if not self._rewinds or (self._turns and length <= LONG_ROPE < len(self._tokens)):
            self._empty()  # keys made with the long factors are of no use to a short text
            self._tokens = []
            if kept and self._rewinds:
                self._feed(kept)
            return
        self._generator.rewind_to(length)
        self._tokens = kept

    def _feed(self, tokens: Sequence[int]) -> None:
        before = len(self._tokens)
        self._tokens.extend(tokens)
        if self._turns and 0 < before <= LONG_ROPE < len(self._tokens):
            self._empty()
            tokens = self._tokens
        self._generator.append_tokens(np.array(tokens, np.int32))

    def _last(self, wanted: int) -> Logits:
        logits = self._generator.get_logits()[0] if wanted == 1 else self._generator.get_output("logits")[0, -wanted:]
        return np.ascontiguousarray(logits, np.float32)
