"""What each layer of serving costs over the bare engine loop: text, OpenAI's SSE, V2's REST stream and gRPC's stream.

    scripts/bench-layers [--model FOLDER | pocket | scripted:MILLISECONDS] [--clients 1 8 32] [--tokens 48 768] [--blocks 5] [--more 5]
                         [--turns 10] [--json FILE]

A bare loop and a server use the same engine in one process, in turn. Blocks go through the arms in turn and back (ABBA), so that a neighbour on
the machine hits all of them; ratios are of one block. `--more` blocks follow of the bare loop and OpenAI's SSE alone, which has promises to keep.

Tokens a second and CPU time are of closed loops: each client asks again as soon as its answer ends. What an arm makes of the bare loop's tokens a
second is told by a bare loop that is its shadow (shadow.py): it takes the very same steps, ten of each in turn, for a machine's speed
moves within a minute by more than layers cost. Clients over HTTP read ten times a second then: what it takes to read is theirs, on machines of their own.
`--turns` many runs of that kind follow the blocks, of OpenAI's SSE alone. `closed` is what an arm made of a bare loop of as many clients, in another
run: they ask again within the step in which their answers end, as nobody can who has to hear of that. CPU time is that of the server's process, the
bare loop's subtracted; with two lengths of answers it is parted into what a request costs and what each token of it adds.

The time to the first token is of arrivals that are fixed in advance (Poisson, as many a second as the bare closed loop answered), the same for an
arm and, right after it, for the bare loop: who asks again when an answer ends comes just after a step began, and waits for all of it.

`others` is the CPU that none of our processes used: where it is high, the numbers are the neighbours'.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from layers_children import folder_of
from shadow import FIRST_WORD, LAST_WORD
from streams import Asked, Request, in_turn, over_grpc, over_http

from pilothouse.chat.tokenizer import Tokenizer

ARMS = ("bare loop", "+ text", "+ OpenAI SSE", "+ V2 REST stream", "+ gRPC stream")
PROMISED = (ARMS[0], ARMS[2])
OTHERS = 50_000_000  # to a seed: texts as long, but new ones. What the arm asked lies computed in the engine, whose prefixes the bare loop shares
LEAST_ARRIVALS = 24
LEAST_REQUESTS = 12  # of the shortest answers, whatever few clients: seconds of nothing else, where an engine computes
OF_A_TURN = 2  # requests of each client
TURNS = 1_000_000  # to a seed: that of the first turn
LOOK = 0.1  # seconds: how often clients beside a shadow read. Both loops take the same steps, whenever that is


class Child:
    """A process that obeys JSON lines."""

    def __init__(self, model: str, rows: int) -> None:
        settings = {"ROWS": rows, "QUEUE": 1024, "SPECULATION": "false", "LOG_LEVEL": "warning", "PAGE": "false"}
        ports = {"REST_PORT": 0, "GRPC_PORT": 0, "METRICS_PORT": 0}
        environment = {**os.environ, **{f"PILOTHOUSE_{name}": str(value) for name, value in (settings | ports).items()}}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("layers_children.py")), model]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.greeting = self._hear()

    def ask(self, command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")) or line[:1].isdigit():
                return json.loads(line)
        raise SystemExit(f"a child ended with {self.process.wait()}")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def requests(tokenizer: Tokenizer, count: int, words: int, tokens: int, seed: int, order: int) -> list[Request]:
    """Texts of the model's own words, by `seed` none like another: no prefix is shared. Answers of half to one and a half times `tokens`: clients
    whose answers all end at once would ask at once, ever after. What is asked in one `order` ends in one order: with another, the last answers of
    a run are alone for longer or shorter, which is more than layers cost."""
    chance = random.Random(seed)
    ids = [[chance.randrange(FIRST_WORD, min(tokenizer.size, LAST_WORD)) for _ in range(words)] for _ in range(count)]
    lengths = [tokens // 2 + tokens * place // count for place in range(count)]
    random.Random(order).shuffle(lengths)
    return [(tokenizer.decode(one), length) for one, length in zip(ids, lengths, strict=True)]


def busy() -> float:
    """CPU seconds that this machine has worked so far, in all processes."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run(
    arm: str, served: Child, asked: Asked, asks: list[Request], clients: int, arrivals: list[float] | None = None, look: float = 0.0
) -> dict[str, Any]:
    """One measurement of one arm, in a closed loop of so many clients (`look`: as `streams.in_turn` has it), or at fixed arrivals."""
    command = {"requests": asks, "clients": clients, "arrivals": arrivals}
    ours, all_of, began = time.process_time(), busy(), time.perf_counter()
    sent = began
    if arm in ("bare loop", "+ text"):
        told = served.ask({**command, "bare": arm == "bare loop"})
    else:
        cpu = served.ask("cpu")
        sent, way = time.perf_counter(), "chat" if "SSE" in arm else "v2"
        if arm == "+ gRPC stream":
            times = asyncio.run(over_grpc(served.greeting["grpc"], asked, asks, clients, arrivals))
            seconds = time.perf_counter() - sent
        elif arrivals is None:
            seconds, times = in_turn(served.greeting["rest"], asked, way, asks, clients, look)
        else:
            times = uvloop.run(over_http(served.greeting["rest"], asked, way, asks, clients, arrivals))
            seconds = time.perf_counter() - sent
        told = {"seconds": seconds, "times": times, "cpu": served.ask("cpu") - cpu}
    wall, tokens = time.perf_counter() - began, sum(tokens for _, tokens in asks)
    client = time.process_time() - ours
    others = max(0.0, busy() - all_of - told["cpu"] - client)
    return {
        "tokens_per_second": tokens / told["seconds"],
        "requests_per_second": len(asks) / told["seconds"],
        "ttft_p50_ms": median_ms(told["times"]),
        "cpu_us_per_token": told["cpu"] / tokens * 1e6,
        "client_cpu_share": client / wall,
        "others_cpu_share": others / wall,
    }


