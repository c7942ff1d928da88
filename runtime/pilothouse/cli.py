"""The `pilothouse` command line."""

import argparse
import sys
from importlib import import_module

from pilothouse import __version__
from pilothouse.errors import StartError

COMMANDS = (
    *("serve", "prepare", "package", "evaluate", "promote", "rollback", "resolve"),
    *("report", "smoke", "chat", "doctor", "size", "fetch"),
)


def parser() -> argparse.ArgumentParser:
    """All commands and their flags; nothing heavy is imported for `--help`."""
    top = argparse.ArgumentParser(prog="pilothouse", description="Serve MLflow's Phi-3 models over V2, OpenAI and MLflow's protocols.")
    top.add_argument("--version", action="version", version=f"pilothouse {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pilothouse.commands.{name}").add(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. What the user can mend is one line on standard error and exit code 2; Ctrl-C is 130."""
    args = parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except StartError as error:
        print(f"pilothouse {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
