"""Chat templates: found, compiled once, sandboxed, and honest about what they refuse."""

import json
from pathlib import Path

import pytest

from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.errors import InvalidRequest, ModelError
from pilothouse.messages import Message, Tool, ToolCall
from pilothouse.models import pocket
from support.vocabularies import CHATML, CONFIG, LLAMA3, PHI3, PHI4_MINI, PHI35, TEMPLATES, source

TOKENIZER = Tokenizer(source("byte level"), config=CONFIG)
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})
HI = (Message("user", "Hi"),)


def test_the_pocket_model_renders_phi3s_form() -> None:
    """System, user and the opening of the answer; the same as ids."""
    tokenizer = Tokenizer.from_folder(pocket.FOLDER)
    template = ChatTemplate.from_folder(pocket.FOLDER, tokenizer)
    assert template is not None
    messages = (Message("system", "Be brief."), *HI, Message("assistant", "Hello!"), Message("user", "Bye"))
    text = "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n"
    assert template.text(messages) == text
    assert template.ids(messages) == tokenizer.encode(text)
    assert template.control_tokens == {"<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"}


def test_an_answer_follows_an_answer() -> None:
    """After a last message of the assistant a new answer is opened, not the old one continued."""
    messages = (*HI, Message("assistant", "Hello"))
    assert ChatTemplate(PHI3, TOKENIZER).text(messages) == "<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n<|assistant|>\n"


def test_tokens_have_their_names_in_a_template() -> None:
    """`bos_token` and the like, given as text or as a mapping."""
    tokenizer = Tokenizer(source("byte level"), config={**CONFIG, "bos_token": {"content": "<s>", "lstrip": False}})
    assert ChatTemplate(LLAMA3, tokenizer).text(HI).startswith("<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>")


def test_a_template_is_found_wherever_models_keep_it(tmp_path: Path) -> None:
    """A file of its own goes before the configuration, in text or by name; without any there is none."""

    def text() -> str | None:
        tokenizer = Tokenizer.from_folder(tmp_path)
        template = ChatTemplate.from_folder(tmp_path, tokenizer)
        return template.text(HI) if template else None

    (tmp_path / "tokenizer.json").write_text(source("byte level"))
    assert text() is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "held"}))
    assert text() == "held"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "configured"}))
    assert text() == "configured"
    named = [{"name": "default", "template": "named"}, {"name": "rag", "template": "other"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert text() == "named"
    (tmp_path / "chat_template.jinja").write_text("own file")
    assert text() == "own file"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="is not UTF-8"):
        text()


def test_a_template_for_tools_is_taken_for_tools(tmp_path: Path) -> None:
    """Models that have two, by name or in a folder."""
    (tmp_path / "tokenizer.json").write_text(source("byte level"))
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].function.name }}")
    template = ChatTemplate.from_folder(tmp_path, Tokenizer.from_folder(tmp_path))
    assert template is not None
    assert (template.renders_tools, template.text(HI), template.text(HI, (WEATHER,))) == (True, "plain", "weather")


@pytest.mark.parametrize("body", ["{% if %}", "{{ unclosed", "{% endfor %}"])
def test_a_broken_template_stops_the_start(body: str) -> None:
    """Before any request meets it."""
    with pytest.raises(ModelError, match="the model's chat template can't be compiled"):
        ChatTemplate(body, TOKENIZER)


@pytest.mark.parametrize(
    ("name", "renders"), [("Phi-3", False), ("Phi-3.5", False), ("Phi-4-mini", True), ("Llama 3", False), ("ChatML", True)]
)
def test_whether_tools_reach_the_model_is_found_by_trying(name: str, renders: bool) -> None:
    """So that tools for a model that would never see them are refused by name."""
    assert ChatTemplate(TEMPLATES[name], TOKENIZER).renders_tools is renders


def test_phi4_mini_finds_its_tools_in_the_system_message() -> None:
    """Its own form: a text in the first system message, which is made where there is none."""
    template = ChatTemplate(PHI4_MINI, TOKENIZER)
    tools = (
        '[{"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'
    )
    assert template.text(HI, (WEATHER,)) == f"<|system|><|tool|>{tools}<|/tool|><|end|><|user|>Hi<|end|><|assistant|>"
    messages = (Message("system", "Be brief."), *HI)
    assert template.text(messages, (WEATHER,)) == f"<|system|>Be brief.<|tool|>{tools}<|/tool|><|end|><|user|>Hi<|end|><|assistant|>"
    assert template.text(messages) == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"


def test_tools_and_calls_are_rendered_as_json() -> None:
    """Arguments, which a client sends as text, are a mapping for the template."""
    call = ToolCall("call_1", "weather", '{"city":"Besançon"}')
    text = ChatTemplate(CHATML, TOKENIZER).text(
        (*HI, Message("assistant", tool_calls=(call,)), Message("tool", "rain", name="weather")), (WEATHER,)
    )
    assert '{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {' in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Besançon"}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>tool weather\nrain<|im_end|>" in text


def test_a_templates_own_refusal_is_passed_on() -> None:
    """What it says with raise_exception, as the client wrote it, and no longer than a few lines."""
    template = ChatTemplate("{{ raise_exception('No such thing: ' + messages[0].content) }}", TOKENIZER)
    with pytest.raises(InvalidRequest) as caught:
        template.text((Message("user", "<|end|>"),))
    assert (caught.value.message, caught.value.field) == (
        "messages: the model's chat template refuses them: No such thing: <|end|>",
        "messages",
    )
    with pytest.raises(InvalidRequest) as caught:
        template.text((Message("user", "x" * 10_000),))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "body",
    [
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ dict.mro() }}",
        "{{ 2 ** 10000000 }}",
        "{% import 'os' as os %}",
        "{% include 'secret' %}",
    ],
)
def test_anything_else_is_one_fixed_sentence(body: str) -> None:
    """Bugs of a template and attempts to leave the sandbox: no detail reaches the client, nothing is run."""
    template = ChatTemplate("{% if true %}" + body + "{% endif %}", TOKENIZER)
    with pytest.raises(InvalidRequest) as caught:
        template.text(HI)
    assert caught.value.message in (
        "messages: the model's chat template can't render them; check roles and their order",
        "messages: the model's chat template makes too much of them; send fewer or shorter ones",
    )


@pytest.mark.parametrize(
    "body",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 100000000 }}",
        "{% for i in range(90000) %}{{ messages[0].content }}{% endfor %}",
    ],
)
def test_a_rendering_is_bounded(body: str) -> None:
    """Loops, repeats and the length of the text."""
    template = ChatTemplate(body, TOKENIZER)
    with pytest.raises(InvalidRequest, match="makes too much of them"):
        template.text((Message("user", "x" * 200),))


def test_loop_controls_generation_tags_and_trimmed_blocks_work() -> None:
    """What templates in the wild rely on."""
    body = (
        "{% for m in messages %}\n    {% if loop.index0 == 1 %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m.content | trim }}{% endgeneration %}\n{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ {'a': '<é>'} | tojson }}{{ dict(a=1).a }}"
    )
    text = ChatTemplate(body, TOKENIZER).text((Message("user", " one "), Message("user", "two")))
    assert text == 'one4{"a": "<é>"}1'


def test_phi35_leaves_an_empty_system_message_out() -> None:
    """Its one difference from Phi-3."""
    messages = (Message("system", ""), *HI)
    assert ChatTemplate(PHI35, TOKENIZER).text(messages) == "<|user|>\nHi<|end|>\n<|assistant|>\n"
    assert ChatTemplate(PHI3, TOKENIZER).text(messages) == "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
