"""A guided answer is whole when its tokens run out, whatever the model prefers."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pilothouse.engines.base import Job, Logits
from pilothouse.engines.closing import LONGEST_NUMBER, Place
from pilothouse.engines.guidance import LLGuidance
from pilothouse.engines.sampling import ClosingGuide, Sampler
from pilothouse.messages import Guide, Sampling

END = 1
SCHEMAS = [
    {"type": "object"},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3},
            "size": {"enum": ["small", "medium"]},
            "list": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
            "more": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "size", "list", "more"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "number"}, "minItems": 2},
    {"type": "string", "pattern": "^[a-f]{4}-[0-9]+$"},
    {},
]


@cache
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ['{"name": "x", "size": "small", "list": [{"id": 1}], "more": null}', "some words of a language"] * 3
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "<end>"], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


@cache
def guidance() -> LLGuidance:
    return LLGuidance(tokenizer().to_str(), [END], tokenizer().get_vocab_size(), max_schema_bytes=65536, max_schema_depth=32)


def guide(at: int) -> Guide:
    return Guide("json_schema", json.dumps(SCHEMAS[at]))


def shortest(at: int) -> int:
    state = guidance().compile(guide(at))
    assert isinstance(state, ClosingGuide)
    way = state.closing(1000)
    assert way is not None
    return len(way)


def job(at: int, most: int, seed: int, temperature: float = 1.0) -> Job:
    return Job("c", (0,), Sampling(temperature=temperature, seed=seed), most, end_ids=frozenset({END}), guide=guide(at))


def noise(seed: int, steps: int) -> Logits:
    return (np.random.default_rng(seed).normal(size=(steps, tokenizer().get_vocab_size())) * 3).astype(np.float32)


def answer(task: Job, logits: Logits, history: list[int] | None = None) -> list[int]:
    """Tokens up to the end token or to max_tokens."""
    sampler = Sampler(logits.shape[1], guidance())
    sampler.open(0, task, history or ())
    tokens = list(history or ())
    while len(tokens) < task.max_tokens and END not in tokens:
        tokens.append(sampler.sample(logits[len(tokens)][None], [(0, ())])[0][0].token)
    return tokens


@settings(deadline=None, max_examples=80)
@given(st.integers(0, len(SCHEMAS) - 1), st.integers(0, 60), st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_a_guided_answer_is_complete_when_its_tokens_run_out(at: int, spare: int, seed: int, temperature: float) -> None:
    """From the smallest budget in which the schema can be met, the answer ends with the end token and is whole JSON."""
    most = shortest(at) + spare

    tokens = answer(job(at, most, seed, temperature), noise(seed, most))

    assert tokens[-1] == END
    json.loads(tokenizer().decode(tokens[:-1]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, len(SCHEMAS) - 1), st.integers(0, 40), st.integers(0, 10_000), st.floats(0, 1))
def test_closing_goes_on_unchanged_after_preemption(at: int, spare: int, seed: int, part: float) -> None:
    """An answer that was cut anywhere ends the same way."""
    most = shortest(at) + spare
    logits = noise(seed, most)
    whole = answer(job(at, most, seed), logits)

    assert answer(job(at, most, seed), logits, whole[: int(part * (len(whole) - 1))]) == whole


@settings(deadline=None, max_examples=30)
@given(st.integers(0, len(SCHEMAS) - 1), st.integers(0, 40), st.integers(0, 10_000), st.integers(1, 4))
def test_drafts_change_no_token_of_a_guided_answer(at: int, spare: int, seed: int, drafts: int) -> None:
    """Guessed ahead or not, a guided answer is the same."""
    most = shortest(at) + spare
    logits = noise(seed, most)
    whole = answer(job(at, most, seed), logits)
    sampler, tokens = Sampler(logits.shape[1], guidance()), list[int]()
    sampler.open(0, job(at, most, seed))
    while len(tokens) < len(whole):
        guesses = whole[len(tokens) : len(tokens) + drafts][: most - len(tokens) - 1]
        tokens += [s.token for s in sampler.sample(logits[len(tokens) : len(tokens) + len(guesses) + 1], [(0, guesses)])[0]]

    assert tokens == whole


def test_a_budget_that_is_too_small_is_spent() -> None:
    """Where no text fits, the answer is what fits the guide so far; it is cut, not wrong."""
    tokens = answer(job(1, 8, 3), noise(3, 8))

    assert len(tokens) == 8
    assert tokenizer().decode(tokens).startswith('{"name":"')


def test_a_model_that_would_end_its_answer_ends_what_is_open() -> None:
    """A model that knows no JSON ends its sentence with the end token: the string ends there, and the rest of the schema follows."""
    words = tokenizer().encode("some words").ids
    task = job(1, 500, 1, 0.0)
    sampler, tokens = Sampler(tokenizer().get_vocab_size(), guidance()), list[int]()
    sampler.open(0, task)
    while END not in tokens:
        logits = np.zeros((1, tokenizer().get_vocab_size()), np.float32)
        logits[0, words[len(tokens) % len(words)]] = 1.0
        if len(tokens) > 20:
            logits[0, END] = 2.0
        tokens.append(sampler.sample(logits, [(0, ())])[0][0].token)

    found = json.loads(tokenizer().decode(tokens[:-1]))
    assert "some words" in found["name"]
    assert (found["size"], found["list"], found["more"]) in [(size, [], None) for size in ("small", "medium")]
    assert len(tokens) < 60


def test_a_number_without_an_end_gets_one() -> None:
    """A model that goes on in digits is made to end each number once it has all that 64 bits need."""
    digit = tokenizer().token_to_id("8")
    logits = np.zeros((200, tokenizer().get_vocab_size()), np.float32)
    logits[:, digit] = 5.0

    tokens = answer(job(2, 200, 1, 0.0), logits)

    assert tokens[-1] == END
    numbers = tokenizer().decode(tokens[:-1]).strip("[]").split(",")
    assert {len(number) for number in numbers[:-1]} == {LONGEST_NUMBER}
    assert len(numbers[-1]) <= LONGEST_NUMBER


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"", Place()),
        (b'{"a', Place(inside=True)),
        (b'{"a\\', Place(inside=True, escaped=True)),
        (b'{"a\\"', Place(inside=True)),
        (b'{"a\\\\"', Place()),
        (b'{"12":-1.5e', Place(number=5)),
        (b"[12,", Place()),
    ],
)
def test_a_place_is_read_from_the_bytes(text: bytes, place: Place) -> None:
    """Strings, their backslashes and numbers are followed through any cut of the text."""
    assert Place().after(text) == place
    for cut in range(len(text)):
        assert Place().after(text[:cut]).after(text[cut:]) == place


def test_a_clients_own_end_token_ends_near_the_end_too() -> None:
    """An end token that the guide allows is kept, also where tokens are short."""
    quote = tokenizer().token_to_id('"')
    logits = np.zeros((60, tokenizer().get_vocab_size()), np.float32)
    logits[:, quote] = 9.0
    task = Job("c", (0,), Sampling(temperature=0.0), 60, end_ids=frozenset({END, quote}), guide=Guide("json_schema", '{"type":"string"}'))
    sampler = Sampler(logits.shape[1], guidance())
    sampler.open(0, task)

    assert sampler.sample(logits[:1], [(0, ())])[0][0].token == quote
