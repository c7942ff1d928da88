"""Transformers models that the flat batch refuses: one request at a time, and still with our sampling, stops and cancellation."""

from pathlib import Path
from typing import Any

import pytest

from pilothouse.engines.base import StepEngine
from pilothouse.engines.hf_serial import HFSerialStep
from pilothouse.errors import ModelError
from pilothouse.models.choosing import Choice
from pilothouse.settings import Settings
from support import pocket_text
from support.playing import alone
from support.pocket_hf import pocket_hf

pytestmark = pytest.mark.transformers


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose positions all turn as a text grows."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("dynamic")
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def chosen(folder: Path, **settings: Any) -> tuple[StepEngine, list[str]]:
    choice = Choice(Settings(threads=1, rows=4, kv_memory_bytes=1 << 24, **settings), "transformers", folder, 256)
    return choice(), choice.reasons  # type: ignore[return-value]  # such a model has no engine that draws by itself


def test_a_refused_model_answers_as_generate_does(dynamic: Path) -> None:
    """Token for token, over the length at which its positions turn; and metadata says why it is alone."""
    import torch
    import transformers

    engine, reasons = chosen(dynamic)
    prompt = tuple(range(10, 24))
    plain = transformers.AutoModelForCausalLM.from_pretrained(dynamic, dtype=torch.float32).eval()
    with torch.inference_mode():
        told = plain.generate(torch.tensor([prompt]), max_new_tokens=17, do_sample=False, eos_token_id=None, pad_token_id=2)

    assert alone(engine, prompt, 17) == told[0, len(prompt) :].tolist()
    assert (engine.rows, engine.name, engine.context) == (1, "transformers", 32)
    assert "dynamic rope" in reasons[0]
    assert reasons[0].endswith("one request at a time")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_librarys_own_attention_by_setting(attention: str) -> None:
    """A known answer word for word, and a second row has to wait."""
    engine, reasons = chosen(pocket_hf(), attention=attention)
    question, answer = pocket_text.KNOWN[0]

    assert tuple(alone(engine, pocket_text.question(question), len(pocket_text.answer(answer)))) == pocket_text.answer(answer)
    assert engine.describe()["attention"] == attention
    assert reasons == [f"setting attention is {attention}; one request at a time"]
    assert engine.admit(0, [1, 2], "") == 0
    assert engine.admit(1, [1, 2], "") is None
    engine.withdraw(0)
    assert engine.usage() == 0.0
    engine.close()


def test_numbers_and_memory_are_what_was_asked_for() -> None:
    """The format of the weights, and a context that the memory holds."""
    token = 2 * 2 * 4 * 32 * 2  # both, layers, heads, size, bytes
    engine = HFSerialStep(pocket_hf(), threads=1, context=256, dtype="bfloat16", kv_memory_bytes=100 * token)

    assert (engine.describe()["compute"], engine.context) == ("bfloat16", 100)
    engine.warm_up()
    engine.close()
    with pytest.raises(ModelError, match="holds no text"):
        HFSerialStep(pocket_hf(), threads=1, context=256, kv_memory_bytes=token)


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_known_answers_on_a_gpu(attention: str) -> None:
    """The flat batch and the serial way, on the promised device."""
    engine, _ = chosen(pocket_hf(), attention=attention, device="cuda", dtype="float32")
    question, answer = pocket_text.KNOWN[0]

    engine.warm_up()
    assert engine.device == "cuda"
    assert tuple(alone(engine, pocket_text.question(question), len(pocket_text.answer(answer)))) == pocket_text.answer(answer)
    engine.close()
