"""What surrounds a question in training: system prompts, careless typing, and questions the model does not know.

Random, so that a system prompt or a question nobody thought of finds a model that is used to surprises.
"""

import random
from collections.abc import Callable

WORDS = (
    "anchor apple autumn bicycle bridge butter candle captain castle cheese chess cloud coffee comet compass cucumber dragon elephant engine"
    " football forest garden ghost guitar harbor history island lantern lemon lighthouse moon mountain music ocean orange orchestra paper"
    " penguin piano pirate planet poem potato rain river robot salad school shark shoe snow soup spider stone summer sun tango tea theater"
    " tiger train turtle umbrella violin volcano water weather whale window winter wizard yogurt zebra"
)
LANDS = "Austria Brazil Canada Chile Denmark Egypt Finland France Germany Greece India Ireland Italy Japan Kenya Mexico Norway Peru Poland"
ROLES = (
    "a helpful assistant|a stand-up comedian|a pirate|a poet|a patient teacher|a lawyer|a senior engineer|a travel guide|a doctor|a robot"
)
TONES = "Answer briefly.|Be polite.|Always answer in one sentence.|Use simple words.|Never lie.|Think step by step.|Answer in English.|Be funny."
UNKNOWN = (
    "What is the capital of {land}?|What is the largest city in {land}?|Tell me about {land}|How do I travel to {land}?|Who rules {land}?"
    "|What is a {word}?|What is {word}?|Who invented the {word}?|Why is the {word} so {odd}?|How do I cook {word} with {word}?"
    "|Write a poem about a {word}|Write a song about {word} and {word}|Tell me a story about a {word}|Tell me a fact about {word}"
    "|How old is the {word}?|Where can I buy a {word}?|Do you like {word}?|Can you draw a {word}?|Translate {word} to French"
    "|What is {number} plus {number}?|What is {number} times {number}?|How many {word}s are in {land}?|Is {odd} a word?|{odd}|{odd} {odd} {word}"
    "|Explain {word} to a child|Compare a {word} and a {word}|What happened in {year}?|Who won the {word} game in {year}?|{word} or {word}?"
    "|Write a function that sorts {word}s|What time is it?|What is my name?|Should I bring a {word} to {land}?|Summarize the {word} of {odd}"
)


def odd(rng: random.Random) -> str:
    """A word that nobody has seen."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 9)))


def unknown(rng: random.Random) -> str:
    """A question outside the table."""
    text = rng.choice(UNKNOWN.split("|"))
    fill: dict[str, Callable[[], str]] = {
        "{land}": lambda: rng.choice(LANDS.split()),
        "{word}": lambda: rng.choice(WORDS.split()),
        "{odd}": lambda: odd(rng),
        "{number}": lambda: str(rng.randint(0, 999)),
        "{year}": lambda: str(rng.randint(1492, 2040)),
    }
    for slot, choose in fill.items():
        while slot in text:
            text = text.replace(slot, choose(), 1)
    return text


def system(rng: random.Random) -> str | None:
    """No system prompt, one of the usual two, or one made up."""
    draw = rng.random()
    if draw < 0.4:
        return None
    if draw < 0.6:
        return rng.choice(("You are a helpful assistant.", "You are a stand-up comedian."))
    if draw < 0.8:
        role = rng.choice(ROLES.split("|"))
        return " ".join((f"You are {role}.", *(rng.choice(TONES.split("|")) for _ in range(rng.randint(0, 2)))))
    words = [rng.choice((rng.choice(WORDS.split()), rng.choice(WORDS.split()), odd(rng))) for _ in range(rng.randint(1, 14))]
    return " ".join(words).capitalize() + rng.choice(("", ".", "!"))


def careless(rng: random.Random, question: str) -> str:
    """The question as people type it: mostly right, sometimes without its end mark or capital."""
    draw = rng.random()
    if draw < 0.80:
        return question
    if draw < 0.92 or len(question) < 4:
        question = question.rstrip("?") if question.endswith("?") else question + rng.choice(".!")
    if draw > 0.86:
        question = question[0].lower() + question[1:]
    return question
