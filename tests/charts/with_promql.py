"""Reads PromQL with Prometheus' own grammar: a JSON list of expressions in, for each its error or what it selects out.

Run by an environment that has promql-parser; nothing of ours is imported.
"""

import json
import sys
from typing import Any

import promql_parser


def selected(expression: str) -> dict[str, Any]:
    """`{"error": ...}`, or the metrics an expression selects with the labels it matches them by."""
    try:
        tree = promql_parser.parse(expression)
    except ValueError as error:
        return {"error": str(error)}
    found: list[tuple[str, list[tuple[str, str]]]] = []

    def visit(node: Any) -> bool:
        selector = node.vector_selector if type(node).__name__ == "MatrixSelector" else node
        if type(selector).__name__ == "VectorSelector":
            found.append((selector.name, [(matcher.name, matcher.value) for matcher in selector.matchers.matchers]))
        return True

    promql_parser.walk(tree, visit, lambda node: True)
    return {"selects": found}


print(json.dumps([selected(expression) for expression in json.load(sys.stdin)]))
