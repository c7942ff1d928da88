"""`pilothouse promote NAME`: point an alias at the version whose evaluation passed."""

import argparse

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("promote", help="move an alias to a version that passed its evaluation", description=__doc__)
    command.add_argument("name", metavar="NAME", help="the registered model")
    command.add_argument("--alias", default="champion", help="the alias that moves (default: %(default)s)")
    command.add_argument(
        "--from", dest="candidate", default="challenger", metavar="ALIAS|VERSION", help="to which version (default: %(default)s)"
    )
    command.add_argument("--why", default="it passed its evaluation", help="kept as a tag of the version (default: %(default)s)")
    command.add_argument("--by", help="who does it (default: MLFLOW_TRACKING_USERNAME, else this user)")
    flags.store(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pilothouse.lifecycle import promotion

    move = promotion.promote(
        args.name, alias=args.alias, candidate=args.candidate, why=args.why, by=args.by, tracking_uri=args.tracking_uri
    )
    print(
        f"{move.alias} of {args.name} is version {move.now.number} now, {f'it was {move.before.number}' if move.before else 'it was not set'}"
    )
    print(f"by {move.by}, because {move.why}; evaluation: run {move.evaluation}")
    return 0
