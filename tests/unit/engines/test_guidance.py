"""Guided JSON on a tokenizer made here: whatever the logits say, the text fits; what can't be guided is refused by name and quickly."""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pilothouse.engines.base import Job
from pilothouse.engines.guidance import LLGuidance
from pilothouse.engines.sampling import Sampler
from pilothouse.errors import InvalidRequest, ModelError, Unsupported
from pilothouse.messages import Guide, Sampling

ENDS = (2, 3)
PADDED = 448  # the model's vocabulary is larger than the tokenizer's
TEXTS = [
    'The capital of Spain is Madrid. {"name": "x", "age": 17, "tags": [true, false, null]}',
    "Tell me a joke about atom, ñandú and 東京!",
]


@cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE like the pocket model's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "<|endoftext|>", "<|end|>", "<|user|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=440, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return made


@cache
def sentencepiece() -> Tokenizer:
    """A BPE over characters with bytes to fall back on, like Phi-3-mini's."""
    pieces = ["<unk>", "<s>", "<|endoftext|>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.add_special_tokens(pieces[:4])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


def guidance(made: Callable[[], Tokenizer] = tokenizer, **limits: int) -> LLGuidance:
    return LLGuidance(made().to_str(), ENDS, PADDED, **{"max_schema_bytes": 65536, "max_schema_depth": 32, **limits})


def schema(value: Any) -> Guide:
    return Guide("json_schema", json.dumps(value))


def one(text: str) -> int:
    """The id of a text that is one token."""
    [token] = tokenizer().encode(text).ids
    return token


def written(guide: Guide, seed: int, made: Callable[[], Tokenizer] = tokenizer, most: int = 3000) -> tuple[list[int], str]:
    """Tokens drawn from noise until an end token, and their text."""
    sampler = Sampler(PADDED, guidance(made))
    sampler.open(0, Job("g", (1,), Sampling(seed=seed), most, end_ids=frozenset(ENDS), guide=guide))
    noise, tokens = np.random.default_rng(seed), list[int]()
    for _ in range(most):
        tokens.append(sampler.sample(noise.normal(size=(1, PADDED)).astype(np.float32), [(0, ())])[0][0].token)
        if tokens[-1] in ENDS:
            return tokens, made().decode(tokens[:-1], skip_special_tokens=False)
    raise AssertionError(f"no end within {most} tokens: {made().decode(tokens)[:200]}")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "size": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/size"}]},
    },
    "required": ["name", "age", "tags", "size"],
    "additionalProperties": False,
    "$defs": {"size": {"type": "string", "pattern": "^[SML]{1,2}$"}},
}


def fits_person(found: Any) -> bool:
    return (
        list(found) == ["name", "age", "tags", "size"]
        and isinstance(found["name"], str)
        and len(found["name"]) <= 8
        and type(found["age"]) is int
        and 0 <= found["age"] <= 150
        and len(found["tags"]) <= 3
        and set(found["tags"]) <= {"a", "b"}
        and (found["size"] is None or (1 <= len(found["size"]) <= 2 and set(found["size"]) <= set("SML")))
    )


@pytest.mark.parametrize("made", [tokenizer, sentencepiece])
@pytest.mark.parametrize("seed", range(8))
def test_noise_under_a_schema_is_an_instance_of_it(made: Callable[[], Tokenizer], seed: int) -> None:
    """Whatever a model prefers, the answer validates, with both kinds of tokenizer."""
    _, text = written(schema(PERSON), seed, made)

    assert fits_person(json.loads(text))


@pytest.mark.parametrize("seed", range(8))
def test_noise_under_json_object_is_an_object(seed: int) -> None:
    """json_object gives a JSON object of any content."""
    _, text = written(Guide("json_object"), seed)

    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("guide", [Guide("json_object"), schema(PERSON), schema({}), Guide("json_schema")])
def test_guided_json_is_compact(guide: Guide) -> None:
    """No white space stands between tokens, so a model that knows none of JSON can't fill its answer with it."""
    _, text = written(guide, 5)

    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) or not any(
        c in " \n\t\r" for c in outside_strings(text)
    )


def outside_strings(text: str) -> str:
    kept, inside, escaped = [], False, False
    for character in text:
        if not inside:
            kept.append(character)
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = inside
        elif character == '"':
            inside = not inside
    return "".join(kept)


def test_a_complete_answer_may_only_end() -> None:
    """When nothing can follow, end tokens alone are left, and `finished` says so; it goes on saying so after the end token."""
    state = guidance().compile(schema({"const": True}))
    for token in tokenizer().encode("true").ids:
        assert not state.finished()
        state.accept(token)

    for _ in range(2):
        assert state.finished()
        logits = np.zeros(PADDED, np.float32)
        state.mask(logits)
        assert np.flatnonzero(logits == 0).tolist() == list(ENDS)
        state.accept(ENDS[1])


