"""Make each chart's values.schema.json and README.md from its values.yaml, the one place where a value is written down; and the operator's CRD.

A comment block right above a key describes it: text after `# --` (and the comment lines that follow) is its description, `# @schema` is JSON
that is merged into what the default itself says (its type; objects are closed). Three keywords of our own:
`{"entries": NAME}`: a map of free names whose entries all look like the entry NAME; `{"settings": true}`: the server's settings;
`required` is JSON Schema's. `--check` writes nothing and fails where a file would change.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from pilothouse.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
Schema = dict[str, Any]


def comments(lines: list[str], line: int) -> tuple[str, Schema]:
    """Description and extra schema from the comment block above `line`."""
    block: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].strip().removeprefix("#").strip())
    words: list[str] = []
    extra: Schema = {}
    for text in block:
        if text.startswith("@schema "):
            extra = json.loads(text.removeprefix("@schema "))
        elif text.startswith("-- "):
            words = [text.removeprefix("-- ")]
        elif words:
            words.append(text)
    return " ".join(words), extra


def describe(node: yaml.MappingNode, lines: list[str], path: str, rows: list[tuple[str, str, Any]]) -> Schema:
    """The closed schema of one mapping; `rows` gets a line of the README for every described key."""
    properties: Schema = {}
    for key_node, value_node in node.value:
        key = key_node.value
        default = yaml.safe_load(yaml.serialize(value_node))
        description, extra = comments(lines, key_node.start_mark.line)
        schema: Schema = {"type": TYPES[type(default)]}
        if description:
            schema["description"] = description
            rows.append((f"{path}{key}", description, default))
        entries, settings = extra.pop("entries", None), extra.pop("settings", False)
        if settings:
            schema |= {"properties": setting_schemas(), "additionalProperties": False}
        elif entries:
            found = {name.value: entry for name, entry in value_node.value}
            rows[-1] = (f"{path}{key}", description, list(found))
            # One described entry speaks for all of them, and a new one must state everything it does.
            inner: list[tuple[str, str, Any]] = []
            entry = describe(found[entries], lines, f"{path}{key}.<name>.", inner)
            rows += [(name, text, "") for name, text, _ in inner]
            entry["required"] = list(entry["properties"])
            schema |= {"minProperties": 1, "additionalProperties": entry}
        elif isinstance(value_node, yaml.MappingNode) and "additionalProperties" not in extra:
            schema |= describe(value_node, lines, f"{path}{key}.", rows)
        properties[key] = schema | extra
    return {"type": "object", "additionalProperties": False, "properties": properties}


def setting_schemas() -> Schema:
    """The server's own settings, with their bounds, as pydantic states them."""
    properties: Schema = {}
    for name, schema in Settings.model_json_schema()["properties"].items():
        kept = {k: v for k, v in schema.items() if k not in ("title", "default", "format")}
        if "anyOf" in kept:
            kept |= next(option for option in kept.pop("anyOf") if option["type"] != "null")
            kept.pop("format", None)
        properties[name] = kept
    return properties


def cell(value: Any) -> str:
    return "" if value == "" else "`" + json.dumps(value).replace("|", "\\|") + "`"


def readme(chart: dict[str, Any], heading: str, rows: list[tuple[str, str, Any]], *, settings_too: bool) -> str:
    """The chart's README: what stands by hand above the marker, then the tables; that of the server's settings where the chart takes them."""
    table = "\n".join(f"| `{key}` | {text} | {cell(default)} |" for key, text, default in rows)
    settings = "\n".join(
        f"| `{name}` | {field.description} | {cell(field.default if isinstance(field.default, str | int | float) else '')} |"
        for name, field in Settings.model_fields.items()
    )
    values = f"{heading}{MARKER}\n\n## Values\n\nChart {chart['version']}, app {chart['appVersion']}.\n\n| value | meaning | default |\n|---|---|---|\n{table}\n"
    if not settings_too:
        return values
    return (
        f"{values}\n"
        f"## Settings\n\nNames for `settings:`, with the server's defaults. What another value of the chart sets is refused there.\n\n"
        f"| setting | meaning | default |\n|---|---|---|\n{settings}\n"
    )


MARKER = "<!-- From values.yaml by scripts/chart-docs: write above this line. -->"


def generate(folder: Path) -> dict[Path, str]:
    """Both files of the chart in `folder`, as text."""
    text = (folder / "values.yaml").read_text()
    rows: list[tuple[str, str, Any]] = []
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    schema = {"$schema": "https://json-schema.org/draft-07/schema#"} | describe(node, text.splitlines(), "", rows)
    # Helm hands these to every chart.
    schema["properties"]["global"] = {"type": "object", "description": "Values of a parent chart; not used here."}
    target = folder / "README.md"
    heading = re.split(re.escape(MARKER), target.read_text())[0] if target.exists() else f"# {folder.name}\n\n"
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    return {
        folder / "values.schema.json": json.dumps(schema, indent=1) + "\n",
        target: readme(chart, heading, rows, settings_too="settings" in schema["properties"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file would change")
    arguments = parser.parse_args()
    import operator_crd  # beside this file: found when it is run, which is when it is needed

    charts = [ROOT / "charts" / name for name in ("pilothouse", "pilothouse-operator")]
    made = {path: text for chart in charts for path, text in generate(chart).items()}
    # The operator's CRD has the chart's values in it, as they are now.
    made |= operator_crd.generate(json.loads(made[charts[0] / "values.schema.json"]))
    stale = [(path, text) for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        if not arguments.check:
            path.write_text(text)
        print(f"{'is not what values.yaml says' if arguments.check else 'wrote'}: {path}")
    if stale and arguments.check:
        print("run scripts/chart-docs")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
