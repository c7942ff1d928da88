"""From sampled tokens to chunks."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines.sampling import Sampled
from pilothouse.engines.scripted import ScriptedVocabulary
from pilothouse.engines.stopping import StopScanner
from pilothouse.engines.writer import Writer
from pilothouse.messages import Chunk, FinishReason, Usage
from support.scripted_loop import job

PIECES = (b"<|end|>", b"a", b"b", b" c", b"", "é".encode(), b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82")
WORDS = ScriptedVocabulary(PIECES)


def write(tokens: list[int], reason: FinishReason, **options: Any) -> list[Chunk]:
    """The chunks of an answer of `tokens`, one a step, the last of which ends it with `reason`."""
    writer, chunks = Writer(job(**options), WORDS), list[Chunk]()
    for place, token in enumerate(tokens, 1):
        chunks += writer.write([Sampled(token, -0.25 * token, ((1, -0.5),))], reason if place == len(tokens) else None)
        if writer.ended:
            break
    return chunks


def test_each_token_that_completes_text_is_a_chunk() -> None:
    """One chunk a token, the last with the reason and the usage."""
    assert write([1, 2, 3], FinishReason.LENGTH) == [
        Chunk("a", tokens=(1,)),
        Chunk("b", tokens=(2,)),
        Chunk(" c", tokens=(3,), finish_reason=FinishReason.LENGTH, usage=Usage(3, 3)),
    ]


def test_the_end_token_is_counted_and_never_shown() -> None:
    """Its text, its id and its log-probability are not part of the answer."""
    assert write([1, 0], FinishReason.STOP, logprobs=0)[-1] == Chunk(finish_reason=FinishReason.STOP, usage=Usage(3, 2))


def test_an_open_character_waits_with_its_tokens() -> None:
    """Two tokens of one character come as one chunk, with both tokens and both log-probabilities."""
    chunks = write([1, 8, 9, 2], FinishReason.LENGTH, logprobs=1)

    assert [(chunk.text, chunk.tokens) for chunk in chunks] == [("a", (1,)), ("🙂", (8, 9)), ("b", (2,))]
    assert [(entry.id, entry.raw, entry.logprob) for entry in chunks[1].logprobs] == [(8, b"\xf0\x9f", -2.0), (9, b"\x99\x82", -2.25)]
    assert [(top.token, top.logprob) for top in chunks[1].logprobs[0].top] == [("a", -0.5)]


def test_a_character_that_never_closes_ends_as_a_replacement() -> None:
    """What waits at the end is shown with U+FFFD."""
    assert write([1, 6], FinishReason.LENGTH)[-1] == Chunk(
        "\N{REPLACEMENT CHARACTER}", tokens=(6,), finish_reason=FinishReason.LENGTH, usage=Usage(3, 2)
    )


def test_a_token_without_text_travels_with_the_next() -> None:
    """No empty chunk is sent for it."""
    assert [(chunk.text, chunk.tokens) for chunk in write([1, 4, 2], FinishReason.LENGTH)] == [("a", (1,)), ("b", (4, 2))]


def test_a_stop_string_ends_the_answer_with_stop() -> None:
    """The text ends before it, tokens behind the cut are not shown, all that were sampled are counted."""
    assert write([1, 2, 3, 1], FinishReason.LENGTH, stop=("b c",)) == [
        Chunk("a", tokens=(1,)),
        Chunk(finish_reason=FinishReason.STOP, usage=Usage(3, 3)),
    ]


def test_a_token_that_is_shown_in_part_is_shown() -> None:
    """A stop string that begins within a token leaves the token its first letters."""
    assert write([1, 3], FinishReason.LENGTH, stop=("c",))[-1] == Chunk(
        " ", tokens=(3,), finish_reason=FinishReason.STOP, usage=Usage(3, 2)
    )


def test_text_held_for_a_stop_string_comes_with_what_clears_it() -> None:
    """`b` waits, and travels with the token that shows it was no stop string; at the end it comes too."""
    assert [(chunk.text, chunk.tokens) for chunk in write([2, 1, 2], FinishReason.LENGTH, stop=("b c",))] == [("ba", (2, 1)), ("b", (2,))]
    assert write([1, 2, 0], FinishReason.STOP, stop=("b c",))[-1] == Chunk(
        "b", tokens=(2,), finish_reason=FinishReason.STOP, usage=Usage(3, 3)
    )


def test_the_first_min_tokens_can_not_be_stopped() -> None:
    """Stop strings are looked for behind them only."""
    assert "".join(chunk.text for chunk in write([1, 1, 1, 2], FinishReason.LENGTH, stop=("a",), min_tokens=2)) == "aa"


def test_an_end_without_a_token_shows_what_waits() -> None:
    """A row that memory ends gives what it has."""
    writer = Writer(job(stop=("ab",)), WORDS)
    writer.cached = 2
    assert writer.add(Sampled(1)) is None

    assert writer.end(FinishReason.LENGTH) == Chunk("a", tokens=(1,), finish_reason=FinishReason.LENGTH, usage=Usage(3, 1, 2))


def test_a_step_of_several_tokens_is_written_like_several_steps() -> None:
    """The reason is its last token's; what comes behind a stop string is not written."""
    assert Writer(job(), WORDS).write([Sampled(1), Sampled(2)], FinishReason.LENGTH) == write([1, 2], FinishReason.LENGTH)
    stopped = Writer(job(stop=("b",)), WORDS)
    chunks = stopped.write([Sampled(1), Sampled(2), Sampled(1)], None)
    assert ("".join(chunk.text for chunk in chunks), chunks[-1].finish_reason, stopped.taken) == ("a", FinishReason.STOP, 2)


def test_an_end_without_a_token_is_written_too() -> None:
    """A step that gives nothing and does not end the answer says nothing."""
    writer = Writer(job(), WORDS)
    assert writer.write([], None) == []
    assert writer.write([], FinishReason.LENGTH) == [Chunk(finish_reason=FinishReason.LENGTH, usage=Usage(3, 0))]


def test_only_a_stop_string_lets_a_text_end_its_answer() -> None:
    """Then the engine must not be a step ahead of it."""
    assert (Writer(job(stop=("a",)), WORDS).decides, Writer(job(logprobs=1), WORDS).decides) == (True, False)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.lists(st.sampled_from(["ab", "b c", "é", "a", " "]), max_size=2))
def test_joined_chunks_are_the_whole_text_cut_at_its_stop_string(tokens: list[int], stop: list[str]) -> None:
    """Streamed is unary: text, tokens and log-probabilities, with one finish reason, on the last chunk."""
    chunks = write(tokens, FinishReason.LENGTH, stop=tuple(stop), logprobs=0)
    scanner = StopScanner(stop)
    text, stopped = scanner.feed(WORDS.text(tokens))
    shown = [token for chunk in chunks for token in chunk.tokens]

    assert "".join(chunk.text for chunk in chunks) == text + scanner.finish()
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == (FinishReason.STOP if stopped else FinishReason.LENGTH)
    assert shown == tokens[: len(shown)]
    assert [entry.id for chunk in chunks for entry in chunk.logprobs] == shown
    assert all(chunk.text for chunk in chunks[:-1])
    if not stopped:
        assert shown == tokens
