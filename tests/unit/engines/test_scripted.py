"""The fake of both seams: exact, and strict with its callers."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from pilothouse.engines.base import Work
from pilothouse.engines.faults import Faults, Gate
from pilothouse.engines.scripted import (
    SLOPE,
    Misuse,
    Scripted,
    ScriptedStep,
    ScriptedVocabulary,
    echoing,
    following,
    script,
)
from pilothouse.errors import EngineFailed, NotReady, Overloaded
from pilothouse.messages import Chunk, FinishReason, Usage
from support.scripted_loop import job

SIZE = 41


def opened(prompt: list[int], **options: Any) -> ScriptedStep:
    engine = ScriptedStep(SIZE, **options)
    assert engine.admit(0, prompt, "") == 0
    return engine


def test_the_likeliest_token_is_the_formula_of_all_that_was_fed() -> None:
    """Fed at once, in pieces, or with a roll-back between: the same logits, highest at the formula's token."""
    prompt = [3, 1, 4, 1, 5]
    whole = opened(prompt).step([Work(0, prompt, 1)])
    pieces = opened(prompt)
    assert pieces.step([Work(0, prompt[:3], 0)]).shape == (0, SIZE)
    back = opened(prompt)
    assert back.extend(0, 7)
    back.step([Work(0, [*prompt[:4], 9, 9], 2)])
    back.rollback(0, 2)

    assert whole.shape == (1, SIZE)
    assert int(whole[0].argmax()) == following(prompt, SIZE)
    assert (pieces.step([Work(0, prompt[3:], 1)]) == whole).all()
    assert (back.step([Work(0, prompt[4:], 1)]) == whole).all()


def test_logits_fall_by_one_slope_from_token_to_token() -> None:
    """So log-probabilities are a closed formula too."""
    logits = opened([1]).step([Work(0, [1], 1)])[0]

    assert logits.dtype == np.float32
    assert sorted(logits.tolist(), reverse=True) == [-SLOPE * i for i in range(SIZE)]


def test_drafts_are_answered_at_each_place() -> None:
    """The logits at the last `wanted` tokens, in order, over all rows."""
    engine = opened([1, 2])
    engine.admit(1, [3], "")
    engine.extend(0, 4)
    logits = engine.step([Work(0, [1, 2, 5, 6], 3), Work(1, [3], 1)])

    assert logits.argmax(-1).tolist() == [following(t, SIZE) for t in ([1, 2], [1, 2, 5], [1, 2, 5, 6], [3])]
    assert engine.fed == [5]


def test_every_token_counts_in_the_formula() -> None:
    """An oracle that a lost, doubled or swapped last token can't get past."""
    assert len({following(tokens, SIZE) for tokens in ([1, 2, 3], [1, 2], [1, 2, 3, 3], [1, 3, 2])}) == 4
    assert script([1, 2, 3], 6, SIZE, echoing(3)) == [1, 2, 3, 1, 2, 3]


def test_memory_is_shared_by_the_rows() -> None:
    """None or False where there is no room; room comes back with the row."""
    engine = opened([1] * 6, kv_tokens=10)

    assert engine.admit(1, [1] * 5, "") is None
    assert (engine.extend(0, 10), engine.extend(0, 11), engine.usage()) == (True, False, 1.0)
    engine.withdraw(0)
    assert (engine.usage(), engine.admit(0, [1] * 10, "")) == (0.0, 0)


def test_a_prefix_is_shared_within_a_tenant_and_never_whole() -> None:
    """At least one token is always fed."""
    engine = opened([1, 2, 3], prefix_cache=True)
    engine.step([Work(0, [1, 2, 3], 1)])
    engine.withdraw(0)

    assert [
        engine.admit(row, prompt, tenant) for row, (prompt, tenant) in enumerate([([1, 2, 9], ""), ([1, 2, 3], ""), ([1, 2, 3], "x")])
    ] == [2, 2, 0]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda engine: engine.admit(0, [1], ""),
        lambda engine: engine.admit(9, [1], ""),
        lambda engine: engine.admit(1, [], ""),
        lambda engine: engine.step([]),
        lambda engine: engine.step([Work(0, [1], 1), Work(0, [1], 1)]),
        lambda engine: engine.step([Work(0, [1, 2, 3, 4], 1)]),
        lambda engine: engine.step([Work(0, [SIZE], 1)]),
        lambda engine: engine.step([Work(0, [1], 2)]),
        lambda engine: engine.rollback(0, 1),
        lambda engine: engine.withdraw(1),
        lambda engine: engine.warm_up(),
    ],
)
def test_whoever_breaks_the_seam_is_told(misuse: object) -> None:
    """Rows opened twice, fed without room, closed without being open: errors of the caller."""
    engine = opened([1, 2, 3])
    with pytest.raises(Misuse):
        misuse(engine)  # type: ignore[operator]  # a lambda of the table


