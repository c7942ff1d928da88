"""One request to one answer, on the scripted engine: defaults, bounds, choices, numbers and cancellation."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from pilothouse import calls, settings
from pilothouse.answering import Answerer
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.base import Capabilities
from pilothouse.engines.loop import Loop
from pilothouse.engines.scripted import ScriptedVocabulary
from pilothouse.errors import ContextLengthExceeded, InvalidRequest, Overloaded, Unsupported
from pilothouse.joining import join
from pilothouse.messages import ChatRequest, Chunk, Defaults, FinishReason, Message, Tool, Usage
from pilothouse.models import pocket
from pilothouse.protocols.limits import Limits
from support.scripted_loop import engine

HELLO = ChatRequest(messages=(Message("user", "Hello"),), temperature=0.0, ignore_eos=True)


class Noted:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.firsts: list[float] = []
        self.outcomes: list[tuple[str, str]] = []
        self.usages: list[Usage] = []

    def first_token(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def next_token(self, seconds: float) -> None: ...

    def tokens(self, usage: Usage) -> None:
        self.usages.append(usage)

    def outcome(self, protocol: str, outcome: str) -> None:
        self.outcomes.append((protocol, outcome))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The pocket model's own."""
    return Tokenizer.from_folder(pocket.FOLDER, end_ids=(2, 5))


@pytest.fixture
def loop(tokenizer: Tokenizer) -> Iterator[Loop]:
    """The scripted engine over as many words as the tokenizer has tokens."""
    words = ScriptedVocabulary([f"w{i} ".encode() for i in range(tokenizer.size)])
    made = engine(words, rows=4, context=512, tokens_per_step=64, queue=4)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def answerer(loop: Loop, tokenizer: Tokenizer, noted: Noted) -> Answerer:
    """What the runtime makes, with the scripted engine in place of a real one."""
    limits = Limits.from_settings(settings.load(), tokenizer.size)
    return Answerer(loop, tokenizer, ChatTemplate.from_folder(pocket.FOLDER, tokenizer), check=limits.check, observer=noted)


async def collected(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in chunks]


async def test_stream_joined_is_the_unary_answer(answerer: Answerer) -> None:
    """Streaming changes when text comes, never which."""
    request = replace(HELLO, max_tokens=20)

    streamed = join(await collected(answerer.stream(request)))

    assert streamed == await answerer.answer(request)
    assert streamed.choices[0].finish_reason is FinishReason.LENGTH
    assert streamed.usage.completion_tokens == 20


@pytest.mark.parametrize(
    ("defaults", "asked", "expected"),
    [
        (Defaults(max_length=300), None, 300 - 6),
        (Defaults(max_length=100), None, 256),  # near or over max_length a prompt still gets an answer
        (Defaults(max_length=400), None, 400 - 6),
        (Defaults(max_length=None, max_tokens=7), None, 7),
        (Defaults(max_length=None), None, 512 - 6),
        (Defaults(max_length=300), 5, 5),
        (Defaults(max_length=300), 10_000, 512 - 6),
    ],
)
async def test_answers_are_as_long_as_the_models_defaults_and_the_window_say(
    answerer: Answerer, defaults: Defaults, asked: int | None, expected: int
) -> None:
    """max_length counts prompt and answer and leaves at least 256; max_tokens replaces it; the window bounds both."""
    answerer.planner.defaults = defaults
    prompt = tuple(range(10, 16))

    answer = await answerer.answer(ChatRequest(prompt=prompt, max_tokens=asked, temperature=0.0, ignore_eos=True))

    assert answer.usage == Usage(prompt_tokens=6, completion_tokens=expected)


async def test_prompt_over_the_window_is_refused_with_both_numbers(answerer: Answerer) -> None:
    """A prompt that leaves no room says how long it is and how long it may be."""
    with pytest.raises(ContextLengthExceeded, match="prompt has 512 tokens; this model's context window is 512"):
        await answerer.answer(ChatRequest(prompt=tuple([7] * 512)))


async def test_choices_are_numbered_and_the_prompt_is_counted_once(answerer: Answerer) -> None:
    """n choices come from one prompt; usage adds the answers alone."""
    answer = await answerer.answer(replace(HELLO, n=3, max_tokens=5))
    alone = await answerer.answer(replace(HELLO, max_tokens=5))

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage == Usage(alone.usage.prompt_tokens, 15, alone.usage.cached_tokens)


async def test_choices_have_seeds_of_their_own_and_repeat(answerer: Answerer) -> None:
    """With a seed, choices differ from each other and not from run to run."""
    request = replace(HELLO, n=4, seed=11, temperature=1.9, max_tokens=12)

    first, again = await answerer.answer(request), await answerer.answer(request)

    assert first == again
    assert len({choice.text for choice in first.choices}) > 1


