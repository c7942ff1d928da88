"""Tables as MLflow's clients send them (columns, records, a split data frame, CSV), all brought to rows.

Without pandas: it would guess types, make missing cells NaN, and cost half a second at start.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pilothouse.errors import InvalidRequest
from pilothouse.protocols.fields import Fields, shown, wrong_type
from pilothouse.protocols.limits import Limits, at_most
from pilothouse.protocols.options import strings

MAX_COLUMNS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One row's cells by column, and where it stood in the body."""

    values: dict[str, Any]
    path: str


def records(values: Sequence[Any], path: str, limits: Limits) -> list[Row]:
    """A list of objects."""
    limits.count_rows(len(values), path)
    rows = []
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            wrong_type(f"{path}[{index}]", "a string or an object" if path in ("inputs", "instances") else "an object", value)
        rows.append(Row(value, f"{path}[{index}]"))
    return rows


def columns(table: Mapping[str, Any], path: str, limits: Limits) -> list[Row]:
    """An object of columns: `prompt` one string or a list of them, or `messages` one conversation or a list of them; every other column is
    an option of all rows."""
    shared = dict(table)
    for name, element in (("prompt", str), ("messages", list)):
        value = shared.get(name)
        if isinstance(value, list) and not (name == "messages" and value and isinstance(value[0], dict)):
            del shared[name]
            place = f"{path}.{name}" if path else name
            limits.count_rows(len(value), place)
            for index, one in enumerate(value):
                if not isinstance(one, element):
                    wrong_type(f"{place}[{index}]", "a string" if element is str else "a list of messages", one)
            return [Row(shared | {name: one}, path) for one in value]
    return [Row(shared, path)]


def split(table: Any, path: str, limits: Limits) -> list[Row]:
    """pandas' `to_dict(orient="split")`: `columns`, `data` and an `index`, which names rows and is not read."""
    fields = Fields(table, path)
    given = fields.need_items("columns")
    at_most(fields.path("columns"), len(given), MAX_COLUMNS, "columns")
    names = strings(given, fields.path("columns"))
    if len(set(names)) != len(names):
        raise InvalidRequest(f"{fields.path('columns')} has a name twice", field=fields.path("columns"))
    rows = []
    data = fields.need_items("data")
    limits.count_rows(len(data), fields.path("data"))
    for index, cells in enumerate(data):
        place = f"{fields.path('data')}[{index}]"
        if not isinstance(cells, list):
            wrong_type(place, "a list", cells)
        if len(cells) != len(names):
            raise InvalidRequest(f"{place} has {len(cells)} cells, but there are {len(names)} columns", field=place)
        rows.append(Row(dict(zip(names, cells, strict=True)), place))
    fields.finish(ignored=("index",))
    return rows


def csv_rows(raw: bytes, limits: Limits) -> list[Row]:
    """CSV with a header line and a `prompt` column, as pandas' `to_csv` writes it, with or without its index."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not valid UTF-8 (at byte {error.start})") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names, *found = list(islice((line for line in lines if line), limits.max_rows + 2)) or [[]]
    except csv.Error:
        longest = csv.field_size_limit()
        raise InvalidRequest(f"line {lines.line_num} is not valid CSV, or has a cell of over {longest} bytes: send such as JSON") from None
    for name in names:
        if name not in ("prompt", "") or names.count(name) > 1:
            raise InvalidRequest(f"the column {shown(name)} is not read here: send prompt alone", field="prompt")
    if "prompt" not in names:
        raise InvalidRequest("the first line must name a column prompt", field="prompt", code="missing_required_parameter")
    limits.count_rows(len(found), "rows")
    place = names.index("prompt")
    for number, cells in enumerate(found):
        if len(cells) != len(names):
            raise InvalidRequest(f"rows[{number}] has {len(cells)} cells, but there are {len(names)} columns", field=f"rows[{number}]")
    return [Row({"prompt": cells[place]}, f"rows[{number}]") for number, cells in enumerate(found)]
