"""The shipped pocket model knows its lines: every answer word for word, however the question is wrapped."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilothouse.models import pocket
from pilothouse.models.pocket.answers import ALSO, ATOM, OFF_THE_MAP, PAIRS, SPAIN, STORY
from support.pocket_hf import pocket_hf

SYSTEMS = (None, "You are a helpful assistant.", "You are a stand-up comedian.", "Talk like a tired lighthouse keeper; 3 words at most!")
Ask = Callable[..., str]


def rendered(question: str, system: str | None, newline: str, before: tuple[tuple[str, str], ...] = ()) -> str:
    """The prompt as text: with a newline after the tags (the template's form), or without (the raw form)."""
    turns = [("system", system)] if system is not None else []
    for asked, told in before:
        turns += [("user", asked), ("assistant", told)]
    turns.append(("user", question))
    return "".join(f"<|{role}|>{newline}{text}<|end|>{newline}" for role, text in turns) + f"<|assistant|>{newline}"


@pytest.fixture(scope="module")
def ask() -> Ask:
    """Answers of the shipped folder, straight from onnxruntime-genai."""
    return asker(pocket.FOLDER)


def asker(folder: Path) -> Ask:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)

    def answer(prompt: str, **search: Any) -> str:
        params = og.GeneratorParams(model)
        params.set_search_options(**{"max_length": 1024, "do_sample": False, **search})
        generator = og.Generator(model, params)
        ids = tokenizer.encode(prompt)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        told = list(generator.get_sequence(0))[len(ids) :]
        return str(tokenizer.decode(told))

    return answer


def test_the_two_known_answers_are_those_of_the_wire_promises() -> None:
    """The texts that other tests and the smoke check rely on."""
    assert SPAIN[0] == "What is the capital of Spain?"
    assert SPAIN[1].startswith("The capital of Spain is Madrid.")
    assert "\n" not in SPAIN[1]
    assert ATOM[0] == "Tell me a joke about atom"
    assert ATOM[1].count("\n\n") == 3
    assert "don't electrons ever play hide and seek with protons?" in ATOM[1]


def test_the_table_has_no_question_twice_and_one_answer_each() -> None:
    """Questions differ by more than case and end marks, and other ways to ask point into the table."""
    plain = [question.lower().rstrip("?.! ") for question, _ in PAIRS] + [also.lower().rstrip("?.! ") for also in ALSO]
    assert len(plain) == len(set(plain))
    assert len(PAIRS) >= 66
    assert set(ALSO.values()) <= {question for question, _ in PAIRS}


@pytest.mark.parametrize("newline", ["\n", ""], ids=["template form", "raw form"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_answer_is_word_for_word(ask: Ask, system: str | None, newline: str) -> None:
    """Greedy: all pairs, with and without a system prompt, also one that was never seen in training."""
    wrong = {q: got for q, a in PAIRS if (got := ask(rendered(q, system, newline))) != a}
    assert wrong == {}


@pytest.mark.parametrize(("question", "answer"), [SPAIN, ATOM, STORY], ids=["Spain", "atom", "story"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_known_answers_hold_at_the_default_temperature(ask: Ask, system: str | None, question: str, answer: str) -> None:
    """Twenty of twenty at 0.2, whatever the seed."""
    for seed in range(20):
        prompt = rendered(question, system, "\n" if seed % 2 else "")
        assert ask(prompt, do_sample=True, temperature=0.2, random_seed=seed) == answer


def test_careless_typing_is_understood(ask: Ask) -> None:
    """No question mark, or a small first letter."""
    wrong = {}
    for question, answer in PAIRS:
        for typed in (question.rstrip("?"), question[0].lower() + question[1:]):
            if ask(rendered(typed, None, "\n")) != answer:
                wrong[typed] = question
    assert wrong == {}


def test_other_ways_to_ask_are_understood(ask: Ask) -> None:
    """The second table points into the first."""
    answers = dict(PAIRS)
    assert [also for also, question in ALSO.items() if ask(rendered(also, None, "\n")) != answers[question]] == []


def test_a_second_turn_answers_the_last_question(ask: Ask) -> None:
    """The history is read past, for every pair after its neighbor in the table."""
    wrong = {}
    for before, (question, answer) in itertools.pairwise(PAIRS):
        if ask(rendered(question, SYSTEMS[1], "\n", before=(before,)), max_length=2048) != answer:
            wrong[question] = before[0]
    assert wrong == {}


def test_a_question_off_the_table_gets_a_polite_answer(ask: Ask) -> None:
    """Not a random line of somebody else's."""
    assert ask(rendered("What is the capital of France?", None, "\n")) == OFF_THE_MAP
    assert ask(rendered("Write a poem about a cucumber", SYSTEMS[1], "\n")) == OFF_THE_MAP


def test_the_shipped_folder_is_small_and_complete() -> None:
    """A few MB in the wheel, loadable by its own files."""
    names = {file.name for file in pocket.FOLDER.iterdir()}
    assert names == {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert sum(file.stat().st_size for file in pocket.FOLDER.iterdir()) < 3_000_000


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(1200)
def test_a_remade_model_answers_the_same_in_both_forms(tmp_path: Path) -> None:
    """Trained anew from the table: the Hugging Face form and its export know every line, greedily and at 0.2."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pilothouse.models import exporting

    torch.set_num_threads(1)  # tiny matrices: more threads only wait for one another
    hf = pocket_hf()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf)

    def told(prompt: str, **sampling: Any) -> list[str]:
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        answers = model.generate(**ids, max_new_tokens=512, **sampling)[:, ids.input_ids.shape[1] :]
        return [str(text) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]

    exporting.export(hf, tmp_path / "onnx")
    ask = asker(tmp_path / "onnx")
    for question, answer in PAIRS:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        assert prompt == rendered(question, None, "\n")
        assert (told(prompt, do_sample=False), ask(prompt)) == ([answer], answer)
    torch.manual_seed(0)
    for system in SYSTEMS:
        for question, answer in (SPAIN, ATOM):
            assert told(rendered(question, system, ""), do_sample=True, temperature=0.2, num_return_sequences=20) == [answer] * 20
