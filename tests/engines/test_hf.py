"""The transformers engine on the pocket model's own weights: known answers, and rows that do not depend on who else is in the batch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilothouse.engines.base import Work
from pilothouse.engines.hf import HFStep
from pilothouse.errors import ModelError
from support import pocket_text
from support.playing import alone, play, schedules
from support.pocket_hf import pocket_hf
from support.reference import forced_logits

pytestmark = pytest.mark.transformers

TOKEN = 2 * 4 * 32 * 2 * 4  # bytes of a token's keys and values: layers, heads, head size, both, float32
ROWS = 4
PROMPTS = [pocket_text.question(question) for question, _ in pocket_text.KNOWN]


def made(folder: Path, **options: Any) -> HFStep:
    return HFStep(folder, **{"threads": 1, "context": 256, "rows": ROWS, "kv_memory_bytes": 2048 * TOKEN, **options})


@pytest.fixture(scope="module")
def engine() -> HFStep:
    built = made(pocket_hf())
    built.warm_up()
    return built


@pytest.fixture(scope="module")
def runs(engine: HFStep) -> dict[tuple[int, ...], list[int]]:
    """What each prompt answers alone."""
    return {prompt: alone(engine, prompt, 40) for prompt in PROMPTS}


@pytest.mark.parametrize(("question", "answer"), pocket_text.KNOWN)
def test_known_answers_are_word_for_word(engine: HFStep, question: str, answer: str) -> None:
    """What the pocket model learned comes out token for token."""
    expected = pocket_text.answer(answer)

    assert tuple(alone(engine, pocket_text.question(question), len(expected))) == expected


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_row_answers_what_it_answers_alone(engine: HFStep, runs: dict[tuple[int, ...], list[int]], data: st.DataObject) -> None:
    """Neighbours, chunks, drafts and their roll-back, early leavers: no schedule changes a token of any row."""
    parts = data.draw(schedules(PROMPTS, rows=ROWS))
    expected = [runs[part.prompt] for part in parts]

    played = play(engine, parts, expected)

    assert played == [known[: min(part.tokens, part.leaves)] for known, part in zip(expected, parts, strict=True)]
    assert engine.usage() == 0.0


def test_logits_are_the_librarys_own(engine: HFStep) -> None:
    """A whole prompt gives the very logits of the model's plain forward."""
    import torch
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(pocket_hf(), dtype=torch.float32, attn_implementation="sdpa").eval()
    text = list(PROMPTS[0])
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([text])).logits[0].numpy()

    engine.admit(0, text, "")
    actual = engine.step([Work(0, text, len(text))])
    engine.withdraw(0)
    assert np.abs(actual - expected).max() < 1e-5


def small(kind: str, folder: Path, **fields: Any) -> Path:
    """A random model of another shape."""
    import torch
    import transformers

    shape = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**{**shape, **fields})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def long_rope() -> dict[str, Any]:
    return {
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + 0.5 * i for i in range(8)],
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Llama", dict),
        ("Mistral", lambda: {"sliding_window": 12}),
        ("Gemma2", lambda: {"sliding_window": 12, "query_pre_attn_scalar": 16}),
        ("Phi3", long_rope),
    ],
)
def test_other_shapes_of_attention_are_the_librarys_own(kind: str, fields: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    """Shared key heads, sliding windows, capped scores and long rope: logits are the plain forward's, whole, in chunks, one by one, and with
    a neighbour that is on the other side of the long-rope turn."""
    import torch
    import transformers

    folder = small(kind, tmp_path, **fields())
    engine = made(folder, context=128)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    text = np.random.default_rng(1).integers(3, 300, 50).tolist()
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([text])).logits[0].numpy()

    def last(chunk: int) -> Any:
        engine.admit(0, text, "")
        for at in range(0, len(text), chunk):
            piece = text[at : at + chunk]
            answer = engine.step([Work(1, [5], 1), Work(0, piece, 1)])
        engine.withdraw(0)
        return answer[1]

    engine.admit(1, [7], "")
    for chunk in (50, 9, 1):
        assert np.abs(last(chunk) - expected[-1]).max() < 1e-4