def test_an_answer_that_may_go_on_is_not_finished() -> None:
    """A number may end or take another digit: the end token is possible, but not the only way."""
    state = guidance().compile(schema({"type": "integer"}))
    state.accept(one("1"))
    logits = np.zeros(PADDED, np.float32)
    state.mask(logits)

    assert not state.finished()
    assert logits[ENDS[0]] == 0
    assert logits[one("7")] == 0


def test_rolled_back_tokens_are_forgotten() -> None:
    """After a roll-back the same tokens may come as before."""
    state = guidance().compile(schema(PERSON))
    ids = tokenizer().encode('{"name":"ab').ids
    masks = []
    for token in ids:
        logits = np.zeros(PADDED, np.float32)
        state.mask(logits)
        masks.append(logits)
        state.accept(token)
    state.rollback(len(ids) - 1)
    again = np.zeros(PADDED, np.float32)
    state.mask(again)

    assert (again == masks[1]).all()


def test_states_of_one_guide_are_independent() -> None:
    """Guides are kept compiled; each row walks its own copy."""
    guides, [first, *_] = guidance(), tokenizer().encode('{"name"').ids
    walked, other = guides.compile(schema(PERSON)), guides.compile(schema(PERSON))
    walked.accept(first)
    logits = np.zeros(PADDED, np.float32)
    other.mask(logits)

    assert np.isfinite(logits[first])


def test_a_token_that_does_not_fit_lets_the_answer_end() -> None:
    """A guide that was broken (by a client's own stop token) allows end tokens only, and harms nobody else."""
    state = guidance().compile(schema(PERSON))
    state.accept(one("a"))
    logits = np.zeros(PADDED, np.float32)
    state.mask(logits)

    assert np.flatnonzero(logits == 0).tolist() == list(ENDS)


def test_logits_may_be_narrower_than_the_vocabulary() -> None:
    """An engine may answer fewer logits than the padded vocabulary has."""
    state = guidance().compile(Guide("json_object"))
    logits = np.zeros(tokenizer().get_vocab_size(), np.float32)
    state.mask(logits)

    assert np.flatnonzero(logits == 0).tolist() == [
        i for t, i in sorted(tokenizer().get_vocab().items(), key=lambda e: e[1]) if t == "{" or t.startswith('{"')
    ]


def test_a_preempted_guided_answer_goes_on() -> None:
    """The history of a row is walked again: the tokens after it are the ones of an unbroken answer."""
    tokens, _ = written(schema(PERSON), 3)
    sampler = Sampler(PADDED, guidance())
    cut = len(tokens) // 2
    sampler.open(0, Job("g", (1,), Sampling(seed=3), 3000, end_ids=frozenset(ENDS), guide=schema(PERSON)), tokens[:cut])
    noise = np.random.default_rng(3)
    rows = [noise.normal(size=(1, PADDED)).astype(np.float32) for _ in tokens]

    assert [sampler.sample(row, [(0, ())])[0][0].token for row in rows[cut:]] == tokens[cut:]


def test_a_guide_and_a_least_length_do_not_contradict() -> None:
    """A complete guide ends the answer even before min_tokens."""
    sampler = Sampler(PADDED, guidance())
    sampler.open(0, Job("g", (1,), Sampling(seed=1), 50, min_tokens=40, end_ids=frozenset(ENDS), guide=schema({"const": 1})))
    logits = np.zeros((1, PADDED), np.float32)

    assert [sampler.sample(logits, [(0, ())])[0][0].token in ENDS for _ in range(2)] == [False, True]


