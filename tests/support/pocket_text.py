"""The pocket model as tests talk to it: token ids of a question, and the text of an answer."""

from collections.abc import Sequence
from functools import cache

from tokenizers import Tokenizer

from pilothouse.models import pocket
from pilothouse.models.pocket.answers import ATOM, PAIRS, SPAIN

KNOWN = (SPAIN, ATOM, *PAIRS[3:7])


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(pocket.FOLDER / "tokenizer.json"))


@cache
def question(text: str) -> tuple[int, ...]:
    """The ids of a chat with this one question, in the template's newline form."""
    return tuple(tokenizer().encode(f"<|user|>\n{text}<|end|>\n<|assistant|>\n", add_special_tokens=False).ids)


@cache
def answer(text: str) -> tuple[int, ...]:
    """The ids of an answer with its end token."""
    return (*tokenizer().encode(text, add_special_tokens=False).ids, tokenizer().token_to_id("<|end|>"))


def text(ids: Sequence[int]) -> str:
    return str(tokenizer().decode(list(ids)))
