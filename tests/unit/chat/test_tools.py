"""Tool calls as the families write them, streamed without ever showing half of one."""

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.chat.tools import ToolFilter, guide_for, new_id, parse
from pilothouse.engines.guidance import LLGuidance
from pilothouse.errors import InvalidRequest
from pilothouse.messages import Tool, ToolCall, ToolChoice
from pilothouse.models import pocket

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", "Tells it.", CITY), Tool("clock", "", {}))
OSLO = ("weather", '{"city": "Oslo"}')
CLOCK = ("clock", "{}")


def ids() -> Callable[[], str]:
    """Numbered ids."""
    count = itertools.count(1)
    return lambda: f"call_{next(count)}"


def calls(*named: tuple[str, str]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(f"call_{number}", name, arguments) for number, (name, arguments) in enumerate(named, start=1))


WRITTEN: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "bare, Llama 3.1": ('{"name": "weather", "parameters": {"city": "Oslo"}}', "", (OSLO,)),
    "bare, our own guide": ('{"name":"weather","arguments":{"city":"Oslo"}}', "", (OSLO,)),
    "two bare, Llama 3.1": ('{"name": "clock", "parameters": {}}; {"name": "weather", "parameters": {"city": "Oslo"}}', "", (CLOCK, OSLO)),
    "bare list": (' [{"name": "clock", "arguments": {}}, {"name": "weather", "arguments": {"city": "Oslo"}}]\n', "", (CLOCK, OSLO)),
    "OpenAI's form": (
        '[{"id": "x", "type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}}]',
        "",
        (OSLO,),
    ),
    "fenced": ('```json\n{"name": "clock", "arguments": {}}\n```', "", (CLOCK,)),
    "Hermes": ('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', "", (OSLO,)),
    "two of Hermes": (
        'Let me see.\n<tool_call>{"name": "clock", "arguments": {}}</tool_call>\n<tool_call>{"name": "clock"}</tool_call>\n',
        "Let me see.",
        (CLOCK, CLOCK),
    ),
    "Hermes, unclosed": ('<tool_call>{"name": "clock", "arguments": {}}', "", (CLOCK,)),
    "Hermes, then text": ('<tool_call>{"name": "clock"}</tool_call>\nDone.', "Done.", (CLOCK,)),
    "Phi-4-mini": ('<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>', "", (OSLO,)),
    "Phi-4-mini, older": ('functools[{"name": "weather", "arguments": {"city": "Oslo"}}]', "", (OSLO,)),
    "Llama 3, marked": ('<|python_tag|>{"name": "clock", "parameters": {}}; {"name": "clock", "parameters": {}}', "", (CLOCK, CLOCK)),
    "Mistral": ('[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]', "", (OSLO,)),
    "letters of other scripts": ('{"name": "weather", "arguments": {"city": "Tromsø"}}', "", (("weather", '{"city": "Tromsø"}'),)),
    "a mark within a string": (
        '{"name": "weather", "arguments": {"city": "</tool_call>"}}',
        "",
        (("weather", '{"city": "</tool_call>"}'),),
    ),
}
TEXTS = (
    "",
    " ",
    "Hello",
    "  Hello  ",
    "\n",
    "[1] According to",
    "{}",
    '{"city": "Oslo"}',
    '{"name": "Bob", "age": 7}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "weather", "arguments": 7}',
    '{"name": "weather", "arguments": {"city"',
    '{"name": 5}',
    '{"id": 1, "items": []}',
    '[{"name": "weather"}, {"name": "nobody"}]',
    '{"name": "clock"} is how I would call it',
    "```python\nprint()\n```",
    "```json\n{}\n```",
    "```",
    "a < b, <tool",
    "<tool_call>",
    "<tool_call>broken</tool_call>",
    '<tool_call>{"name": "nobody"}</tool_call>  ',
    'see: {"name": "clock"}',
    "functional [and] f functools",
    '<|tool_call|>[{"name": "nobody"}]<|/tool_call|>',
    "[TOOL_CALLS",
    "[[[[",
    "[" * 5000,
    '{"name": ' * 3000,
)


