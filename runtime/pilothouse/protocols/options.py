"""The sampling options: one set of names for every protocol, read once into `ChatRequest`'s fields."""

from collections.abc import Callable, Mapping
from typing import Any

from pilothouse.errors import InvalidRequest
from pilothouse.protocols.fields import Fields, kind, valid_text, wrong_type
from pilothouse.protocols.limits import MAX_BIASES, Limits, at_most, within

HINTS = {
    "max_length": "send max_tokens, which counts the answer alone",
    "max_new_tokens": "send max_tokens",
    "do_sample": "send temperature; 0 is greedy",
    "num_return_sequences": "send n",
    "best_of": "send n",
    "random_seed": "send seed",
    "stop_words": "send stop",
    "stop_sequences": "send stop",
}
"""What to send in place of other systems' names."""

REFUSED = {
    "chat_template": "the model's own template is the only one",
    "chat_template_kwargs": "the model's own template takes no client's arguments",
    "guided_choice": "send response_format with a json_schema",
    "guided_grammar": "send response_format with a json_schema",
    "guided_json": "send response_format with a json_schema",
    "guided_regex": "send response_format with a json_schema",
    "structured_outputs": "send response_format with a json_schema",
    "prompt_embeds": "a client's tensors are never read",
}
"""Options of other servers that will never be honoured here."""


def options(fields: Fields, limits: Limits) -> dict[str, Any]:
    """The options that `fields` gives, as keyword arguments of `ChatRequest`: types are judged here, bounds by `Limits.check`.

    `max_completion_tokens` wins over `max_tokens`; `logprobs`, guides and tools differ between wires and are not read here.
    """
    found = fields.read(_READERS)
    wins = found.pop("max_completion_tokens", None)
    if wins is not None:  # what loses is judged too, as the other is by Limits.check
        within(fields.path("max_tokens"), found.get("max_tokens"), 1, limits.most_tokens)
        found["max_tokens"] = wins
    if (stop := fields.take("stop")) is not None:
        found["stop"] = _stop(stop, fields.path("stop"), limits)
    return found


def integers(values: list[Any], path: str) -> tuple[int, ...]:
    """A list of integers. A wrong one is named by its place, which is looked for only then: a prompt may be a million tokens."""
    for index, value in enumerate(values):
        if type(value) is not int:
            wrong_type(f"{path}[{index}]", "an integer", value)
    return tuple(values)


def strings(values: list[Any], path: str) -> list[str]:
    """A list of strings, each judged by its own place."""
    return [Fields.a_text(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _stop(value: Any, path: str, limits: Limits) -> tuple[str, ...]:
    if isinstance(value, str):
        return (valid_text(value, path),)
    if isinstance(value, list):
        at_most(path, len(value), limits.max_stop, "strings")
        return tuple(strings(value, path))
    raise InvalidRequest(f"{path} must be a string or a list of strings, not {kind(value)}", field=path, code="invalid_type")


def _biases(value: Any, path: str) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        wrong_type(path, "an object of token ids and numbers", value)
    at_most(path, len(value), MAX_BIASES, "tokens")
    return tuple((_token(key, path), Fields.a_number(bias, f"{path}.{key}"[:64])) for key, bias in value.items())


def _token(key: str, path: str) -> int:
    # int() alone would take "+5", " 5" and "٥", and make two keys one.
    if not (key.isascii() and key.isdigit() and len(key) <= 10) or (key[0] == "0" and key != "0"):
        raise InvalidRequest(f"{path} must have token ids as its keys: whole numbers in decimal", field=path)
    return int(key)


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "max_tokens": Fields.an_integer,
    "max_completion_tokens": Fields.an_integer,
    "temperature": Fields.a_number,
    "top_p": Fields.a_number,
    "top_k": Fields.an_integer,
    "min_p": Fields.a_number,
    "repetition_penalty": Fields.a_number,
    "presence_penalty": Fields.a_number,
    "frequency_penalty": Fields.a_number,
    "logit_bias": _biases,
    "seed": Fields.an_integer,
    "min_tokens": Fields.an_integer,
    "stop_token_ids": lambda value, path: integers(Fields.a_list(value, path), path),
    "ignore_eos": Fields.a_boolean,
    "n": Fields.an_integer,
    "user": Fields.a_text,
}

NAMES = (*_READERS, "stop")
