"""Make docs/reference.md from the code: the routes of the OpenAPI document, the settings, and the commands with their options.

What each is for is written where it is declared; nothing is described twice. `--check` writes nothing and fails where the page is stale.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from pilothouse import cli
from pilothouse import settings as settings_room
from pilothouse.protocols.openapi.routes import paths
from pilothouse.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Every route, setting and command. Made from the code by `scripts/reference`; change it there. Metrics: [monitoring](monitoring.md#metrics-dashboard-alerts).
The chart's values: [the chart's table](../charts/pilothouse/README.md), [the operator's](../charts/pilothouse-operator/README.md).
"""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """A table of the page."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |"


def routes() -> Iterator[str]:
    """What the REST port answers; bodies, answers and errors are the server's own /openapi.json."""
    yield "\n## Routes\n\nOn the REST port. Fields, bounds, answers and errors stand in the server's own `/openapi.json`.\n"
    found = (
        (f"`{method.upper()} {path}`", operation["summary"], "no" if operation.get("security") == [] else "where keys are set")
        for path, operations in paths().items()
        for method, operation in operations.items()
        if method != "parameters"
    )
    yield from table(("route", "what it does", "key"), found)
    yield "\nMLServer's repository routes (`/v2/repository/...`) are closed unless `repository_api` is on. `/` is the chat page, unless `page` is off.\n"
    yield "Over gRPC: `ServerLive`, `ServerReady`, `ModelReady`, `ServerMetadata`, `ModelMetadata`, `ModelInfer`, `ModelStreamInfer`, health v1, reflection."


def sections() -> dict[str, str]:
    """For each setting the comment of settings.py under which it stands."""
    found, section = {}, ""
    for line in Path(settings_room.__file__).read_text().splitlines():
        if match := re.match(r"    # (.*)", line):
            section = match[1]
        elif match := re.match(r"    (\w+): ", line):
            found[match[1]] = section
    return found


def settings() -> Iterator[str]:
    """By the headings of settings.py."""
    yield "\n## Settings\n\nEach is `PILOTHOUSE_<NAME>` in the environment, `--<name>` of `pilothouse serve` (dashes for underscores), and `settings.<name>` in the chart, but for those that other values of it set.\n"
    under = sections()
    for section in dict.fromkeys(under[name] for name in Settings.model_fields):
        yield f"### {section}\n"
        fields = [(name, field) for name, field in Settings.model_fields.items() if under[name] == section]
        yield from table(
            ("setting", "meaning", "type", "default"), ((f"`{n}`", str(f.description), kind(f), default(f)) for n, f in fields)
        )
        yield ""


def kind(field: FieldInfo) -> str:
    """A setting's type, in words."""
    found = field.annotation
    if get_origin(found) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(found))
    plain = next((part for part in get_args(found) if part is not NoneType), found)
    return {"str": "text", "int": "whole number", "float": "number", "bool": "switch", "Path": "file"}[plain.__name__]


def default(field: FieldInfo) -> str:
    """Its default, as it is written."""
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def commands() -> Iterator[str]:
    """Every subcommand, those below it (`package onnx`) too."""
    yield "## Commands\n\n`pilothouse --version` prints the version. Exit codes: 0, 1 where something was found wrong, 2 where you can mend it."
    for action in cli.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield from command(f"pilothouse {name}", parser)


def command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """One command's section."""
    below = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
    if below is not None:
        for word, one in below.choices.items():
            yield from command(f"{name} {word}", one)
        return
    yield f"\n### {name}\n\n{' '.join(str(parser.description or '').split())}\n"
    own = [a for a in parser._actions if not isinstance(a, argparse._HelpAction) and not setting(name, a)]
    if own:
        yield from table(("argument", "meaning"), ((spelled(a), told(a, parser)) for a in own))
    if name == "pilothouse serve":
        yield "\nAnd every setting above, as a flag."


def setting(name: str, action: argparse.Action) -> bool:
    """Whether it is one of the settings' flags, which have their own tables."""
    return name == "pilothouse serve" and bool(action.option_strings) and action.dest in Settings.model_fields


def spelled(action: argparse.Action) -> str:
    """As it is typed."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`" + (" (optional)" if action.nargs == "?" else "")
    value = (
        "" if action.nargs == 0 else f" {action.metavar or (','.join(map(str, action.choices)) if action.choices else action.dest.upper())}"
    )
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def told(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Its help, with the default filled in."""
    facts: dict[str, Any] = {**vars(action), "prog": parser.prog}
    return str(action.help or "") % facts


def page() -> str:
    """The whole page."""
    text = "\n".join([HEAD.rstrip(), *routes(), *settings(), *commands()])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is stale")
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text() != page():
            print("docs/reference.md is stale: run scripts/reference", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
