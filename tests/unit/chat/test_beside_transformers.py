"""For harmless chats our ids are those of transformers' own renderer and tokenizer: same templates, same kinds of vocabulary."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.messages import Message, Tool, ToolCall
from pilothouse.models import pocket
from support.vocabularies import CONFIG, KINDS, TEMPLATES, source

pytestmark = pytest.mark.transformers

WEATHER = Tool(
    "weather", "Tells the weather in a city & its <b>parts</b>.", {"type": "object", "properties": {"città": {"type": "string"}}}
)
HARMLESS = st.text(st.characters(exclude_characters="<[|>]", exclude_categories=["Cs", "Co"]), max_size=30) | st.sampled_from(
    ["Hello, world!", "  spaced  ", "\n\nlines\n", "日本語 🙂", "naïve", "1 + 1 = 2", "\ttab", "", " "]
)


def theirs(kind: str, template: str) -> Any:
    """The same tokenizer as transformers has it."""
    from tokenizers import Tokenizer as Encoder
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Encoder.from_str(source(kind)), chat_template=template, **CONFIG)


def plain(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        made["name"] = message.name
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.loads(c.arguments)}} for c in message.tool_calls
        ]
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(kind: str, name: str) -> None:
    """Any roles in any order, any harmless content, for each kind of tokenizer and each family's template."""
    tokenizer = theirs(kind, TEMPLATES[name])
    ours = ChatTemplate(TEMPLATES[name], Tokenizer(source(kind), config=CONFIG))

    @settings(deadline=None, max_examples=25, database=None)
    @given(turns=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), HARMLESS), min_size=1, max_size=4))
    def hold(turns: list[tuple[Any, str]]) -> None:
        messages = [Message(role, content) for role, content in turns]
        text = tokenizer.apply_chat_template([plain(m) for m in messages], tokenize=False, add_generation_prompt=True)
        ids = tokenizer.apply_chat_template([plain(m) for m in messages], add_generation_prompt=True, return_dict=False)
        assert ours.text(messages) == text
        assert ours.ids(messages) == list(ids)

    hold()


def test_tools_and_calls_are_those_of_transformers() -> None:
    """JSON as their filter writes it, whatever the letters."""
    tokenizer = theirs("byte level", TEMPLATES["ChatML"])
    ours = ChatTemplate(TEMPLATES["ChatML"], Tokenizer(source("byte level"), config=CONFIG))
    messages = [
        Message("user", "Tromsø?"),
        Message("assistant", tool_calls=(ToolCall("call_1", "weather", '{"città": "Tromsø", "n": 1.50}'),)),
        Message("tool", "rain & snow", name="weather"),
    ]
    tools = [
        {"type": "function", "function": {"name": WEATHER.name, "description": WEATHER.description, "parameters": dict(WEATHER.parameters)}}
    ]
    given_both: dict[str, Any] = {"conversation": [plain(m) for m in messages], "tools": tools, "add_generation_prompt": True}
    assert ours.text(messages, (WEATHER,)) == tokenizer.apply_chat_template(**given_both, tokenize=False)
    assert ours.ids(messages, (WEATHER,)) == list(tokenizer.apply_chat_template(**given_both, return_dict=False))


@pytest.mark.parametrize("config", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}])
def test_raw_prompts_are_those_of_transformers(config: dict[str, bool]) -> None:
    """What the model wants around a text."""
    from tokenizers import Tokenizer as Encoder
    from transformers import PreTrainedTokenizerFast

    for kind in KINDS:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Encoder.from_str(source(kind)), **CONFIG, **config)
        ours = Tokenizer(source(kind), config={**CONFIG, **config})
        for text in ("Hello", "<|user|>\nHi<|end|>\n<|assistant|>\n", " a <tool_call> b", "日本 [INST]"):
            assert ours.encode(text) == list(tokenizer(text).input_ids)


def test_the_pocket_models_own_folder_reads_the_same() -> None:
    """The files that ship."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pocket.FOLDER)
    ours = Tokenizer.from_folder(pocket.FOLDER)
    template = ChatTemplate.from_folder(pocket.FOLDER, ours)
    assert template is not None
    chat = [
        Message("system", "Be brief."),
        Message("user", "  What is ONNX? "),
        Message("assistant", "A format."),
        Message("user", "Thanks"),
    ]
    assert template.ids(chat) == list(
        tokenizer.apply_chat_template([plain(m) for m in chat], add_generation_prompt=True, return_dict=False)
    )
