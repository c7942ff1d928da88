"""Guided JSON: what a schema lets come next, as masks on logits. The one place that knows llguidance.

A guided answer is compact, with no white space between tokens, because a model that never saw JSON would otherwise fill its answer with it.

A schema is judged (schemas), compiled within the library's own limits and rehearsed for a few tokens, so that one too ambiguous to follow is
a refused request and not a broken answer.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from pilothouse.engines import schemas
from pilothouse.engines.base import GuideState, Logits
from pilothouse.engines.closing import Closer, Place, bits
from pilothouse.engines.schemas import FIELD
from pilothouse.errors import InvalidRequest, ModelError
from pilothouse.messages import Guide

log = logging.getLogger(__name__)

KEPT = 32  # compiled guides
REHEARSAL = 24  # tokens


class LLGuidance:
    """`Guidance` over one tokenizer. Its methods may be called from any thread; the states it hands out belong to one each."""

    def __init__(
        self, tokenizer_json: str, end_ids: Iterable[int], vocabulary: int, *, max_schema_bytes: int, max_schema_depth: int
    ) -> None:
        """`tokenizer_json`: the text of tokenizer.json; `end_ids`: the model's end tokens. Raises `ModelError` where these can't be used."""
        import llguidance

        self._library = llguidance
        self._ends = sorted(i for i in set(end_ids) if 0 <= i < vocabulary)
        if not self._ends:
            raise ModelError("the model names no end token, so a guided answer could never end: set eos_token_id in its configuration")
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_json if tokenizer_json.lstrip().startswith("{") else "{}",  # anything else would be taken for a path
                n_vocab=vocabulary,
                eos_token=self._ends,
                slices=llguidance.LLTokenizer.json_slices(),
            )
        except ValueError as error:
            raise ModelError(f"the model's tokenizer.json does not fit guided answers: {error}") from error
        texts = [self._tokenizer.decode_bytes([token]) for token in range(self._tokenizer.vocab_size)]
        self._closer = Closer(texts, self._ends)
        self._limits = llguidance.LLParserLimits(
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=400_000,
            step_max_items=50_000,
            max_lexer_states=50_000,
            max_grammar_size=100_000,
            verbose_errors=False,
        )
        self._max_bytes, self._max_depth = max_schema_bytes, max_schema_depth
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, guide: Guide) -> GuideState:
        """The beginning of an answer under `guide`. Raises `InvalidRequest` for a schema that is too large, too deep or not understood.

        Guides are kept compiled: asking again, from the edge or for another choice, costs next to nothing.
        """
        if guide.kind == "json_object":
            text = '{"type":"object"}'
        else:
            text = "{}" if guide.schema is None else guide.schema
        with self._lock:
            matcher = self._compiled.get(text)
            if matcher is None:
                matcher = self._build(text)
            self._compiled[text] = matcher
            self._compiled.move_to_end(text)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return _State(matcher.deep_copy(), self._ends, self._closer)

    def _build(self, text: str) -> Any:
        schema = schemas.read(text, self._max_bytes)
        schemas.judge(schema, self._max_depth, self._understands)
        matcher = self._matcher(schema)
        problem = matcher.get_error() or self._rehearse(matcher.deep_copy())
        if problem:
            log.info("a schema was refused: %s", problem)
            raise InvalidRequest(
                f"{FIELD}: no answer can be guided by this schema. It asks for what can't be, joins overlapping schemas by oneOf (use anyOf), "
                "follows a $ref to nothing or to itself, or has too many alternatives at one place: simplify it",
                field=FIELD,
            )
        return matcher

    def _matcher(self, schema: dict[str, Any]) -> Any:
        grammar = self._library.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        return self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)

    def _understands(self, schema: dict[str, Any]) -> bool:
        return not self._matcher(schema).is_error()

    def _rehearse(self, matcher: Any) -> str:
        """Walk a little way into the guide; what goes wrong there, in the library's words, or nothing."""
        for step in range(REHEARSAL):
            allowed = np.flatnonzero(bits(matcher))
            if matcher.is_error() or matcher.is_stopped():
                break
            matcher.consume_token(int(allowed[(step * 7919) % len(allowed)]))
        return str(matcher.get_error())


class _State:
    """`GuideState` of one row. A guide that breaks half-way lets the answer end: no text would fit it any more."""

    def __init__(self, matcher: Any, ends: list[int], closer: Closer) -> None:
        self._matcher = matcher
        self._ends = ends
        self._closer = closer
        self._places = [Place()]  # after each accepted token
        self._told = False

    def mask(self, logits: Logits) -> None:
        allowed = bits(self._matcher)[: len(logits)]
        if self._matcher.is_error():
            if not self._told:
                log.warning("a guide broke, its answer ends here: %s", self._matcher.get_error())
            self._told = True
            allowed = np.zeros(len(logits), np.bool_)
            allowed[self._ends] = True
        allowed = self._closer.shorten(allowed, self._places[-1])
        logits[: len(allowed)][~allowed] = -np.inf
        logits[len(allowed) :] = -np.inf

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._places.append(self._places[-1].after(self._closer.texts[token]))

    def rollback(self, tokens: int) -> None:
        self._matcher.rollback(tokens)
        del self._places[len(self._places) - tokens :]

    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())

    def closing(self, most: int) -> list[int] | None:
        """A short way to a complete text, of at most `most` tokens with the end token; None where none was found."""
        return self._closer.way(self._matcher.deep_copy(), self._places[-1], most)
