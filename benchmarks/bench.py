"""scripts/bench: Pilothouse and its peers on the same weights, cores and schedule.

scripts/bench [run] [S1 ... S11] [--full] [--blocks N] [--arms NAME ...] [--add]
scripts/bench load URL ...     the load client alone
scripts/bench page             write docs/benchmarks.md and a page for each kind of machine from what is kept
scripts/bench compare OLD      every ratio that moved by more than 5% since the results in the folder OLD; exit code 1 where one is worse
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import makers
from client import command
from compared import kept, overview, page, ratios
from compared.measuring import Field, Stopped, measure, say
from compared.parts import PARTS
from compared.scenarios import SCENARIOS
from peers.served import UNHAD

from pilothouse.engines import cpu

BLOCKS = {False: 2, True: 5}


def best_rate(folder: Path) -> float:
    """Requests a second that Pilothouse answered at most in S2. Raises `SystemExit` where that is not kept."""
    values = ratios.values(SCENARIOS["S2"], kept.load(folder, "S2"))
    rates = [one.numbers["requests_per_second"] for one in values if one.arm == "pilothouse"]
    if not rates:
        raise SystemExit("S3 needs S2's best rate: run S2 first")
    return max(rates)


def note(folder: Path, mode: str, parts: dict[str, Any] | None = None, field: Field | None = None) -> None:
    """What is known of this run, beside what is known of those before. `mode` is that of a run of everything; "" of some scenarios changes nothing."""
    told = kept.facts(folder)
    told |= {
        "machine": machine.facts(),
        "versions": makers.versions(),
        "threads": cpu.threads(),
        "layers": makers.LAYERS,
        "mode": mode or told.get("mode", "quick"),
        "command": "scripts/bench",
    }
    told["parts"] = {**told.get("parts", {}), **(parts or {})}
    if field is not None:
        told["arms"] = {**told.get("arms", {}), **field.facts}
        told["missing"] = {**{name: why for name, why in told.get("missing", {}).items() if name not in field.facts}, **field.missing}
    told["missing"] = {
        **told.get("missing", {}),
        **{name: why for name, why in UNHAD.items() if name.split()[0] not in told.get("arms", {})},
    }
    told["ratios"] = all_ratios(folder)
    kept.save_facts(folder, told)


def all_ratios(folder: Path) -> dict[str, float]:
    told = {}
    for name, scenario in SCENARIOS.items():
        found = ratios.all_of(ratios.values(scenario, kept.load(folder, name)), scenario.shown)
        told |= {f"{name} / {ratio}": round(value, 4) for ratio, value in found.items()}
    return told


def run(args: argparse.Namespace) -> int:
    """Measure what is asked for; keep it after every scenario, and whatever is there at Ctrl-C. An end that is asked for otherwise is one, too: no peer is left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = args.scenarios or [*SCENARIOS, *PARTS]
    mode = "" if args.scenarios else "full" if args.full else "quick"
    say(machine.line(machine.facts()))
    field = Field(args.arms)
    try:
        for name in [one for one in wanted if one in SCENARIOS]:
            scenario = SCENARIOS[name]
            best = best_rate(args.results) if name == "S3" else 0.0
            points = scenario.full if args.full else scenario.quick
            measure(scenario, points, args.blocks or BLOCKS[args.full], field, args.results, best, args.add)
            note(args.results, mode, field=field)
        field.close()
        for name in [one for one in wanted if one in PARTS]:
            say(f"{name}: {PARTS[name][0]}")
            date = machine.today()
            with machine.Watch() as watch:
                told = PARTS[name][1](args.full)
            note(args.results, mode, {name: {"date": date, "others": watch.others, **told}})
    except (Stopped, KeyboardInterrupt):
        say("stopped; what was measured is kept")
        return 130
    finally:
        field.close()
        if kept.facts(args.results):
            note(args.results, mode, field=field)
            if args.results.parent == kept.FOLDER:
                pages()
    return 0


def pages() -> None:
    """All of them, from what is kept in the checkout."""
    for folder in overview.folders():
        kept.save_facts(folder, {**kept.facts(folder), "ratios": all_ratios(folder)})
        page.make(folder, page.page_of(folder.name))
    overview.make()


def compare(old: Path, new: Path) -> int:
    """Print what moved; 1 where something is worse."""
    before, after = (kept.facts(folder).get("ratios") for folder in (old, new))
    if before is None or after is None:
        raise SystemExit(f"bench compare: no ratios are kept in {old if before is None else new}; name a folder with a facts.json")
    told = ratios.changes(before, after)
    print("\n".join(told) or f"nothing of {len(before)} ratios moved by more than 5%")
    return 1 if any(line.startswith("WORSE") for line in told) else 0


def main(words: Sequence[str]) -> int:
    if words[:1] == ["load"]:
        return command.main(list(words[1:]))
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = kept.FOLDER / machine.kind(cpu.features())
    parser.add_argument(
        "--results",
        type=Path,
        default=here,
        help="where everything is kept (default: %(default)s, by this machine's kind); outside of the checkout's, pages are left alone",
    )
    commands = parser.add_subparsers(dest="command")
    measured = commands.add_parser("run")
    measured.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join([*SCENARIOS, *PARTS])} (default: all)")
    measured.add_argument("--full", action="store_true", help="every point, five blocks")
    measured.add_argument("--blocks", type=int, default=0, help="default: 2, full mode 5")
    measured.add_argument("--arms", nargs="+", default=(), help="only these")
    measured.add_argument(
        "--layers",
        type=int,
        default=makers.SLICE,
        help="of the slice; 32 are the whole Phi-3-mini (needs --results: runs of several stand in no folder together)",
    )
    measured.add_argument("--add", action="store_true", help="keep the blocks of before, and add to them")
    commands.add_parser("page")
    compared = commands.add_parser("compare")
    compared.add_argument("old", type=Path, metavar="OLD", help="a folder of results")
    words = list(words)
    if not words or words[0].startswith("S"):
        words = ["run", *words]
    args = parser.parse_args(words)
    if args.command == "page":
        pages()
        return 0
    if args.command == "compare":
        return compare(args.old, args.results)
    args.results = args.results.resolve()
    if (there := kept.facts(args.results).get("layers", makers.SLICE if args.results == here else args.layers)) != args.layers:
        parser.error(f"--layers {args.layers} needs a folder of its own, --results FOLDER before run: {args.results.name} is of {there}")
    makers.LAYERS = args.layers
    unknown = set(args.scenarios) - {*SCENARIOS, *PARTS}
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return run(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
