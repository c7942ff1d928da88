"""The Generator as a step engine: known answers, chunks, drafts taken back, and texts that begin like the one before."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pilothouse.engines import genai
from pilothouse.engines.base import Work
from pilothouse.engines.genai import GenaiStep
from pilothouse.errors import ModelError
from pilothouse.models import pocket
from support import pocket_text
from support.playing import Part, alone, play
from support.reference import assert_close, forced_logits, generator_logits
from support.tiny_models import ORIGINAL, tiny


@pytest.fixture(scope="module")
def engine() -> GenaiStep:
    made = GenaiStep(pocket.FOLDER, threads=2, context=256)
    made.warm_up()
    return made


@pytest.mark.parametrize(("question", "answer"), pocket_text.KNOWN)
def test_known_answers_are_word_for_word(engine: GenaiStep, question: str, answer: str) -> None:
    """What the pocket model learned comes out token for token."""
    expected = pocket_text.answer(answer)

    assert tuple(alone(engine, pocket_text.question(question), len(expected))) == expected


@pytest.mark.parametrize("chunk", [1, 7, 16])
@pytest.mark.parametrize("drafts", [(), ((2, 0), (0, 2), (1, 1))])
def test_chunks_and_drafts_change_no_token(engine: GenaiStep, chunk: int, drafts: tuple[tuple[int, int], ...]) -> None:
    """A prompt fed by pieces, and drafts that are fed and taken back, give the tokens of a plain run."""
    question, answer = pocket_text.KNOWN[1]
    expected = list(pocket_text.answer(answer))

    assert play(engine, [Part(pocket_text.question(question), len(expected), chunk=chunk, drafts=drafts)], [expected]) == [expected]


def test_logits_are_the_generators_own(engine: GenaiStep) -> None:
    """The library's own loop chooses by the same logits."""
    prompt = pocket_text.question("What can you do?")
    tokens, logits = generator_logits(pocket.FOLDER, prompt, 12)

    assert_close(forced_logits(engine, prompt, tokens, chunk=5), logits, 1e-5)


def test_a_text_that_begins_like_the_one_before_is_not_computed_anew(engine: GenaiStep) -> None:
    """The next prompt's common beginning is kept, all but its last token, and only for the same tenant."""
    prompt = list(pocket_text.question("What is the capital of Spain?"))
    alone(engine, tuple(prompt), 3)

    assert engine.admit(0, prompt, "") == len(prompt) - 1
    engine.withdraw(0)
    assert engine.admit(0, [*prompt[:4], 300, 301], "") == 4
    engine.withdraw(0)
    assert engine.admit(0, prompt, "somebody else") == 0
    engine.withdraw(0)


def test_there_is_room_for_one(engine: GenaiStep) -> None:
    """A second row has to wait, and comes in as soon as the first one is withdrawn."""
    assert engine.rows == 1
    assert engine.admit(0, [1, 2], "") is not None
    assert engine.admit(1, [1, 2], "") is None
    engine.withdraw(0)
    assert engine.usage() == 0.0
    assert engine.admit(1, [1, 2], "") is not None
    engine.withdraw(1)


def test_the_context_is_a_bound(engine: GenaiStep) -> None:
    """A row may grow up to the context and no further."""
    engine.admit(0, [7, 8, 9], "bounds")
    engine.step([Work(0, [7, 8, 9], 1)])

    assert engine.usage() == 3 / 256
    assert engine.extend(0, 253)
    assert not engine.extend(0, 254)
    engine.withdraw(0)


def test_memory_shortens_the_context() -> None:
    """The keys and values of the whole context are allocated: a smaller memory gives a shorter one, too small a memory is refused."""
    token = 2 * 4 * 32 * 2 * 4  # layers, heads, head size, keys and values, bytes

    assert GenaiStep(pocket.FOLDER, threads=1, context=256, kv_memory_bytes=100 * token).context == 100
    with pytest.raises(ModelError, match="kv_memory_bytes 100 holds no text"):
        GenaiStep(pocket.FOLDER, threads=1, context=256, kv_memory_bytes=100)


def test_a_step_within_a_prompt_answers_nothing(engine: GenaiStep) -> None:
    """Pieces of a prompt ask for no logits."""
    engine.admit(0, [4, 5, 6], "pieces")

    assert engine.step([Work(0, [4, 5], 0)]).size == 0
    answered = engine.step([Work(0, [6], 1)])
    assert answered.shape == (1, 2048)
    assert answered.dtype == np.float32
    engine.withdraw(0)


def test_it_says_what_it_is(engine: GenaiStep) -> None:
    """Facts for metadata and the log."""
    facts = engine.describe()

    assert (engine.name, engine.device) == ("genai", "cpu")
    assert facts["rows"] == 1
    assert facts["context_tokens"] == 256
    assert engine.capabilities.rollback
    assert not engine.capabilities.batched


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """What is missing is named, with what to do."""
    with pytest.raises(ModelError, match=r"no genai_config\.json in .*: give the folder"):
        GenaiStep(tmp_path, threads=1, context=64)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": {"decoder": {"filename": "model.onnx"}, "type": "phi3"}}'])
def test_a_configuration_that_describes_no_model_is_refused(tmp_path: Path, text: str) -> None:
    """A broken genai_config.json is told from a missing one."""
    (tmp_path / "genai_config.json").write_text(text)

    with pytest.raises(ModelError, match="does not describe a model"):
        GenaiStep(tmp_path, threads=1, context=64)


def test_a_folder_without_its_graph_is_refused(tmp_path: Path) -> None:
    """A folder that was fetched in part is told so."""
    shutil.copy(pocket.FOLDER / "genai_config.json", tmp_path)

    with pytest.raises(ModelError, match=r"names model\.onnx, and the folder has no such file"):
        GenaiStep(tmp_path, threads=1, context=64)


def test_a_broken_graph_is_refused(tmp_path: Path) -> None:
    """What the library can't load is a `ModelError`, not a crash."""
    shutil.copytree(pocket.FOLDER, tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(b"no graph")

    with pytest.raises(ModelError, match="onnxruntime-genai can't load the model"):
        GenaiStep(tmp_path / "model", threads=1, context=64)


def test_a_head_that_answers_the_last_position_only_takes_drafts_one_by_one(engine: GenaiStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruned export gives the same answers, drafts included."""
    question, answer = pocket_text.KNOWN[0]
    expected = list(pocket_text.answer(answer))
    monkeypatch.setattr(engine, "_wide", False)

    assert play(engine, [Part(pocket_text.question(question), len(expected), chunk=7, drafts=((2, 1), (0, 2)))], [expected]) == [expected]


@pytest.mark.slow
@pytest.mark.transformers
def test_a_long_text_is_computed_with_the_long_factors_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that outgrows the short window is computed anew, and one that falls back below it, too."""
    folder = tiny("phi35")
    monkeypatch.setattr(genai, "LONG_ROPE", ORIGINAL)
    engine = GenaiStep(folder, threads=2, context=200)
    text = np.random.default_rng(1).integers(10, 590, ORIGINAL + 20).tolist()
    whole = forced_logits(engine, text, [5])
    short = forced_logits(engine, text[: ORIGINAL - 2], [5])

    engine.admit(0, [text[0] + 1, *text[1:]], "")  # nothing in common: all is fed
    engine.withdraw(0)
    assert_close(forced_logits(engine, text, [5], chunk=ORIGINAL - 4), whole, 1e-5)
    engine.admit(0, text, "")
    engine.withdraw(0)
    assert_close(forced_logits(engine, text[: ORIGINAL - 2], [5]), short, 1e-5)
    assert not np.allclose(short, whole)