async def test_several_prompts_are_answered_in_their_order(answerer: Answerer) -> None:
    """Each row of a batch gets what it would get alone."""
    requests = tuple(ChatRequest(prompt=(20 + i, 30), max_tokens=4 + i, temperature=0.0, ignore_eos=True) for i in range(5))

    together = await answerer.answers(requests)

    assert together == tuple([await answerer.answer(request) for request in requests])


async def test_more_rows_than_places_are_refused_before_any_starts(answerer: Answerer, noted: Noted) -> None:
    """A batch that can't have a place is refused whole: no part of it is computed."""
    full = asyncio.gather(*[answerer.answer(replace(HELLO, max_tokens=300)) for _ in range(6)])
    await asyncio.sleep(0)  # let them be queued

    with pytest.raises(Overloaded, match="the queue is full"):
        await answerer.answers((HELLO,) * 4)

    await full
    assert noted.outcomes.count(("python", "ok")) == 6


async def test_leaving_early_frees_the_row(answerer: Answerer, loop: Loop, noted: Noted) -> None:
    """Closing the stream withdraws the row; its outcome is `cancelled`."""
    async with aclosing(answerer.stream(replace(HELLO, max_tokens=400), protocol="test")) as chunks:
        await anext(chunks)

    await answerer.answer(replace(HELLO, max_tokens=1))
    assert loop.stats().running == 0
    assert noted.outcomes == [("test", "cancelled"), ("python", "ok")]


async def test_call_learns_its_numbers(answerer: Answerer) -> None:
    """The edge's call has tokens, waits, outcome and what was asked for when the answer is there, and its tenant reached the engine."""
    call = calls.Call(id="r1", tenant="alice")
    calls.begin(call)

    answer = await answerer.answer(replace(HELLO, max_tokens=3))

    assert (call.prompt_tokens, call.completion_tokens, call.outcome) == (answer.usage.prompt_tokens, 3, "ok")
    assert call.first_token_seconds is not None
    assert call.queue_seconds is not None
    assert (call.operation, call.finish_reasons, call.options) == ("chat", ("length",), {"max_tokens": 3, "n": 1, "temperature": 0.0})


async def test_what_was_computed_for_a_client_that_left_is_counted(answerer: Answerer) -> None:
    """Its prompt and the tokens it saw: leaving before the end is no way around a limit."""
    call = calls.Call()
    calls.begin(call)
    async with aclosing(answerer.stream(replace(HELLO, max_tokens=400))) as chunks:
        seen = len((await anext(chunks)).tokens)
    prompt = (await answerer.answer(replace(HELLO, max_tokens=1))).usage.prompt_tokens

    assert (call.prompt_tokens, call.completion_tokens) == (2 * prompt, seen + 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"logprobs": 1}, "logprobs"),
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": ((1, 1.0),)}, "logit_bias"),
        ({"tools": (Tool("f"),)}, "tools"),
    ],
)
async def test_what_the_engine_cannot_do_is_refused_by_name(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], field: str
) -> None:
    """An engine's capabilities are data; a request beyond them names its field and is never half honoured."""
    few = Capabilities(logprobs=False, seed=False, penalties=False, logit_bias=False, guidance=False)
    monkeypatch.setattr(Loop, "capabilities", few)

    with pytest.raises(Unsupported) as raised:
        await answerer.answer(replace(HELLO, **change))  # type: ignore[arg-type]

    assert raised.value.field == field


async def test_messages_without_a_template_point_to_the_prompt(answerer: Answerer) -> None:
    """A model without a chat template still answers raw prompts, and says so."""
    answerer.planner.template = None

    with pytest.raises(Unsupported, match="send its raw form as prompt"):
        await answerer.answer(HELLO)
    assert (await answerer.answer(ChatRequest(prompt="Hello", max_tokens=1))).usage.completion_tokens == 1


async def test_empty_token_prompt_is_refused(answerer: Answerer) -> None:
    """There is nothing to go on from."""
    with pytest.raises(InvalidRequest, match="prompt"):
        await answerer.answer(ChatRequest(prompt=()))


async def test_echo_puts_the_prompt_before_the_answer(answerer: Answerer) -> None:
    """With echo, the first chunk is the prompt's own text."""
    answer = await answerer.answer(ChatRequest(prompt="Hello there", echo=True, max_tokens=1, temperature=0.0))

    assert answer.choices[0].text.startswith("Hello there")
