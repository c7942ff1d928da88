"""`pilothouse size`: the memory limit that a model needs for so many chats of so many tokens."""

import argparse
import json
from pathlib import Path

from pilothouse.commands import flags

GIB, MIB = 1 << 30, 1 << 20
CHATS = (1, 4, 16, 64)
TOKENS = (512, 2048, 8192)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("size", help="the memory a model needs, from its files", description=__doc__)
    command.add_argument("model", nargs="?", help="a model's folder or address (default: the embedded one)")
    flags.store(command)
    command.add_argument("--chats", type=_count, nargs="+", default=CHATS, help="conversations held at once")
    command.add_argument("--tokens", type=_count, nargs="+", default=TOKENS, help="of each, prompt and answer together")
    command.add_argument("--json", action="store_true", help="print the numbers in bytes, as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pilothouse.models import pocket, registry, sizing, source

    folder: Path = registry.resolve(args.model, tracking_uri=args.tracking_uri).folder if args.model else pocket.FOLDER
    described = source.describe(folder, name=None if args.model else "pocket")
    found = sizing.size(described)
    tokens = [count for count in args.tokens if not found.window or count <= found.window] or [found.window]
    kinds = ("fp16", "u8") if found.token_u8 is not None else ("own",)
    limits = {k: {c: {t: found.limit(c, t, u8=k == "u8") for t in tokens} for c in args.chats} for k in kinds}
    if args.json:
        facts = {"weights": found.weights, "window": found.window, "token": found.token, "token_u8": found.token_u8, "limits": limits}
        print(json.dumps({"model": described.model_name, **facts}, indent=2))
        return 0
    print(
        f"{described.model_name}: weights {_shown(found.weights)}, window {found.window} tokens, {found.token / 1024:.0f} KiB of keys and values a token"
    )
    print("Memory limit by conversations at once and the tokens of each, every setting at its default:")
    for kind, rows in limits.items():
        heading = "" if kind == "own" else f"kv_precision {kind}"
        print(f"\n{heading:<20}" + "".join(f"{f'{count} tokens':>14}" for count in tokens))
        for chats, row in rows.items():
            print(f"{f'{chats} chats':<20}" + "".join(f"{_shown(limit):>14}" for limit in row.values()))
    chats, largest = max(args.chats), limits[kinds[0]][max(args.chats)][max(tokens)]
    print(f"\nFor the chart, at {chats} chats of {max(tokens)} tokens:\n  --set settings.rows={chats}")
    print(
        f"  --set profiles.cpu.resources.requests.memory={largest // MIB}Mi --set profiles.cpu.resources.limits.memory={largest // MIB}Mi"
    )
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _shown(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
