"""The scenarios that are no load on every peer: layers, starts, memory, soak and the autoscaler's signal. Each gives plain values for the page."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import makers
import results
from client.dialects import DIALECTS
from client.driving import Client, Run, Target, drive
from client.workloads import unlike
from peers import served

from pilothouse.engines import cpu

HERE = Path(__file__).parents[1]
STARTED = ("pilothouse", "llama.cpp", "openvino", "mlflow", "mlserver")
STEP_MS = 5  # of the engine that computes nothing
LONG = "768"  # tokens of the answers that tell a token's CPU from a request's
WAITING = 2  # the chart's autoscaling.waitingRequests
SCRAPE = 5.0  # seconds
Told = dict[str, Any]


def _child(script: str, *arguments: str) -> Told:
    """What a benchmark of its own writes with --json."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-W", "ignore", str(HERE / script), *arguments, "--json", str(out)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if not out.is_file():
            raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")
        return dict(json.loads(out.read_text()))


def layers(full: bool) -> Told:
    """S7."""
    blocks, more, turns = ("5", "10", "20") if full else ("2", "3", "10")
    shape = ("--clients", "1", "8", "32", "--blocks", blocks, "--tokens", "48")
    sliced = _child("layers.py", "--model", str(makers.model("onnx")), *shape, "--turns", turns, "--requests", "3", "--no-arrivals")
    fixed = _child("layers.py", "--model", f"scripted:{STEP_MS}", *shape, LONG, "--more", more, "--requests", "8", "--no-shadow")
    return {"rows": sliced["rows"], "fixed": fixed["rows"], "long": LONG}


def _forget(folder: Path) -> None:
    """Drop the folder's files from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(name: str, hot: bool) -> Told:
    """One start of one server."""
    one = served.server(name, rows=16, threads=cpu.threads())
    if not hot:
        _forget(makers.model(one.recipe.weights))
    try:
        with machine.Watch() as watch:  # not the end: what a server leaves behind has no parent then, and counts as a neighbour
            one.start()
            first, again = (drive(one.target, unlike(seed, 1, 16, 1), 1).answers[0] for seed in (1, 2))
    except SystemExit as error:
        return {"hot": hot, "others": 0.0, "failed": str(error)}
    finally:
        one.stop()
    told = {
        "hot": hot,
        "port": one.port_seconds,
        "ready": one.ready_seconds,
        "first": first.e2e,
        "again": again.e2e,
        "failed": first.failure,
    }
    return told | {"others": watch.others}


def starts(full: bool) -> Told:
    """S8: each server from exec until its port is open, until it is ready, until its first answer, and the same answer warm; files in the page
    cache, and not."""
    told: dict[str, list[Told]] = {}
    for name in STARTED:
        _start(name, hot=True)  # not counted: an interpreter keeps what it compiles of a server's sources the first time
    for hot in (True, False):
        for _ in range(5 if full else 3):
            for name in STARTED:
                row = _start(name, hot)
                if row["others"] > machine.VOID:
                    row = min(row, _start(name, hot), key=lambda tried: float(tried["others"]))
                told.setdefault(name, []).append(row)
    return {"starts": told}


def chats(full: bool) -> Told:
    """S9: as bench-engines keeps it for this kind of machine."""
    kept = results.load(results.ENGINES / f"{machine.kind(cpu.features())}.json").get("chats")
    if kept is None:
        import chats as measured

        kept = {"machine": machine.facts(), **measured.measure()}
    return dict(kept)


def soak(full: bool) -> Told:
    """S10."""
    return _child("soak.py", "--minutes", "30" if full else "1.5")


def _gauge(url: str, name: str) -> float:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def autoscale(full: bool) -> Told:
    """S11: 8 clients, then 32: what the autoscaler's metric and what CPU use say, scraped every 5 s."""
    one = served.server("pilothouse", rows=16, threads=cpu.threads())
    one.start()
    metrics, scrapes = f"http://127.0.0.1:{one.metrics_port}/metrics", list[Told]()
    try:
        target = Target(one.target.url, DIALECTS["completions"], "slice")
        drive(target, unlike(-1, 16, 24, 4), 16)
        seconds = 30.0 if full else 20.0

        async def load() -> float:
            began, before = time.perf_counter(), _used(one.pid)

            async def scrape() -> None:
                nonlocal before
                while True:
                    await asyncio.sleep(SCRAPE)
                    after = _used(one.pid)
                    waiting = await asyncio.to_thread(_gauge, metrics, "pilothouse_requests_waiting")
                    share = (after - before) / SCRAPE / (os.cpu_count() or 1)
                    scrapes.append({"at": time.perf_counter() - began, "waiting": waiting, "cpu": share})
                    before = after

            scraping = asyncio.create_task(scrape())
            # A run that is cancelled keeps what was answered: the step is a second one beside the first.
            clients = [asyncio.create_task(Client(target, lambda answer: None).run(unlike(1, 500, 64, None), 8, Run()))]
            await asyncio.sleep(seconds)
            stepped = time.perf_counter() - began
            clients.append(asyncio.create_task(Client(target, lambda answer: None).run(unlike(2, 500, 64, None), 24, Run())))
            await asyncio.sleep(seconds)
            for task in (*clients, scraping):
                task.cancel()
            await asyncio.gather(*clients, scraping, return_exceptions=True)
            return stepped

        stepped = asyncio.run(load())
    finally:
        one.stop()
    asked = next((row["at"] - stepped for row in scrapes if row["at"] > stepped and row["waiting"] > WAITING), None)
    return {"scrapes": scrapes, "stepped": stepped, "asked_after": asked}


PARTS: dict[str, tuple[str, Callable[[bool], Told]]] = {
    "S7": ("What each layer costs over the bare loop", layers),
    "S8": ("Cold start", starts),
    "S9": ("Chats in a fixed memory", chats),
    "S10": ("Soak", soak),
    "S11": ("The autoscaler's signal", autoscale),
}
