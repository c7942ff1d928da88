"""From a request to the engine's jobs: judged, rendered to token ids, every default filled in."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.chat.tools import guide_for
from pilothouse.engines.base import Engine, Job
from pilothouse.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from pilothouse.messages import ChatRequest, Defaults, Sampling

LEAST_ANSWER = 256  # tokens a prompt near the default max_length still gets, where the window has them
INLINE_BYTES = 4096  # texts up to this are tokenised on the event loop (about a millisecond), longer ones off it


class Planner:
    """Plans `ChatRequest`s for one engine with one model's tokenizer, template and defaults."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        defaults: Defaults | None,
        check: Callable[[ChatRequest], None],
        most_tokens: int,
    ) -> None:
        """`check` refuses what is out of bounds, `most_tokens` bounds every answer (0: the window alone does)."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.template = template
        self.defaults = defaults or Defaults()
        self._check = check
        self._most_tokens = most_tokens

    def judge(self, request: ChatRequest) -> None:
        """Refuse by name what is out of bounds or beyond this model and engine."""
        self._check(request)
        can, name = self.engine.capabilities, self.engine.name
        for field, asked, able in (
            ("logprobs", request.logprobs is not None, can.logprobs),
            ("seed", request.seed is not None, can.seed),
            ("frequency_penalty", bool(request.frequency_penalty), can.penalties),
            ("presence_penalty", bool(request.presence_penalty), can.penalties),
            ("repetition_penalty", (request.repetition_penalty or 1.0) != 1.0, can.repetition_penalty),
            ("min_p", bool(request.min_p), can.min_p),
            ("ignore_eos", request.ignore_eos, can.own_ends),
            ("stop_token_ids", bool(request.stop_token_ids and request.min_tokens), can.own_ends),
            ("logit_bias", bool(request.logit_bias), can.logit_bias),
            ("response_format", request.guide is not None, can.guidance),
        ):
            if asked and not able:
                raise Unsupported(f"{field} is not supported by this model's engine ({name}); leave it out", field=field)
        if request.messages and self.template is None:
            raise Unsupported("messages need a chat template and this model has none; send its raw form as prompt", field="messages")
        if request.tools and not (self.template and self.template.renders_tools):
            raise Unsupported("tools are not supported: this model's chat template does not render them; leave tools out", field="tools")

    async def jobs(self, request: ChatRequest, *, request_id: str = "", tenant: str = "") -> list[Job]:
        """The rows of a request that is known by `request_id` and comes from `tenant`, one a choice. Raises what `judge` does, and `Overloaded` before any work where the queue is full."""
        self.judge(request)
        self.engine.reserve(request.n, tenant)  # a full queue refuses before any work
        size = sum(len(m.content) for m in request.messages) + (len(request.prompt) if isinstance(request.prompt, str) else 0)
        if size > INLINE_BYTES or request.tools:
            prompt = await asyncio.to_thread(self._encode, request)
        else:
            prompt = self._encode(request)
        jobs = self._plan(request, tuple(prompt), request_id, tenant)
        if jobs[0].guide is not None:
            await asyncio.to_thread(self.engine.prepare, jobs[0].guide)
        return jobs

    def _encode(self, request: ChatRequest) -> list[int]:
        if isinstance(request.prompt, tuple):
            return list(request.prompt)
        if request.prompt is not None:
            return self.tokenizer.encode(request.prompt)
        assert self.template is not None  # judged
        return self.template.ids(request.messages, request.tools)

    def _plan(self, request: ChatRequest, prompt: tuple[int, ...], request_id: str, tenant: str) -> list[Job]:
        """The rows of a request, with every default filled in."""
        window = self.engine.context
        field = "messages" if request.messages else "prompt"
        if not prompt:
            raise InvalidRequest("prompt is empty; send at least one character", field=field)
        if len(prompt) >= window:
            raise ContextLengthExceeded(
                f"{field} has {len(prompt)} tokens; this model's context window is {window} and the answer needs at least one: shorten it",
                field=field,
            )
        room = window - len(prompt)
        d = self.defaults
        if request.max_tokens is not None:
            wanted = request.max_tokens
        elif d.max_tokens is not None:
            wanted = d.max_tokens
        elif d.max_length is not None:
            wanted = max(d.max_length - len(prompt), LEAST_ANSWER)
        else:
            wanted = room
        most = min(wanted, room, self._most_tokens or room)
        sampling = Sampling(
            temperature=d.temperature if request.temperature is None else request.temperature,
            top_p=d.top_p if request.top_p is None else request.top_p,
            top_k=d.top_k if request.top_k is None else request.top_k,
            min_p=d.min_p if request.min_p is None else request.min_p,
            repetition_penalty=d.repetition_penalty if request.repetition_penalty is None else request.repetition_penalty,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=request.logit_bias,
            seed=request.seed,
        )
        end = frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self.tokenizer.end_ids)
        job = Job(
            id=request_id,
            prompt=prompt,
            sampling=sampling,
            max_tokens=most,
            min_tokens=min(request.min_tokens, most),
            end_ids=end,
            stop=request.stop or d.stop,
            logprobs=request.logprobs,
            guide=request.guide or (guide_for(request.tools, request.tool_choice) if request.tools and request.tool_choice else None),
            tenant=tenant,
        )
        if request.n == 1:
            return [job]
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        return [replace(job, index=i, sampling=replace(sampling, seed=seed)) for i, seed in enumerate(seeds)]

    def prompt_text(self, request: ChatRequest) -> str:
        """A raw prompt as text, for a request that wants it echoed."""
        return request.prompt if isinstance(request.prompt, str) else self.tokenizer.decode(list(request.prompt or ()))
