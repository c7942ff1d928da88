"""OpenAI's protocol: answers, log-probabilities, guides, ends, and every refusal by its field."""

import json
import math
from typing import Any

import jsonschema
import pytest

from pilothouse.smoke.checks import Target
from pilothouse.smoke.client import Reply
from support.questions import JSON_SCHEMA, SCHEMA

HELLO = [{"role": "user", "content": "Hello"}]
SPAIN = [{"role": "user", "content": "What is the capital of Spain?"}]
HOT = {"temperature": 1.5, "max_tokens": 16}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def chat(target: Target, **options: Any) -> dict[str, Any]:
    """The answer to a short chat."""
    reply = refused(target, **options)
    assert reply.status == 200, reply.body
    return dict(reply.json)


def refused(target: Target, **options: Any) -> Reply:
    return target.client.post("/v1/chat/completions", {"messages": HELLO, "temperature": 0, "max_tokens": 8, **options})


def complete(target: Target, **options: Any) -> dict[str, Any]:
    """The answer to a short completion."""
    reply = target.client.post("/v1/completions", {"prompt": "Hello", "temperature": 0, "max_tokens": 8, **options})
    assert reply.status == 200, reply.body
    return dict(reply.json)


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


# -- whole answers -------------------------------------------------------------------------------------------------------------------


