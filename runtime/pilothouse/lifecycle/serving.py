"""A served version under evaluation: a server that runs already, or one that is started here for as long as it is asked."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.lifecycle.versions import Version
from pilothouse.smoke.answers import WrongAnswer
from pilothouse.smoke.client import Client

PATIENCE = 600.0
"""Seconds that a model may take to load."""

_DOORS = frozenset({"PILOTHOUSE_API_KEYS_FILE", "PILOTHOUSE_METRICS_TOKEN_FILE", "PILOTHOUSE_HOST"})  # ours alone asks it, on loopback


@dataclass(frozen=True, slots=True)
class Subject:
    """A version and where it is served; `facts` are what the server says of itself in `/v1/models`."""

    version: Version
    client: Client
    model: str
    grpc: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def at(version: Version, client: Client, grpc: str | None = None) -> Subject:
    """`version` as the server behind `client` serves it. Raises `ModelError` where nothing answers, or other files than the version's do."""
    try:
        reply = client.get("/v1/models")
        card = reply.json["data"][0] if reply.status == 200 else None
    except (OSError, KeyError, TypeError, IndexError, WrongAnswer) as error:
        raise ModelError(f"no server of ours answers at {client.url} ({type(error).__name__}); start one with `pilothouse serve`") from None
    if card is None:
        raise ModelError(f"{client.url} answered /v1/models with {reply.status}; wait until it is ready, or give its key")
    facts = dict(card.get("pilothouse", {}))
    if version.digest is None:
        raise ModelError(f"{version} was registered without digests, so what is served can't be told to be it; use `pilothouse package`")
    if facts.get("digest") != version.digest:
        raise ModelError(f"{client.url} serves {facts.get('digest') or 'a model without digests'}, and {version} is {version.digest}")
    return Subject(version, client, str(card["id"]), grpc, facts)


@contextmanager
def started(version: Version, tracking_uri: str | None) -> Iterator[Subject]:
    """`pilothouse serve` of the version in a process of its own on free ports, ended afterwards. Raises `ModelError` with its last line."""
    reading, writing = os.pipe()  # the server tells its addresses there
    flags = [flag for name in ("rest", "grpc", "metrics") for flag in (f"--{name}-port", "0")]
    flags += ["--ready-file", f"/dev/fd/{writing}", "--log-format", "text", "--lame-duck-seconds", "0"]
    flags += ["--tracking-uri", tracking_uri] if tracking_uri else []
    command = [sys.executable, "-m", "pilothouse.cli", "serve", version.uri, *flags]
    environment = {name: value for name, value in os.environ.items() if name not in _DOORS}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,), env=environment)
        try:
            os.close(writing)
            ready, _, _ = select.select([reading], [], [], PATIENCE)
            told = os.read(reading, 1 << 16) if ready else b""  # nothing: it ended, or takes too long
            if not told:
                log.seek(0)
                last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
                raise ModelError(f"{version} can't be served: {last}")
            addresses = json.loads(told)
            yield at(version, Client(addresses["rest"]), addresses["grpc"])
        finally:
            os.close(reading)
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