REFUSED = [
    ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, "the schema.properties.a has 'not'"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "string", "nullable": True}, "'nullable'"),
    ({"x-guidance": {"whitespace_flexible": True}}, "'x-guidance'"),
    ({"if": {}, "then": {}}, "'if'"),
    ({"patternProperties": {"^a": {}}}, "'patternProperties'"),
    ({"type": "string", "format": "int32"}, "a format that can't guide"),
    ({"type": "string", "format": 7}, "a format that can't guide"),
    ({"type": "string", "pattern": "(?=a)b"}, "no regular expression"),
    ({"type": "string", "pattern": "("}, "no regular expression"),
    ({"type": "string", "pattern": 7}, "a pattern that is no string"),
    ({"type": "string", "pattern": "a" * 257}, "at most 256 characters"),
    ({"type": "string", "pattern": "a", "minLength": 3}, "pattern beside minLength"),
    ({"prefixItems": [{"type": "string", "pattern": f"a{i}"} for i in range(17)]}, "more than 16 patterns"),
    ({"allOf": [{"type": "string", "pattern": f"[ab].{{{i}}}c"} for i in range(1, 30)]}, "allOf with several schemas"),
    ({"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {"type": "string"}}}, "$ref beside maxLength"),
    ({"anyOf": [{"type": "object"}], "properties": {}}, "anyOf beside properties"),
    ({"$ref": "http://example.com/schema"}, "$ref outside the schema"),
    ({"$ref": "#/$defs/nothing"}, "follows a $ref to nothing"),
    ({"$ref": "#"}, "to itself"),
    ({"type": "integer", "multipleOf": 104729}, "multipleOf multiplied"),
    ({"prefixItems": [{"multipleOf": 997}, {"multipleOf": 991}]}, "multipleOf multiplied"),
    ({"type": "number", "multipleOf": 1e-9}, "six decimal places"),
    ({"type": "number", "multipleOf": 0}, "no positive number"),
    ({"type": "integer", "minimum": 5, "maximum": 2}, "what can't be"),
    ({"oneOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "string"}}}]}, "oneOf (use anyOf)"),
    ({"type": "object", "properties": {f"p{i}": {} for i in range(401)}}, "more than 400 properties"),
    ({"anyOf": [{"const": i} for i in range(401)]}, "more than 400 alternatives"),
    ({"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {} for i in range(40)}} for j in range(30)]}, "too many alternatives"),
    ({"properties": []}, "properties must be an object"),
    ({"anyOf": {}}, "anyOf must be a list"),
    ({"items": 3}, "items must be a schema"),
    ([], "must be an object"),
]


@pytest.mark.parametrize(("wrong", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_cannot_guide_is_refused_by_name_and_quickly(wrong: Any, told: str) -> None:
    """Nothing is ignored and nothing costs minutes: the message names the keyword, its place and the way out."""
    guides, begun = guidance(), time.process_time()

    with pytest.raises(InvalidRequest) as refusal:
        guides.compile(schema(wrong))

    assert time.process_time() - begun < 2.0
    assert told in refusal.value.message
    assert refusal.value.message.startswith("response_format: ")
    assert refusal.value.field == "response_format"


TAKEN = [
    {"title": "T", "description": "d", "type": "object", "properties": {"a": {"type": "string", "default": "x", "examples": ["y"]}}},
    {"oneOf": [{"properties": {"k": {"const": c}, c: {"type": "integer"}}, "required": ["k", c], "type": "object"} for c in "ab"]},
    {"allOf": [{"$ref": "#/definitions/a"}], "definitions": {"a": {"type": "boolean"}}},
    {"type": "string", "format": "date-time"},
    {"type": "number", "multipleOf": 0.01, "minimum": 0, "exclusiveMaximum": 10},
    {"type": "integer", "multipleOf": 9999},
    {"type": ["string", "null"], "minLength": 2, "maxLength": 5},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(400)}},
    {"enum": [1, "two", None, {"three": [3]}]},
]


@pytest.mark.parametrize("value", TAKEN, ids=lambda value: next(iter(value)))
def test_what_people_write_is_taken_quickly(value: Any) -> None:
    """The schemas of pydantic and OpenAPI compile in a moment."""
    guides, begun = guidance(), time.process_time()

    guides.compile(schema(value))

    assert time.process_time() - begun < 2.0


def test_a_schema_over_its_bytes_is_refused() -> None:
    """Size is counted in bytes of the text as given."""
    with pytest.raises(InvalidRequest, match="the schema has 23 bytes; at most 22 are taken"):
        guidance(max_schema_bytes=22).compile(Guide("json_schema", '{"description": "éé"}'))


def test_a_schema_over_its_depth_is_refused() -> None:
    """Depth counts schemas within schemas, up to the limit."""
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(3):
        deep = {"type": "array", "items": deep}

    guidance(max_schema_depth=4).compile(schema(deep))
    with pytest.raises(InvalidRequest, match="nested more than 3 levels deep"):
        guidance(max_schema_depth=3).compile(schema(deep))


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a":}', "[" * 5000])
def test_a_schema_that_is_no_json_is_refused(text: str) -> None:
    """Text that does not parse is refused, however deep."""
    with pytest.raises(InvalidRequest, match="the schema is not JSON"):
        guidance().compile(Guide("json_schema", text))


def test_a_refused_schema_is_an_unsupported_one_when_its_keyword_is() -> None:
    """A keyword of JSON Schema that can't be honoured is `Unsupported`, a wrong schema is `InvalidRequest`."""
    with pytest.raises(Unsupported):
        guidance().compile(schema({"not": {}}))
    with pytest.raises(InvalidRequest) as wrong:
        guidance().compile(schema({"properties": 3}))
    assert not isinstance(wrong.value, Unsupported)


@pytest.mark.parametrize(("text", "ends"), [("{}", ENDS), ("/etc/hostname", ENDS), (None, ()), (None, (PADDED,))])
def test_a_model_that_cannot_be_guided_says_so_when_loaded(text: str | None, ends: tuple[int, ...]) -> None:
    """A tokenizer that is none, or a model without end tokens, is a `ModelError`; a path is not followed."""
    with pytest.raises(ModelError):
        LLGuidance(tokenizer().to_str() if text is None else text, ends, PADDED, max_schema_bytes=100, max_schema_depth=3)