def test_chat_answer_has_openais_fields_and_no_others(target: Target) -> None:
    """Ids, times, names, and usage with the cached tokens."""
    told = chat(target)

    assert set(told) == {"id", "object", "created", "model", "choices", "usage"}
    assert (told["object"], told["model"]) == ("chat.completion", target.model)
    assert told["id"].startswith("chatcmpl-")
    assert isinstance(told["created"], int)
    (choice,) = told["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["message"]["role"]) == (0, None, "assistant")
    assert set(told["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}
    assert 0 <= told["usage"]["prompt_tokens_details"]["cached_tokens"] < told["usage"]["prompt_tokens"]
    assert told["id"] != chat(target)["id"]


def test_completion_answer_has_openais_fields_and_no_others(target: Target) -> None:
    """Text, never null."""
    told = complete(target)

    assert set(told) == {"id", "object", "created", "model", "choices", "usage"}
    assert (told["object"], told["model"]) == ("text_completion", target.model)
    assert set(told["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


def test_models_are_listed_and_found_by_name(target: Target) -> None:
    """One model, the same card in the list and alone; any other name is 404."""
    listed = target.client.get("/v1/models").json
    (card,) = listed["data"]
    missing = target.client.get("/v1/models/gpt-9")

    assert listed["object"] == "list"
    assert (card["id"], card["object"], card["owned_by"]) == (target.model, "model", "pilothouse")
    assert isinstance(card["created"], int)
    assert target.client.get(f"/v1/models/{target.model}").json == card
    assert (missing.status, missing.json["error"]["code"], missing.json["error"]["param"]) == (404, "model_not_found", "model")


def test_what_is_not_served_is_refused_by_name(target: Target) -> None:
    """A client learns that it is the server that lacks it."""
    reply = target.client.post("/v1/embeddings", {"model": target.model, "input": "Hello"})

    assert (reply.status, reply.json["error"]["code"]) == (400, "unsupported_endpoint")
    assert "/v1/embeddings" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "prompt",
    [["Hello", "Hi"], [[300, 301, 302], [400]], [300, 301, 302]],
    ids=["strings", "lists of tokens", "tokens"],
)
def test_every_form_of_a_prompt(target: Target, prompt: list[Any]) -> None:
    """Several prompts have their choices numbered through, each what it gets alone, counted together."""
    rows = prompt if not isinstance(prompt[0], int) else [prompt]
    alone = [complete(target, prompt=row) for row in rows]

    told = complete(target, prompt=prompt)

    assert [choice["index"] for choice in told["choices"]] == list(range(len(rows)))
    assert [choice["text"] for choice in told["choices"]] == [one["choices"][0]["text"] for one in alone]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert told["usage"][name] == sum(one["usage"][name] for one in alone)


def test_echo_puts_the_prompt_before_the_answer(target: Target) -> None:
    """Text alone: the prompt's tokens are not counted twice."""
    plain, echoed = complete(target), complete(target, echo=True)

    assert echoed["choices"][0]["text"] == "Hello" + plain["choices"][0]["text"]
    assert echoed["usage"]["total_tokens"] == plain["usage"]["total_tokens"]


# -- sampling and ends ---------------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_and_another_differs(target: Target) -> None:
    """The same seed gives the same text, run after run; four seeds give more than one."""
    texts = [[text(chat(target, **HOT, seed=seed)) for seed in range(4)] for _ in range(2)]

    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_choices_of_one_seed_differ_and_repeat(target: Target) -> None:
    """n draws of one request are n answers, the first of them the one without n."""
    options = {**HOT, "seed": 7}
    several = [[c["message"]["content"] for c in chat(target, **options, n=4)["choices"]] for _ in range(2)]

    assert several[0] == several[1]
    assert len(set(several[0])) > 1
    assert several[0][0] == text(chat(target, **options))


def test_greedy_needs_no_seed(target: Target) -> None:
    """Temperature 0 is the likeliest token each time, whatever the seed."""
    assert len({text(chat(target, seed=seed)) for seed in (1, 2, None)}) == 1


def test_max_tokens_is_exact(target: Target) -> None:
    """Finish reason length, and exactly so many tokens; max_completion_tokens wins over max_tokens."""
    for options, count in (({"max_tokens": 5}, 5), ({"max_completion_tokens": 3}, 3), ({"max_tokens": 2, "max_completion_tokens": 6}, 6)):
        told = chat(target, messages=SPAIN, ignore_eos=True, **options)
        assert (told["choices"][0]["finish_reason"], told["usage"]["completion_tokens"]) == ("length", count)


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_string_cuts_exactly_before_itself(target: Target, as_list: bool) -> None:
    """Whatever tokens it lies across: the text ends where it begins, the reason is stop, and nothing of it is shown."""
    whole = text(chat(target, max_tokens=20))
    for begin in range(1, len(whole) - 3):
        stop = whole[begin : begin + 3]
        if "\ufffd" in stop:
            continue
        told = chat(target, max_tokens=20, stop=[stop, "never said"] if as_list else stop)
        assert told["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
        assert told["choices"][0]["finish_reason"] == "stop"
        if as_list:
            break


def test_logit_bias_forces_a_token(target: Target) -> None:
    """100 makes a token come each time."""
    if target.model == "scripted":
        pytest.skip("its logits lie further apart")
    told = {n: complete(target, logit_bias={str(n): 100}, max_tokens=3, logprobs=0)["choices"][0]["logprobs"]["tokens"] for n in (300, 301)}

    assert [len(set(tokens)) for tokens in told.values()] == [1, 1]
    assert told[300] != told[301]


# -- log-probabilities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [None, 0, 1, 20])
def test_chat_logprobs_tell_the_answers_own_story(target: Target, top: int | None) -> None:
    """A token's entry for each that is shown; their bytes join to the text; the likeliest come first, and the greedy choice is the first."""
    told = chat(target, logprobs=True, **({} if top is None else {"top_logprobs": top}))["choices"][0]
    content = told["logprobs"]["content"]

    assert set(told["logprobs"]) == {"content", "refusal"}
    assert (
        bytes(b for entry in content for b in entry["bytes"])
        .decode(errors="replace")
        .startswith(told["message"]["content"].rstrip("\ufffd"))
    )
    for entry in content:
        assert set(entry) == {"token", "bytes", "logprob", "top_logprobs"}
        assert len(entry["top_logprobs"]) == (top or 0)
        likely = [other["logprob"] for other in entry["top_logprobs"]]
        assert likely == sorted(likely, reverse=True)
        assert all(value <= 0 for value in (entry["logprob"], *likely))
        assert sum(math.exp(value) for value in likely) <= 1.0001
        if top:
            assert {name: entry[name] for name in ("token", "bytes", "logprob")} == entry["top_logprobs"][0]


def test_completion_logprobs_are_parallel_lists(target: Target) -> None:
    """Tokens, their values, the likeliest by text, and where each begins in the text."""
    choice = complete(target, logprobs=3)["choices"][0]
    told = choice["logprobs"]

    assert set(told) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(values) for values in told.values()}) == 1
    assert told["text_offset"] == [sum(len(t) for t in told["tokens"][:i]) for i in range(len(told["tokens"]))]
    for token, value, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert top[token] == value
        assert len(top) <= 4


# -- guides --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 1}, {"temperature": 1.5, "seed": 2}], ids=["greedy", "hot", "hotter"])
def test_json_schema_answers_fit_their_schema(target: Target, options: dict[str, Any]) -> None:
    """Whatever the model would have said: the answer is whole, compact JSON that validates."""
    told = chat(target, response_format=JSON_SCHEMA, max_tokens=64, **options)["choices"][0]

    assert told["finish_reason"] == "stop"
    jsonschema.validate(json.loads(told["message"]["content"]), SCHEMA)


@pytest.mark.parametrize("max_tokens", [12, 48])
def test_json_object_is_json_however_short(target: Target, max_tokens: int) -> None:
    """A guided answer closes before its tokens run out."""
    told = chat(target, response_format={"type": "json_object"}, max_tokens=max_tokens)["choices"][0]

    assert isinstance(json.loads(told["message"]["content"]), dict)
    assert told["finish_reason"] == "stop"


# -- refusals ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "a", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "a", "mood": "b"}]}, "messages[0].mood"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0.5}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": None, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 0, "max_completion_tokens": 5}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 7]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"-1": 0}}, "logit_bias"),
        ({"logit_bias": {"a": 0}}, "logit_bias"),
        ({"logit_bias": {"300": 101}}, "logit_bias"),
        ({"logit_bias": [300]}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "temperature": 9}, "temperature"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "http://x/"}}}}, None),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": []}, "functions"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"colour": "red"}, "colour"),
        ({"model": 7}, "model"),
        ({"user": 7}, "user"),
    ],
)
def test_wrong_chat_is_400_and_names_the_field(target: Target, options: dict[str, Any], param: str | None) -> None:
    """In OpenAI's error object, with `param` as the client spells it; a stream's refusal is no stream."""
    reply = refused(target, **options)

    assert reply.status == 400, reply.body
    assert reply.headers["content-type"] == "application/json"
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
        assert param.rpartition(".")[2] in error["message"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ["a", 7]}, "prompt[1]"),
        ({"prompt": [300, "a"]}, "prompt[1]"),
        ({"prompt": [[300], "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [9999999]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "a"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": HELLO}, "messages"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_wrong_completion_is_400_and_names_the_field(target: Target, options: dict[str, Any], param: str) -> None:
    """The same for raw prompts."""
    reply = target.client.post("/v1/completions", {"prompt": "Hello", "max_tokens": 2, **options})

    assert reply.status == 400, reply.body
    assert reply.json["error"]["param"] == param


def test_text_over_the_window_is_context_length_exceeded(target: Target) -> None:
    """By code, so that a client can shorten its history, over chats, prompts and streams; a longer answer than fits is none of that."""
    long = "word " * 6000
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}], "stream": True}),
        ("/v1/completions", {"prompt": long}),
    ):
        reply = target.client.post(path, body)
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
    assert chat(target, max_tokens=2**31 - 1, stop=["e", "a", " "])["choices"][0]["finish_reason"] == "stop"


def test_tools_that_ask_for_nothing_are_taken(target: Target) -> None:
    """Clients send empty ones by habit."""
    assert text(chat(target, tools=[], tool_choice="none")) == text(chat(target))


@pytest.mark.parametrize("field", ["metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"])
def test_fields_of_openais_own_house_are_taken_and_unused(target: Target, field: str) -> None:
    """Those that speak of its storage and billing change no token."""
    assert text(chat(target, **{field: {"a": "b"} if field == "metadata" else "auto"})) == text(chat(target))
