"""`pilothouse rollback NAME`: point an alias back at the version it named before."""

import argparse

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("rollback", help="move an alias back to the version before", description=__doc__)
    command.add_argument("name", metavar="NAME", help="the registered model")
    command.add_argument("--alias", default="champion", help="the alias that moves (default: %(default)s)")
    command.add_argument("--to", metavar="VERSION", help="to this version (default: the one before the last promotion)")
    command.add_argument("--why", default="rolled back by hand", help="kept as a tag of the version that is left (default: %(default)s)")
    command.add_argument("--by", help="who does it (default: MLFLOW_TRACKING_USERNAME, else this user)")
    flags.store(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pilothouse.lifecycle import promotion

    move = promotion.rollback(args.name, alias=args.alias, to=args.to, why=args.why, by=args.by, tracking_uri=args.tracking_uri)
    print(f"{move.alias} of {args.name} is version {move.now.number} again, it was {move.before.number if move.before else 'not set'}")
    print(f"by {move.by}, because {move.why}")
    return 0
