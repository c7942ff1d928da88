"""One answer's tokens to the chunks its client sees: text, tokens and log-probabilities tell the same story, token by token.

Text waits while a character is open or while it may begin a stop string. Tokens and log-probabilities wait with it: each travels with the chunk
that shows its first character. The end token and what a stop string cuts away are counted, not shown.
"""

from collections import deque
from collections.abc import Sequence

from pilothouse.engines.base import Job, Vocabulary
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.stopping import StopScanner
from pilothouse.messages import Chunk, FinishReason, TokenLogprob, Usage


class Writer:
    """Fed with each sampled token once, in order; `ended` after the chunk that carries the finish reason."""

    __slots__ = (
        "_held",
        "_index",
        "_job",
        "_plain",
        "_read",
        "_scanner",
        "_shown",
        "_stream",
        "_vocabulary",
        "cached",
        "decides",
        "ended",
        "queued",
        "taken",
    )

    def __init__(self, job: Job, vocabulary: Vocabulary) -> None:
        self.cached = 0  # for the usage
        self.queued: float | None = None  # seconds of waiting, once it is over
        self.taken = 0  # tokens, all that were sampled
        self.ended = False
        self._job = job
        self._vocabulary = vocabulary
        self._stream = vocabulary.stream()
        self._scanner = StopScanner(job.stop) if job.stop else None
        self.decides = self._scanner is not None
        """Whether its text may end the answer before the engine does: then the engine must not be a step ahead of it."""
        self._plain = self._scanner is None and job.logprobs is None
        self._held: deque[tuple[Sampled, int]] = deque()  # with the place in the text where each begins
        self._read = 0  # characters that the tokens gave
        self._shown = 0  # characters that the chunks gave

    def write(self, sampled: Sequence[Sampled], reason: FinishReason | None) -> list[Chunk]:
        """The chunks of a step: `reason` says why its last token is the answer's last; without a token, that the answer has ended."""
        chunks, last = [], len(sampled) - 1
        for place, one in enumerate(sampled):
            chunk = self.add(one, reason if place == last else None)
            if chunk is not None:
                chunks.append(chunk)
            if self.ended:
                return chunks
        return chunks if sampled or reason is None else [self.end(reason)]

    def add(self, sampled: Sampled, reason: FinishReason | None = None) -> Chunk | None:
        """The chunk that this token completes, None while its text waits. `reason` is set on the last token; a stop string overrules it."""
        self.taken += 1
        if reason is FinishReason.STOP:  # the end token
            return self.end(reason)
        text = self._stream.step(sampled.token)
        if text and reason is None and self._plain and not self._held:  # nothing waits, and nothing will: most tokens
            self._read = self._shown = self._read + len(text)
            return Chunk(text, self._job.index, (sampled.token,))
        self._held.append((sampled, self._read))
        text = self._scan(text)
        if self.ended:
            return self._last(text, FinishReason.STOP)
        if reason is not None:
            return self.end(reason, text)
        return self._chunk(text) if text else None

    def end(self, reason: FinishReason, text: str = "") -> Chunk:
        """The last chunk: `text` and all that waits."""
        text += self._scan(self._stream.finish())
        if self.ended:
            return self._last(text, FinishReason.STOP)
        if self._scanner is not None:
            text += self._scanner.finish()
        self._shown += len(text) + 1  # tokens without text come along
        return self._last(text, reason)

    def _scan(self, text: str) -> str:
        """What of `text` may be shown; sets `ended` at a stop string. The first `min_tokens` can't be stopped."""
        self._read += len(text)
        if self._scanner is None or self.taken <= self._job.min_tokens or not text:
            return text
        text, self.ended = self._scanner.feed(text)
        return text

    def _chunk(self, text: str) -> Chunk:
        return Chunk(text, self._job.index, *self._release(len(text)))

    def _last(self, text: str, reason: FinishReason) -> Chunk:
        tokens, logprobs = self._release(len(text))
        self.ended = True
        usage = Usage(len(self._job.prompt), self.taken, self.cached)
        return Chunk(text, self._job.index, tokens, logprobs, finish_reason=reason, usage=usage, queue_seconds=self.queued)

    def _release(self, characters: int) -> tuple[tuple[int, ...], tuple[TokenLogprob, ...]]:
        """The tokens whose first character is now shown."""
        self._shown += characters
        ready = []
        while self._held and self._held[0][1] < self._shown:
            ready.append(self._held.popleft()[0])
        logprobs = () if self._job.logprobs is None else tuple(self._logprob(sampled) for sampled in ready)
        return tuple(sampled.token for sampled in ready), logprobs

    def _logprob(self, sampled: Sampled) -> TokenLogprob:
        top = tuple(self._entry(token, logprob) for token, logprob in sampled.top)
        return self._entry(sampled.token, sampled.logprob or 0.0, top)

    def _entry(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(self._vocabulary.token_text(token), token, logprob, self._vocabulary.token_bytes(token), top)
