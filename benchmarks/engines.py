"""Every figure that is promised of the engines: ours beside the others, and our features against themselves.

    scripts/bench-engines [PART ...] [--blocks 5] [--add]

The model is a 4-layer slice of Phi-3-mini with random weights, made when it is missing in every peer's format out of one checkpoint; peers get
environments of their own, and each block starts them anew. Arms are measured in turn and back (ABBA) on loads that no other block has; a ratio is of
one block, and what is printed is the median over blocks and the range. A run in which others had more than 15 % of the machine is measured again, up
to twice. Everything is kept in benchmarks/results/engines, a file for each kind of machine, and docs/engines.md shows it. Speculation is off where it
is not what is measured.
"""

import argparse
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import chats
import field_parts
import machine
import makers
import own_parts
import results
import tables
from parts import Numbers, Opened, Part

from pilothouse.engines import cpu

PARTS = {part.name: part for part in (*field_parts.PARTS, *own_parts.PARTS)}
TRIES = 3


def block(opened: Opened, number: int, seed: int) -> results.Block:
    """Every arm in turn, there and back: medians of what its turns told, and the most that others had of the machine in one of them."""
    told: dict[str, list[Numbers]] = {arm: [] for arm in opened.arms}
    with opened.anew():
        for turn in range(opened.turns):
            for arm in opened.arms if (number + turn) % 2 == 0 else reversed(opened.arms):
                told[arm].append(_quietest(opened, arm, seed * opened.turns + turn))
    return {
        arm: {key: (max if key == "others" else statistics.median)([one[key] for one in turns]) for key in turns[0]}
        for arm, turns in told.items()
    }


def _quietest(opened: Opened, arm: str, seed: int) -> Numbers:
    """The one of up to three tries in which others had least of the machine."""
    best: Numbers = {}
    for _ in range(TRIES):
        with machine.Watch() as watch:
            numbers = opened.run(arm, seed)
        if not best or watch.others < best["others"]:
            best = {**numbers, "others": watch.others}
        if watch.others <= machine.VOID:
            break
    return best


def measure(part: Part, blocks: int) -> dict[str, Any]:
    """A part with all of its blocks."""
    began = int(time.time())
    with part.open() as opened:
        found = []
        for number in range(blocks):
            begun = time.perf_counter()
            found.append(block(opened, number, began + number))
            print(f"{part.name}: block {number + 1} of {blocks}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return {
            "about": part.about,
            "auto": cpu.choose(cpu.features())[0],
            "machine": machine.facts(),
            "versions": makers.versions(),
            "arms": opened.facts,
            "blocks": found,
        }


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as bench.py has it: no peer is left
    os.environ.pop("GLIBC_TUNABLES", None)  # ours here have them; a peer has what its own recipe says
    parser = argparse.ArgumentParser(prog="bench-engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, or some of: {', '.join([*PARTS, 'chats'])}")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--add", action="store_true", help="keep the part's blocks of before, from this machine, and add to them")
    parser.add_argument(
        "--layers", type=int, default=4, help="of the model whose load `chats` measures (32: the whole Phi-3-mini, 11 GB on disk)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=results.ENGINES / f"{machine.kind(cpu.features())}.json",
        help="where everything is kept (default: %(default)s, by this machine's kind); outside of that folder the page is left alone",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: write the tables of docs/engines.md from what is kept")
    args = parser.parse_args()
    unknown = set(args.parts) - {*PARTS, "chats"}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(machine.line(machine.facts()))
    kept = results.load(args.json)
    for name in [] if args.page else args.parts or [*PARTS, "chats"]:
        if name == "chats":
            told: dict[str, Any] = {"machine": machine.facts(), **chats.measure(args.layers)}
        else:
            told = measure(PARTS[name], args.blocks)
            before = kept.get(name)
            if args.add and before and before["machine"]["cpu"] == told["machine"]["cpu"]:
                told["blocks"] = before["blocks"] + told["blocks"]
        kept[name] = told
        results.save(args.json, kept)
        print("\n".join(tables.section(name, told, PARTS)))
    if args.json.parent == results.ENGINES:
        tables.write(results.engines(), PARTS)


if __name__ == "__main__":
    main()
