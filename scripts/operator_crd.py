"""Make the operator's CRD from its skeleton and the chart's own schema, and the tables of its fields in docs/operator.md.

`x-chart: PATH` in the skeleton stands for the schema of that value of charts/pilothouse; `x-chart: ""` for all values that no field of the
resource sets already. A structural schema closes objects by itself, so JSON Schema's `additionalProperties: false` falls away, and what is
free-form is said so. Part of scripts/chart-docs.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "charts" / "pilothouse-operator" / "files"
PAGE = ROOT / "docs" / "operator.md"
OURS = frozenset(
    {
        "model",
        "settings",
        "apiKeys",
        "image",
        "imagePullSecrets",
        "profile",
        "replicas",
        "autoscaling",
        "nameOverride",
        "fullnameOverride",
        "global",
    }
)
"""Values that other fields of the resource set, or that would rename what is already there."""
KEEP = (
    "type",
    "description",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "pattern",
    "minLength",
    "maxLength",
    "format",
    "minProperties",
)
Schema = dict[str, Any]


def structural(schema: Schema) -> Schema:
    """JSON Schema as a CRD has it."""
    made: Schema = {name: schema[name] for name in KEEP if name in schema and name != "exclusiveMinimum"}
    if "exclusiveMinimum" in schema:
        made |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if isinstance(made.get("type"), list):  # a quantity, the one thing here that has two types
        del made["type"]
        made["x-kubernetes-int-or-string"] = True
    if made.get("type") == "array":
        made["items"] = structural(schema.get("items", {"type": "object", "additionalProperties": True}))
    if made.get("type") == "object":
        more = schema.get("additionalProperties", "properties" not in schema)
        if "properties" in schema:
            made["properties"] = {name: structural(inner) for name, inner in schema["properties"].items()}
        if isinstance(more, dict):
            made["additionalProperties"] = structural(more)
        elif more:
            made["x-kubernetes-preserve-unknown-fields"] = True
    return made


def fill(node: Any, chart: Schema) -> Any:
    """The skeleton with the chart's schema in it."""
    if isinstance(node, list):
        return [fill(inner, chart) for inner in node]
    if not isinstance(node, dict):
        return node
    if "x-chart" not in node:
        return {name: fill(inner, chart) for name, inner in node.items()}
    found = chart
    for part in node["x-chart"].split(".") if node["x-chart"] else ():
        found = found["properties"][part]
    if found is chart:
        found = {**chart, "properties": {name: inner for name, inner in chart["properties"].items() if name not in OURS}}
    own = {name: inner for name, inner in node.items() if name != "x-chart"}
    return structural({name: value for name, value in copy.deepcopy(found).items() if not name.startswith("$")}) | own


def rows(schema: Schema, path: str = "") -> list[tuple[str, str, str]]:
    """Every field: its path, what it means, and its default or bounds."""
    found = []
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}{name}"
        notes = [f"default `{json.dumps(inner['default'])}`"] if "default" in inner else []
        notes += ["one of " + ", ".join(f"`{word}`" for word in inner["enum"])] if "enum" in inner else []
        notes += ["required"] if name in schema.get("required", ()) else []
        found.append((here, inner.get("description", ""), "; ".join(notes)))
        if inner.get("type") == "array":
            found += rows(inner["items"], f"{here}[].")
        elif "additionalProperties" in inner:
            found += rows(inner["additionalProperties"], f"{here}.<name>.")
        elif here not in ("spec.settings", "spec.values"):
            found += rows(inner, f"{here}.")
    return found


def tables(crd: Schema) -> str:
    """The generated part of the page."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    lines = []
    for part in ("spec", "status"):
        lines += [f"### {part}", "", "| field | meaning | |", "|---|---|---|"]
        lines += [f"| `{path}` | {text} | {notes} |" for path, text, notes in rows(schema[part], f"{part}.")] + [""]
    rules = re.findall(r'"message": "((?:[^"\\]|\\.)*)"', json.dumps(crd))
    lines += ["### What the API server refuses", "", *(f"- {json.loads(chr(34) + rule + chr(34))}" for rule in rules)]
    return "\n".join(lines)


BEGIN, END = "<!-- From the CRD by scripts/chart-docs. -->", "<!-- End of what is made. -->"


def generate(chart: Schema) -> dict[Path, str]:
    """The CRD, and the page with its tables; `chart` is the schema of charts/pilothouse."""
    crd = fill(yaml.safe_load((FILES / "languagemodel.in.yaml").read_text()), chart)
    head = "# From languagemodel.in.yaml and charts/pilothouse by scripts/chart-docs: do not edit.\n"
    made = {FILES / "languagemodel.yaml": head + yaml.safe_dump(crd, sort_keys=False, width=150)}
    if PAGE.exists():
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        made[PAGE] = f"{before}{BEGIN}\n\n{tables(crd)}\n\n{END}{rest.partition(END)[2]}"
    return made
