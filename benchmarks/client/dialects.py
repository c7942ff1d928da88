"""What each kind of server is asked, and how it says tokens: OpenAI's two, llama.cpp's own, MLflow's and the V2 protocol with MLflow's columns."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client.answer import Answer, Asked

Body = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """`ask` makes path and body of a request; `read` takes one event or one whole body, notes what it says of tokens, tells if it has content."""

    name: str
    ask: Callable[[Asked, str], tuple[str, Body]]
    read: Callable[[Any, Answer], bool]
    streams: bool = True


def _fixed(asked: Asked, model: str) -> Body:
    common: Body = {"temperature": 0, "max_tokens": asked.tokens, "min_tokens": asked.tokens, "ignore_eos": True}
    return {**({"model": model} if model else {}), **common, "stream": True, "stream_options": {"include_usage": True}}


def _openai_ask(asked: Asked, model: str) -> tuple[str, Body]:
    return "/v1/completions", {"prompt": asked.prompt, **_fixed(asked, model)}


def _chat_ask(asked: Asked, model: str) -> tuple[str, Body]:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": asked.text}], **_fixed(asked, model)}


def _openai_read(event: Body, answer: Answer) -> bool:
    if "error" in event:
        answer.failure = json.dumps(event["error"])[:300]
    if usage := event.get("usage"):
        answer.tokens, answer.prompt = usage["completion_tokens"], usage["prompt_tokens"]
        answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    choices = event.get("choices") or ()
    return any(choice.get("text") or (choice.get("delta") or {}).get("content") for choice in choices)


def _llama_ask(asked: Asked, model: str) -> tuple[str, Body]:
    common = {"n_predict": asked.tokens, "temperature": 0, "ignore_eos": True, "stream": True, "return_tokens": True, "cache_prompt": True}
    return "/completion", {"prompt": asked.prompt, **common}


def _llama_read(event: Body, answer: Answer) -> bool:
    if event.get("stop"):
        answer.tokens, answer.prompt = event["tokens_predicted"], event["tokens_evaluated"]
        answer.cached = event.get("timings", {}).get("cache_n", 0)
    return bool(event.get("content") or event.get("tokens"))


def _transformers_ask(asked: Asked, model: str) -> tuple[str, Body]:
    """It refuses fields that it does not know, and takes a whole generation config in their place; one without an end token never ends early.
    Whole answers: its streams end with an error where tokens are no text, as those of random weights often are."""
    config = {"do_sample": False, "max_new_tokens": asked.tokens, "pad_token_id": 0}
    return "/v1/completions", {"prompt": asked.text, "max_tokens": asked.tokens, "generation_config": json.dumps(config)}


def _mlflow_ask(asked: Asked, model: str) -> tuple[str, Body]:
    return "/invocations", {"dataframe_split": {"columns": ["prompt", "max_tokens"], "data": [[asked.text, asked.tokens]]}}


def _mlflow_read(body: Body, answer: Answer) -> bool:
    return _told(body["predictions"][0], answer)


def _v2_ask(asked: Asked, model: str) -> tuple[str, Body]:
    prompt = {"name": "prompt", "shape": [1, 1], "datatype": "BYTES", "data": [asked.text], "parameters": {"content_type": "str"}}
    tokens = {"name": "max_tokens", "shape": [1, 1], "datatype": "INT64", "data": [asked.tokens]}
    return f"/v2/models/{model}/infer", {"inputs": [prompt, tokens], "parameters": {"content_type": "pd"}}


def _v2_read(body: Body, answer: Answer) -> bool:
    return _told(body["outputs"][0]["data"][0], answer)


def _told(row: str, answer: Answer) -> bool:
    """The JSON text that peers/pyfunc_generator.py says."""
    told = json.loads(row)
    answer.tokens, answer.prompt = told["tokens"], told["prompt_tokens"]
    return bool(told["text"])


DIALECTS = {
    one.name: one
    for one in (
        Dialect("completions", _openai_ask, _openai_read),
        Dialect("chat", _chat_ask, _openai_read),
        Dialect("llama", _llama_ask, _llama_read),
        Dialect("transformers", _transformers_ask, _openai_read, streams=False),
        Dialect("mlflow", _mlflow_ask, _mlflow_read, streams=False),
        Dialect("v2", _v2_ask, _v2_read, streams=False),
    )
}
