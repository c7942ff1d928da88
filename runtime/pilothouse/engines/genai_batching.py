"""onnxruntime-genai's own Engine: dynamic batching over a build with PagedAttention, which exists for CUDA.

The library schedules, keeps the keys and values and draws on the device; a token crosses over for each row and step, no logits. So a request
gets what the library has: temperature, top-p, top-k, repetition penalty, seed, JSON schemas. Stop strings and a request's own end tokens are
ours, by ending the row. What it has not is in `capabilities`, and refused by name.

A build without PagedAttention runs too, in static batches of a few rows: all this but the batching can be seen on a CPU.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pilothouse.engines import genai_model
from pilothouse.engines.base import Capabilities, Drawn, Job
from pilothouse.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ModelError, Overloaded, PilothouseError
from pilothouse.messages import FinishReason, Guide, Sampling

EVENTS = 1024  # of one step at most: a row has one or two
STATIC_ROWS = 4  # of a static batch, where no other number is given
STEP_TOKENS = 2048  # what the library may put into a step, where it names no bound
HALF = 2  # bytes of a key's number on the GPU
FIELD = "response_format"


class GenaiBatching:
    """A `TokenEngine`. Not thread-safe: it belongs to the thread that made it, and so does every call into the library.

    `rows` 0: as many as the build says. `context` [tokens] bounds prompt and answer. `kv_memory_bytes` 0: the share of the GPU's memory that the
    build says. The library shares prefixes between all callers or none, so it does only without `prefix_isolation`.

    Raises `ModelError` for a folder that is no such model, does not load, or would answer from another device than promised.
    """

    name = "genai"

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        context: int,
        rows: int = 0,
        device: genai_model.Device = "auto",
        kv_memory_bytes: int = 0,
        step_tokens: int = 0,
        prefix_cache: bool = True,
        prefix_isolation: bool = True,
    ) -> None:
        started = time.perf_counter()
        facts = genai_model.read(folder)
        self._vocabulary = facts.vocabulary
        self._threads = threads
        self._dynamic = facts.batching is not None
        shares = self._dynamic and prefix_cache and not prefix_isolation and bool((facts.batching or {}).get("prefix_caching", True))
        self.context = min(context, facts.context)
        self._graphs = facts.graphs
        overlay: dict[str, Any] = {"search": {"max_length": self.context, "min_length": 0, "num_beams": 1}}
        if facts.batching is not None:
            batching: dict[str, Any] = {"prefix_caching": shares}
            if rows:
                batching["max_batch_size"] = min(rows, int(facts.batching.get("max_batch_size", rows)))
            if step_tokens:
                batching["max_scheduled_tokens"] = step_tokens
            if kv_memory_bytes:
                block = int(facts.batching["block_size"]) * facts.token_bytes(HALF)
                batching["num_blocks"] = kv_memory_bytes // block
                if not batching["num_blocks"]:
                    raise ModelError(
                        f"kv_memory_bytes {kv_memory_bytes} holds no text: one block of the model in {folder} is {block} bytes"
                    )
            overlay["engine"] = {"dynamic_batching": batching}
        else:
            overlay["engine"] = {"static_batching": {"max_batch_size": rows or STATIC_ROWS}}
        model = genai_model.load(folder, facts, device=device, threads=threads, overlay=overlay)
        self._og = genai_model.library()
        self.device = str(model.device_type).lower()
        try:
            self._engine = self._og.Engine(model)
            known = self._engine.get_capabilities()
            self._buffer = self._engine.create_event_buffer(EVENTS)
        except RuntimeError as error:
            raise ModelError(
                f"onnxruntime-genai can't batch the model in {folder}; export it with its model builder again: {error}"
            ) from error
        self.rows = int(known.configured_max_batch_size)
        if known.max_request_length:
            self.context = min(self.context, int(known.max_request_length))
        self.tokens_per_step = int(known.max_scheduled_tokens) or max(STEP_TOKENS, self.rows)
        self._requests: dict[int, Any] = {}
        self._row_of: dict[Any, int] = {}
        self._held = False  # a static batch is being computed
        self.capabilities = Capabilities(
            logprobs=False,
            seed=self._takes_seeds(),
            penalties=False,
            min_p=False,
            logit_bias=False,
            own_ends=False,
            prefix_cache=shares,
            batched=True,
            exact=False,
        )
        self._load_seconds = time.perf_counter() - started

    def __repr__(self) -> str:
        return f"GenaiBatching(rows={len(self._requests)}/{self.rows}, {'dynamic' if self._dynamic else 'static'}, {self.device})"

    def room(self) -> bool:
        """A static batch takes nobody until all of its rows ended."""
        return not self._held

    def begin(self, row: int, job: Job) -> None:
        """Open `row`. Raises `InvalidRequest` for tokens or a schema that the library doesn't take."""
        if max(job.prompt) >= self._vocabulary or min(job.prompt) < 0:  # would break the library for everybody
            raise InvalidRequest(f"prompt: token ids must be below {self._vocabulary}", field="prompt")
        if len(job.prompt) >= self.context:
            raise ContextLengthExceeded(
                f"prompt: {len(job.prompt)} tokens leave no room for an answer in a context of {self.context}; shorten it", field="prompt"
            )
        options = self._og.RequestOptions()
        options.set_max_session_tokens(min(self.context, len(job.prompt) + job.max_tokens))
        request = self._engine.create_request(options=options)  # raises when the engine is broken, whatever the job
        try:
            turn = self._og.TurnOptions(request)
            self._choose(turn, job.sampling)
            turn.set_max_generated_tokens(job.max_tokens)
            turn.set_min_generated_tokens(min(job.min_tokens, job.max_tokens - 1))
            if job.guide is not None:
                turn.set_guidance("json_schema", _schema(job.guide))
            request.begin_turn(np.array(job.prompt, np.int32), turn)
        except RuntimeError as error:
            request.close()
            if job.guide is not None:
                raise InvalidRequest(f"{FIELD}: no answer can be guided by this schema on this engine; simplify it", field=FIELD) from error
            raise InvalidRequest("the engine does not take this request's options; send it with fewer") from error
        self._requests[row] = request
        self._row_of[request] = row

    def run(self) -> list[Drawn]:
        """One step of the library; `RuntimeError` when it is broken."""
        if not self._requests:
            return []
        self._held = not self._dynamic
        return list(self._read(self._engine.run(self._buffer)))

    def _read(self, events: Any) -> Iterator[Drawn]:
        flags = self._og.EngineEventFlags
        for event in events:
            row = self._row_of.get(event.request)
            if row is None:
                continue  # withdrawn since
            kinds = int(event.flags.value)
            token = int(event.token) if kinds & flags.TOKEN.value else None
            if kinds & flags.FAILED.value:
                yield Drawn(row, ended=self._failure(event, retryable=bool(kinds & flags.RETRYABLE.value)))
            elif kinds & flags.TURN_FINISHED.value:
                yield Drawn(row, token, self._reason(event), cached=int(event.usage.cached_prompt_tokens))
            elif token is not None:
                yield Drawn(row, token)

    def _reason(self, event: Any) -> FinishReason | PilothouseError:
        reasons = self._og.FinishReason
        if event.finish_reason in (reasons.MAX_GENERATED_TOKENS, reasons.MAX_SESSION_TOKENS):
            return FinishReason.LENGTH
        return FinishReason.STOP if event.finish_reason == reasons.EOS else EngineFailed()

    def _failure(self, event: Any, *, retryable: bool) -> PilothouseError:
        """The row's own error. Raises where the library says that it is broken as a whole."""
        codes = self._og.EngineErrorCode
        code = event.error_code
        if code in (codes.ENGINE_CONTRACT_FAILURE, codes.ENGINE_EXECUTION_FAILURE):
            raise RuntimeError(f"onnxruntime-genai's engine is broken: {code.name}")
        if code == codes.REQUEST_UNSERVICEABLE:
            return ContextLengthExceeded("prompt: it needs more memory than the server has for one request; shorten it", field="prompt")
        if retryable or code in (codes.CAPACITY_DEFERRED, codes.EXECUTION_CAPACITY_EXCEEDED, codes.RETRYABLE_EXECUTION):
            return Overloaded("the engine ran out of memory under this request; try again later")
        return EngineFailed()

    def withdraw(self, row: int) -> None:
        """Close the row; the library stops computing it (a static batch keeps its place until the batch is over)."""
        request = self._requests.pop(row, None)
        if request is None:
            return
        del self._row_of[request]
        request.close()
        self._held = self._held and bool(self._requests)

    def usage(self) -> float:
        """Share of the rows in use: the library does not tell of its memory."""
        return len(self._requests) / self.rows

    def warm_up(self) -> None:
        """Answer in batches of 1, 2, 4 ... rows: CUDA graphs are captured by size of batch, and every kernel is loaded."""
        sizes = sorted({*(1 << i for i in range(self.rows.bit_length())), self.rows} - {0})
        for size in (size for size in sizes if size <= self.rows):
            for row in range(size):
                self.begin(row, Job(f"warm-up {row}", (0, 1, 2)[: self.context - 2], Sampling(temperature=0.0), max_tokens=3))
            while self._requests:
                for drawn in self.run():
                    if isinstance(drawn.ended, PilothouseError):
                        raise drawn.ended
                    if drawn.ended is not None:
                        self.withdraw(drawn.row)

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": f"onnxruntime-genai {self._og.__version__} Engine, {'dynamic' if self._dynamic else 'static'} batching",
            "device": self.device,
            "cuda_graphs": self._graphs,
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "step_tokens": self.tokens_per_step,
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free rows, keys, values and weights."""
        for row in list(self._requests):
            self.withdraw(row)
        del self._buffer, self._engine

    def _choose(self, turn: Any, sampling: Sampling) -> None:
        """Every option is set: what is not would be the build's own, not the one that was asked for."""
        drawn = sampling.temperature > 0 and sampling.top_k != 1
        turn.set_do_sample(drawn)
        if drawn:
            turn.set_temperature(sampling.temperature)
            turn.set_top_p(sampling.top_p)
            turn.set_top_k(min(sampling.top_k, self._vocabulary))
        turn.set_repetition_penalty(sampling.repetition_penalty)
        turn.set_no_repeat_ngram_size(0)
        if sampling.seed is not None and drawn:
            turn.set_seed(sampling.seed)

    def _takes_seeds(self) -> bool:
        """Whether this build can be seeded: the library says so only when it is asked to."""
        request = self._engine.create_request()
        try:
            turn = self._og.TurnOptions(request)
            turn.set_do_sample(True)
            turn.set_temperature(1.0)
            turn.set_top_p(1.0)
            turn.set_top_k(0)
            turn.set_seed(1)
            request.begin_turn(np.array([0], np.int32), turn)
            return True
        except RuntimeError:
            return False
        finally:
            request.close()


def _schema(guide: Guide) -> str:
    """The schema as the library takes it: compact, since a model that never saw JSON would fill its answer with white space."""
    schema: dict[str, Any] = {"type": "object"} if guide.kind == "json_object" else json.loads(guide.schema or "{}")
    return json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}})