def test_a_text_that_falls_back_below_the_long_turn_is_short_again(tmp_path: Path) -> None:
    """Taking drafts back over the turn leaves no key of the long factors behind."""
    engine = made(small("Phi3", tmp_path, **long_rope()), context=128)
    text = np.random.default_rng(1).integers(3, 300, 36).tolist()
    expected = forced_logits(engine, text[:30], [9])

    engine.admit(0, text[:29], "")
    engine.step([Work(0, text[:29], 1)])
    assert engine.extend(0, 7)
    engine.step([Work(0, text[29:], 7)])
    engine.rollback(0, 7)
    actual = engine.step([Work(0, text[29:30], 1)])
    engine.withdraw(0)

    assert np.abs(actual - expected).max() < 1e-4


def test_memory_is_a_bound_and_withdraw_gives_it_back(tmp_path: Path) -> None:
    """Rows are admitted and grow while there is memory; what a withdrawn row held is free at once."""
    engine = made(pocket_hf(), kv_memory_bytes=300 * TOKEN)

    assert engine.context == 256
    assert engine.admit(0, [5] * 100, "") == 0
    assert engine.usage() == 128 / 300
    assert engine.admit(1, [5] * 100, "") == 0
    assert engine.admit(2, [5], "") is None
    assert engine.extend(0, 28)
    assert not engine.extend(0, 157)
    engine.withdraw(1)
    engine.step([Work(0, [5] * 100, 1)])
    assert engine.extend(0, 156)
    assert not engine.extend(0, 157)
    engine.withdraw(0)
    assert engine.usage() == 0.0


def test_a_small_memory_shortens_the_context() -> None:
    """A row can't be longer than the memory; one that holds no text is refused."""
    assert made(pocket_hf(), kv_memory_bytes=50 * TOKEN).context == 50
    with pytest.raises(ModelError, match="kv_memory_bytes holds no text"):
        made(pocket_hf(), kv_memory_bytes=TOKEN)


def test_a_step_within_prompts_answers_nothing(engine: HFStep) -> None:
    """Pieces of prompts ask for no logits, and the vocabulary's width is kept."""
    engine.admit(0, [4, 5, 6], "")

    assert engine.step([Work(0, [4, 5], 0)]).shape == (0, 2048)
    answered = engine.step([Work(0, [6], 1)])
    assert answered.shape == (1, 2048)
    assert answered.dtype == np.float32
    engine.withdraw(0)


def test_it_says_what_it_is(engine: HFStep) -> None:
    """Facts for metadata and the log; auto is float32 on a CPU, where rows are exact."""
    facts = engine.describe()

    assert (engine.name, engine.device) == ("transformers", "cpu")
    assert facts["model"] == "Phi3ForCausalLM"
    assert facts["compute"] == "float32"
    assert facts["rows"] == ROWS
    assert facts["kv_bytes_per_token"] == TOKEN
    assert engine.capabilities.exact
    assert not made(pocket_hf(), dtype="bfloat16").capabilities.exact


def copied(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(pocket_hf(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """What is missing is named, with what to do."""
    with pytest.raises(ModelError, match=r"no readable config\.json in .*: give a Transformers model's own folder"):
        made(tmp_path)


def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    """Microsoft's own folders name Python files; transformers' class of the same name is taken and the files are not touched."""
    folder = copied(tmp_path, auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Phi3ForCausalLM"})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n")

    assert made(folder).describe()["model"] == "Phi3ForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_an_unknown_kind_of_model_is_refused(tmp_path: Path) -> None:
    """A model_type that the library lacks is a `ModelError`."""
    with pytest.raises(ModelError, match=r"can't read config\.json"):
        made(copied(tmp_path, model_type="no-such-model"))


def test_a_rope_that_turns_everybody_is_refused(tmp_path: Path) -> None:
    """Dynamic rope depends on the longest text of a batch: rows would not be independent."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

    with pytest.raises(ModelError, match="dynamic rope"):
        made(small("Llama", tmp_path, rope_parameters=rope))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Weights come from safetensors only: the other format can run code when read."""
    folder = copied(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="safetensors"):
        made(folder)


def test_a_promised_gpu_that_is_missing_is_refused() -> None:
    """device cuda is a promise: without a GPU nothing is loaded."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match="no GPU answered: device is cuda and torch sees none"):
        made(pocket_hf(), device="cuda")
