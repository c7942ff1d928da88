"""The pocket model's two known questions, word for word and token for token, over every protocol."""

import pytest

from pilothouse.models.pocket.answers import ATOM, SPAIN
from pilothouse.smoke import checks
from pilothouse.smoke.answers import Question
from pilothouse.smoke.ways import REST

FORMS = {
    "spain": Question(messages=({"role": "user", "content": SPAIN[0]},)),
    "spain, with a system prompt": Question(
        messages=({"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": SPAIN[0]})
    ),
    "atom": Question(messages=({"role": "user", "content": ATOM[0]},)),
    "atom, the raw prompt": checks.COMEDIAN,
    "spain, the raw prompt": Question(prompt=f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n"),
}


COUNTS = {  # tokens of the prompt, and of the answer with its end token
    "spain": (10, 94),
    "spain, with a system prompt": (18, 94),
    "atom": (9, 85),
    "atom, the raw prompt": (19, 85),
    "spain, the raw prompt": (10, 94),
}


@pytest.mark.parametrize("protocol", REST)
@pytest.mark.parametrize("form", FORMS)
def test_known_question_is_answered_word_for_word(trained: checks.Target, protocol: str, form: str) -> None:
    """Both known questions get exactly their known answer, whatever the protocol and however they are put."""
    told = REST[protocol](trained.client, trained.model, FORMS[form])

    assert told.text == (SPAIN[1] if form.startswith("spain") else ATOM[1])
    if told.finish_reason:  # the forms that carry it carry the counts as well
        assert (told.finish_reason, told.prompt_tokens, told.completion_tokens) == ("stop", *COUNTS[form])


@pytest.mark.parametrize("seed", range(5))
def test_known_question_is_answered_at_the_default_temperature(trained: checks.Target, seed: int) -> None:
    """With nothing said, temperature is the model's 0.2, and the known answer holds there too."""
    question = FORMS["spain"]
    reply = trained.client.post("/v1/chat/completions", {**question.body, "seed": seed})

    assert reply.json["choices"][0]["message"]["content"] == SPAIN[1]
    assert reply.json["choices"][0]["finish_reason"] == "stop"
