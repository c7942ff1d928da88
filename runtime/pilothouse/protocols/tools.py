"""Tools that a model may call, and which of them it must: OpenAI's `tools` and `tool_choice`.

A chat has what is said of a function in an object of its own; a response has it beside the type (`flat`)."""

from typing import Any

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Tool, ToolChoice
from pilothouse.protocols.fields import Fields, shown, wrong_type
from pilothouse.protocols.limits import Limits, at_most
from pilothouse.protocols.schema import checked


def tools(fields: Fields, limits: Limits, *, flat: bool = False) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """The tools and the choice among them. Without tools only `tool_choice: none` may stand, which asks for nothing."""
    if fields.lacks("tools", "tool_choice", "parallel_tool_calls"):
        return (), None
    values, path = fields.items("tools"), fields.path("tools")
    at_most(path, len(values), limits.max_tools, "tools")
    size, given = 0, []
    for index, value in enumerate(values):
        tool, schema_bytes = _tool(Fields(value, f"{path}[{index}]"), limits, flat)
        given.append(tool)
        if (size := size + schema_bytes) > limits.max_schema_bytes:
            raise InvalidRequest(f"{path} have schemas of {size} bytes; at most {limits.max_schema_bytes} are taken together", field=path)
    names = [tool.name for tool in given]
    for index, name in enumerate(names):
        if name in names[:index]:
            path = f"{fields.path('tools')}[{index}].{'' if flat else 'function.'}name"
            raise InvalidRequest(f"{path} {shown(name)} is given twice", field=path)
    choice = _choice(fields.take("tool_choice"), fields.path("tool_choice"), names, flat)
    # The engine takes what the model writes: it can't hold it to one call.
    if fields.boolean("parallel_tool_calls") is False and given:
        path = fields.path("parallel_tool_calls")
        raise Unsupported(f"{path} false is not supported: the model decides how many tools it calls", field=path)
    return tuple(given), choice if given else None


def _tool(fields: Fields, limits: Limits, flat: bool) -> tuple[Tool, int]:
    """A tool, and its schema's size in bytes."""
    sort = fields.need_text("type")
    if sort != "function":
        raise Unsupported(f"{fields.path('type')} {shown(sort)} is not supported: send function", field=fields.path("type"))
    function = _function(fields, flat)
    name = function.need_identifier("name")
    parameters = function.take("parameters")
    size = 0 if parameters is None else len(checked(parameters, function.path("parameters"), limits).encode())
    description = function.text("description") or ""
    if function.boolean("strict"):
        raise Unsupported(
            f"{function.path('strict')} is not supported: arguments are not held to their schema", field=function.path("strict")
        )
    function.finish()
    return Tool(name=name, description=description, parameters=parameters or {}), size


def _choice(value: Any, path: str, names: list[str], flat: bool) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, dict):
        choice = _named(Fields(value, path), names, flat)
    elif not isinstance(value, str):
        wrong_type(path, "a string or an object", value)
    elif value == "none":
        return ToolChoice("none")
    elif value == "auto":
        choice = ToolChoice("auto")
    elif value == "required":
        choice = ToolChoice("required")
    else:
        raise InvalidRequest(f"{path} must be none, auto, required or a function, not {shown(value)}", field=path)
    if not names:
        raise InvalidRequest(f"{path} needs tools", field=path)
    return choice


def _named(fields: Fields, names: list[str], flat: bool) -> ToolChoice:
    sort = fields.need_text("type")
    if sort != "function":
        raise Unsupported(f"{fields.path('type')} {shown(sort)} is not supported: send function", field=fields.path("type"))
    function = _function(fields, flat)
    name = function.need_text("name")
    function.finish()
    if names and name not in names:
        raise InvalidRequest(f"{function.path('name')} {shown(name)} is none of the tools", field=function.path("name"))
    return ToolChoice("function", name)


def _function(fields: Fields, flat: bool) -> Fields:
    """Where the function is told of; nothing else stands beside it."""
    if flat:
        return fields
    function = fields.need_object("function")
    fields.finish()
    return function