def streamed(pieces: list[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """The joined text and the calls of a stream."""
    held = ToolFilter(TOOLS, make_id=ids())
    shown = "".join(held.feed(piece) for piece in pieces)
    rest, found = held.finish()
    return shown + rest, found


@pytest.mark.parametrize("form", WRITTEN)
def test_calls_are_read_in_every_form(form: str) -> None:
    """Names, arguments as JSON text, ids in order, and the text beside them."""
    text, rest, named = WRITTEN[form]
    assert parse(text, TOOLS, make_id=ids()) == (rest, calls(*named))


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_text(text: str) -> None:
    """Word for word: broken ones, tools that nobody offered, JSON that is an answer."""
    assert parse(text, TOOLS) == (text, ())


@settings(deadline=None, max_examples=300)
@given(
    text=st.sampled_from([text for text, _, _ in WRITTEN.values()] + [text for text in TEXTS if len(text) < 200]),
    around=st.sampled_from(["", "Sure. ", "\n\n", "< ", "[", "{", '{"', "func"]),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_pieces_change_nothing(text: str, around: str, cuts: list[int]) -> None:
    """However a stream is cut, its text and calls are those of the whole."""
    whole = around + text
    places = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(places)]
    assert streamed(pieces) == streamed(list(whole)) == parse(whole, TOOLS, make_id=ids())


def test_plain_text_is_let_through_at_once() -> None:
    """An answer without calls streams token by token; only white space, which might stand before a call, waits for what follows."""
    held = ToolFilter(TOOLS)
    assert [held.feed(piece) for piece in ("The", " answer", " is", " ", "42", ".", " [1]", " {", "a}")] == [
        "The",
        " answer",
        " is",
        "",
        " 42",
        ".",
        " [1]",
        " {",
        "a}",
    ]
    assert held.finish() == ("", ())


def test_no_piece_of_a_call_is_shown() -> None:
    """Held from the first letter of its mark, or of a bare object, to the end."""
    for text, _, _ in WRITTEN.values():
        held = ToolFilter(TOOLS)
        shown = "".join(held.feed(letter) for letter in text)
        assert shown in ("", "Let me see.")


def test_an_answer_in_json_is_not_held_back() -> None:
    """Its first key tells: only an object that begins as a call does waits for its end."""
    held = ToolFilter(TOOLS)
    assert held.feed('{"ci') == '{"ci'
    assert held.feed('ty": "Oslo"}') == 'ty": "Oslo"}'


def test_ids_look_as_openais_do() -> None:
    """`call_` and 24 hexadecimal digits, a new one each time."""
    first, second = new_id(), new_id()
    assert first != second
    assert (first[:5], len(first), int(first[5:], 16) >= 0) == ("call_", 29, True)


def test_auto_and_none_need_no_guide() -> None:
    """The model decides."""
    assert (guide_for(TOOLS, ToolChoice("auto")), guide_for(TOOLS, ToolChoice("none"))) == (None, None)


def test_a_named_function_is_guided_to_its_schema() -> None:
    """Name fixed, arguments by the tool's own schema, nothing else."""
    guide = guide_for(TOOLS, ToolChoice("function", "weather"))
    assert guide is not None
    assert guide.kind == "json_schema"
    assert json.loads(guide.schema or "") == {
        "type": "object",
        "properties": {"name": {"const": "weather"}, "arguments": CITY},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_required_allows_any_of_the_tools() -> None:
    """A tool without parameters takes any object."""
    guide = guide_for(TOOLS, ToolChoice("required"))
    assert guide is not None
    branches = json.loads(guide.schema or "")["anyOf"]
    assert [branch["properties"] for branch in branches] == [
        {"name": {"const": "weather"}, "arguments": CITY},
        {"name": {"const": "clock"}, "arguments": {"type": "object"}},
    ]


def test_references_of_a_tools_schema_still_lead_where_they_led() -> None:
    """They are moved with it; a property that is named $ref, and values that only look like one, are left."""
    schema = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}, "$ref": {"type": "string", "enum": ["#/x"]}, "next": {"$ref": "#"}},
        "$defs": {"place": {"type": "object", "properties": {"x": {"const": {"$ref": "#/y"}}}, "additionalProperties": False}},
    }
    for tools, place in (
        ((Tool("go", "", schema),), "#/properties/arguments"),
        ((TOOLS[0], Tool("go", "", schema)), "#/anyOf/1/properties/arguments"),
    ):
        guide = guide_for(tools, ToolChoice("required"))
        assert guide is not None
        whole = json.loads(guide.schema or "")
        moved = whole.get("anyOf", [whole])[-1]["properties"]["arguments"]
        assert moved["properties"] == {
            "at": {"$ref": f"{place}/$defs/place"},
            "$ref": {"type": "string", "enum": ["#/x"]},
            "next": {"$ref": place},
        }
        assert moved["$defs"] == schema["$defs"]


def test_guides_of_tools_compile() -> None:
    """References included: the engine's guidance takes what is made here."""
    schema = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"place": {"type": "string", "maxLength": 9}},
    }
    text = (pocket.FOLDER / "tokenizer.json").read_text(encoding="utf-8")
    guidance = LLGuidance(text, {2, 5}, 2048, max_schema_bytes=65536, max_schema_depth=32)
    for tools in ((Tool("go", "", schema),), (*TOOLS, Tool("go", "", schema))):
        guide = guide_for(tools, ToolChoice("required"))
        assert guide is not None
        assert guidance.compile(guide).finished() is False


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ((), ToolChoice("required"), "tool_choice required needs tools"),
        (TOOLS, ToolChoice("function", "nobody"), "tool_choice names 'nobody', none of the tools"),
    ],
)
def test_a_choice_without_its_tool_is_refused(tools: tuple[Tool, ...], choice: ToolChoice, message: str) -> None:
    """Naming the field."""
    with pytest.raises(InvalidRequest) as caught:
        guide_for(tools, choice)
    assert (caught.value.message, caught.value.field) == (message, "tool_choice")