def poisson(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which so many requests come, `rate` a second on average."""
    chance = random.Random(seed)
    return list(itertools.accumulate(chance.expovariate(rate) for _ in range(count)))


def median_ms(times: list[tuple[float, float]]) -> float:
    """Of the waits between two times."""
    return statistics.median(first - sent for sent, first in times) * 1000


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm, at every number of clients, in every block."""
    tokenizer = Tokenizer.from_folder(folder_of(args.model))
    served = Child(args.model, args.rows or 2 * max(args.clients))
    found, rates = [], dict[int, float]()
    try:
        asked = Asked(served.greeting["model"])
        asked.grpc("its messages are imported here", 1)
        blocks = args.blocks + args.more
        for block in range(-1, blocks):  # one before the first, to warm up
            arms = ARMS if block < args.blocks else PROMISED
            for clients in args.clients:
                for arm in arms if block % 2 == 0 or block < 0 else reversed(arms):
                    seed = (block + 1) * 10_000 + clients * 10 + ARMS.index(arm)
                    told: dict[str, Any] = {"block": block, "clients": clients, "arm": arm}
                    for tokens in args.tokens:
                        count = max(clients, max(LEAST_REQUESTS, clients * args.requests) * args.tokens[0] // tokens)
                        if block < 0 and not args.arrivals:
                            count = clients  # nothing is read from it
                        asks = requests(tokenizer, count, args.words, tokens, seed + tokens * 100_000, block)
                        of_length = run(arm, served, asked, asks, clients)
                        if args.shadow and arm != ARMS[0] and block >= 0 and tokens == args.tokens[0]:
                            others = requests(tokenizer, count, args.words, tokens, seed + tokens * 100_000 + OTHERS, block)
                            told["shadowed"] = shadowed(arm, served, asked, others, clients)
                        told |= {name: value for name, value in of_length.items() if name not in told}  # the first length's
                        told.setdefault("cpu_us_per_token_of", {})[tokens] = of_length["cpu_us_per_token"]
                    rates.setdefault(clients, told["requests_per_second"])
                    if args.arrivals and arm != ARMS[0] and block >= 0:
                        told["ttft_over_bare_ms"] = over_bare(arm, served, asked, args, tokenizer, clients, rates[clients], seed)
                    if block >= 0:
                        found.append(told)
            if block >= 0:
                print(f"block {block + 1} of {blocks}", file=sys.stderr, flush=True)
        for turn in range(args.turns):
            for clients in args.clients:
                count, seed = max(LEAST_REQUESTS, OF_A_TURN * clients), (turn + 1) * TURNS + clients * 10
                asks = requests(tokenizer, count, args.words, args.tokens[0], seed, turn)
                told = {
                    "turn": turn,
                    "clients": clients,
                    "arm": PROMISED[1],
                    "shadowed": shadowed(PROMISED[1], served, asked, asks, clients),
                }
                found.append(told)
            print(f"turn {turn + 1} of {args.turns}", file=sys.stderr, flush=True)
    finally:
        served.end()
    return found


def shadowed(arm: str, served: Child, asked: Asked, asks: list[Request], clients: int) -> dict[str, float]:
    """An arm with the bare loop as its shadow: `of_bare` is its tokens a second over the shadow's; milliseconds `between` two steps' computing, in each."""
    served.ask({"shadow": clients})
    run(arm, served, asked, asks, clients, look=LOOK)
    told = served.ask("shadow ends")
    between = {loop: (told[loop] - told[f"{loop}_computing"]) / told["steps"] * 1000 for loop in ("served", "bare")}
    return {"of_bare": told["bare"] / told["served"], "steps": told["steps"], **{f"{loop}_between_ms": ms for loop, ms in between.items()}}


def over_bare(
    arm: str, served: Child, asked: Asked, args: argparse.Namespace, tokenizer: Tokenizer, clients: int, rate: float, seed: int
) -> float:
    """How much later an arm's first tokens come than the bare loop's, at the same arrivals: the difference of medians, ms."""
    count = max(LEAST_ARRIVALS, clients * args.requests)
    arrivals = poisson(count, rate, seed)
    late, soon = (
        run(one, served, asked, requests(tokenizer, count, args.words, args.tokens[0], texts, seed), clients, arrivals)["ttft_p50_ms"]
        for one, texts in ((arm, seed + 1), (ARMS[0], seed + 1 + OTHERS))
    )
    return late - soon


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians and ranges over blocks, every arm against the bare loop of its own block."""
    rows = []
    for clients in sorted({one["clients"] for one in found}):
        base = {one["block"]: one for one in found if one["clients"] == clients and one["arm"] == ARMS[0]}
        for arm in ARMS:
            all_of = [one for one in found if one["clients"] == clients and one["arm"] == arm]
            mine = [(one, base[one["block"]]) for one in all_of if "block" in one]
            row = {
                "clients": clients,
                "arm": arm,
                "blocks": len(mine),
                "turns": len(all_of) - len(mine),
                "tokens_per_second": spread([one["tokens_per_second"] for one, _ in mine]),
                "of_bare": spread([one["tokens_per_second"] / bare["tokens_per_second"] for one, bare in mine]),
                "cpu_us_over_bare": spread([one["cpu_us_per_token"] - bare["cpu_us_per_token"] for one, bare in mine]),
                "client_cpu_share": spread([one["client_cpu_share"] for one, _ in mine]),
                "others_cpu_share": spread([one["others_cpu_share"] for one, _ in mine]),
            }
            if "shadowed" in mine[0][0]:
                row["shadowed"] = spread([one["shadowed"]["of_bare"] for one in all_of])
            if "ttft_over_bare_ms" in mine[0][0]:
                row["ttft_over_bare_ms"] = spread([one["ttft_over_bare_ms"] for one, _ in mine])
            if len(mine[0][0]["cpu_us_per_token_of"]) > 1:
                parts = [parted(one["cpu_us_per_token_of"], bare["cpu_us_per_token_of"]) for one, bare in mine]
                row["cpu_us_of_a_request"], row["cpu_us_of_a_token"] = (spread(list(part)) for part in zip(*parts, strict=True))
            rows.append(row)
    return rows


def parted(over: dict[int, float], bare: dict[int, float]) -> tuple[float, float]:
    """CPU over the bare loop, microseconds: of a request, and of each token of its answer. Of the shortest and the longest answers, a straight line."""
    short, long = min(over), max(over)
    requests = {tokens: (over[tokens] - bare[tokens]) * tokens for tokens in (short, long)}
    token = (requests[long] - requests[short]) / (long - short)
    return requests[short] - token * short, token


COLUMNS = (
    ("shadowed", "of bare", "{:.3f}"),
    ("of_bare", "of bare, closed", "{:.3f}"),
    ("ttft_over_bare_ms", "TTFT over bare, ms", "{:+.1f}"),
    ("cpu_us_over_bare", "CPU us/token", "{:.0f}"),
    ("cpu_us_of_a_request", "CPU us of a request", "{:.0f}"),
    ("cpu_us_of_a_token", "and of its token", "{:.0f}"),
)


def table(rows: list[dict[str, Any]]) -> str:
    columns = [column for column in COLUMNS if column[0] in rows[-1]]
    lines = [f"{'clients':>7}  {'arm':<17} {'tokens/s':>9}  {'  '.join(f'{title:>24}' for _, title, _ in columns)}  client  others"]
    for row in rows:
        told = [f"{row['clients']:>7}  {row['arm']:<17} {row['tokens_per_second']['median']:9.1f}"]
        for name, _, form in columns:
            value = row.get(name) if row["arm"] != ARMS[0] else None
            text = f"{form} ({form} to {form})".format(value["median"], value["least"], value["most"]) if value else ""
            told.append(f"{text:>24}")
        told.append(f"{row['client_cpu_share']['median']:6.0%}  {row['others_cpu_share']['median']:6.0%}")
        lines.append("  ".join(told))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-layers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="a model's folder, pocket, or scripted:MILLISECONDS of a step (default: pocket)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rows", type=int, default=0, help="the engine's rows (default: twice the most clients)")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[64], help="of an answer, on average; two lengths part what CPU goes where"
    )
    parser.add_argument("--words", type=int, default=32, help="of each prompt")
    parser.add_argument("--requests", type=int, default=4, help="of each client in each measurement")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--more", type=int, default=0, help="blocks, of OpenAI's SSE alone")
    parser.add_argument("--turns", type=int, default=0, help="short runs of OpenAI's SSE with its shadow, for tokens a second")
    parser.add_argument(
        "--no-shadow", dest="shadow", action="store_false", help="no tokens a second of the bare loop in the arms' own steps"
    )
    parser.add_argument("--no-arrivals", dest="arrivals", action="store_false", help="no fixed arrivals, and no time to the first token")
    parser.add_argument("--json", type=Path, help="write everything there")
    args = parser.parse_args()
    found = measure(args)
    rows = summary(found)
    machine = {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine(), "python": platform.python_version()}
    print(f"{args.model} on {machine['cores']} cores, {args.blocks} blocks, medians (least to most)")
    print(table(rows))
    if args.json:
        shape = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"machine": machine, "shape": shape, "rows": rows, "measurements": found}, indent=1))


if __name__ == "__main__":
    main()