def test_it_is_called_from_its_own_thread_only() -> None:
    """As every engine is."""
    engine = opened([1])
    wrong: list[BaseException] = []

    def elsewhere() -> None:
        try:
            engine.withdraw(0)
        except Misuse as misuse:
            wrong.append(misuse)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert len(wrong) == 1


def test_faults_come_at_their_step() -> None:
    """Failing loads and steps, refused admissions; steps are counted over engines that share the faults."""
    faults = Faults(fail_steps=frozenset({2}), refuse_admits=1)
    first, second = ScriptedStep(SIZE, faults=faults), ScriptedStep(SIZE, faults=faults)
    assert [first.admit(0, [1, 2], ""), first.admit(0, [1, 2], ""), second.admit(0, [1], "")] == [None, 0, 0]
    first.step([Work(0, [1], 0)])

    with pytest.raises(RuntimeError, match="step 2"):
        second.step([Work(0, [1], 1)])
    with pytest.raises(OSError, match="gone"):
        ScriptedStep(SIZE, faults=Faults(fail_load=OSError("gone")))


def test_a_gate_lets_steps_through_one_by_one() -> None:
    """Shut, allowed, reached: a test holds the engine's clock."""
    gate, passed = Gate(), []
    gate.wait()
    gate.shut()

    def steps() -> None:
        for n in range(3):
            gate.wait()
            passed.append(n)

    thread = threading.Thread(target=steps)
    thread.start()
    gate.reached()
    assert passed == []
    gate.allow()
    gate.reached()
    assert passed == [0]
    gate.open()
    thread.join(10)
    assert passed == [0, 1, 2]
    with pytest.raises(TimeoutError):
        gate.reached(timeout=0.0)


def test_words_are_whole_characters() -> None:
    """Text comes when a character is complete; what never closes is replaced."""
    words = ScriptedVocabulary([b"<|end|>", b"\xc3", b"\xa9", b"a"])
    text = words.stream()

    assert [text.step(1), text.step(2), text.step(3), text.step(1), text.finish()] == ["", "é", "a", "", "\N{REPLACEMENT CHARACTER}"]
    assert (words.token_bytes(1), words.token_text(0), words.size) == (b"\xc3", "<|end|>", 4)
    assert len({ScriptedVocabulary().token_text(i) for i in range(SIZE)}) == ScriptedVocabulary().size == SIZE


async def said(engine: Scripted, **options: Any) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(job(**options))]


async def test_the_engine_says_its_reply_word_by_word() -> None:
    """A chunk a word, then the end with reason and usage, the end token counted."""
    engine = Scripted("One two.")
    engine.start()

    assert await said(engine) == [
        Chunk("One", tokens=(1,)),
        Chunk(" two.", tokens=(2,)),
        Chunk(finish_reason=FinishReason.STOP, usage=Usage(3, 3)),
    ]
    assert await said(engine, max_tokens=1) == [Chunk("One", tokens=(1,), finish_reason=FinishReason.LENGTH, usage=Usage(3, 1))]
    assert "".join(chunk.text for chunk in await said(engine, stop=("wo",))) == "One t"
    assert (await said(engine, logprobs=1, index=2))[0].logprobs[0].token == "One"
    assert (len(engine.jobs), engine.stats().idle) == (4, True)


async def test_the_reply_may_depend_on_the_job() -> None:
    """A function of the job answers by prompt."""
    engine = Scripted(lambda asked: f"{len(asked.prompt)} tokens")
    engine.start()

    assert "".join(chunk.text for chunk in await said(engine, prompt=(1, 2, 3, 4))) == "4 tokens"


async def test_the_engine_refuses_fails_and_stops_by_command() -> None:
    """Not started, overloaded, broken after a word, stopped in the midst: each with its own error."""
    with pytest.raises(NotReady):
        Scripted().generate(job())
    overloaded = Scripted(overloaded=True)
    overloaded.start()
    with pytest.raises(Overloaded):
        overloaded.generate(job())
    broken = Scripted(fail_after=1)
    broken.start()
    with pytest.raises(EngineFailed):
        await said(broken)
    hold = asyncio.Semaphore(1)
    held = Scripted(hold=hold)
    held.start()
    stream = held.generate(job())
    assert (await anext(stream)).text == "Well"
    held.stop()
    hold.release()
    with pytest.raises(NotReady):
        await anext(stream)
    assert (held.stats().alive, held.stats().running) == (False, 0)


async def test_the_engine_counts_clients_that_leave() -> None:
    """Closing a stream in the midst is a cancellation, and its row is free."""
    engine = Scripted(hold=asyncio.Semaphore(1))
    engine.start()
    stream = engine.generate(job())
    await anext(stream)
    assert engine.stats().running == 1
    await stream.aclose()

    assert (engine.cancelled, engine.stats().running) == (1, 0)
    assert engine.describe() == {"engine": "scripted", "device": "cpu"}
