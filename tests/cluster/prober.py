"""Runs inside the cluster: asks a Service at a fixed rate over four kinds of call, and holds every answer against a known one.

`prober.py REST_URL GRPC_ADDRESS RATE LEAST MOST_SECONDS` prints one JSON report. It stops when /tmp/stop is there and LEAST requests were sent,
in any case after MOST_SECONDS. Every failure counts: nothing is sent twice, also where a connection breaks.
"""

import http.client
import json
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from pilothouse.smoke import checks, grpc_client
from pilothouse.smoke.answers import Question, Told
from pilothouse.smoke.client import Client

STOP = Path("/tmp/stop")
SHORT = replace(checks.SPAIN, options={"max_tokens": 12})


class Prober:
    """The four kinds of call to one Service. `rest`, a new connection each; `kept`, a kept-alive one each thread; `sse`; `grpc`, one channel."""

    def __init__(self, url: str, grpc: str) -> None:
        self.client = Client(url, timeout=30)
        self.model = checks.find_model(self.client)
        self.address = urlsplit(url)
        self.local = threading.local()
        self.channel = grpc_client.connect(grpc, timeout=30)
        self.calls = self.channel.__enter__()
        self.kinds: dict[str, tuple[Question, Callable[[Question], Told]]] = {
            "rest": (SHORT, lambda q: checks.REST["OpenAI"](self.client, self.model, q)),
            "kept": (SHORT, self.kept),
            "sse": (checks.SPAIN, lambda q: checks.REST["OpenAI stream"](self.client, self.model, q)),
            "grpc": (checks.SPAIN, lambda q: self.calls.stream(self.model, q)),
        }
        self.expected = {name: checks.REST["OpenAI"](self.client, self.model, question) for name, (question, _) in self.kinds.items()}

    def kept(self, question: Question) -> Told:
        """Over a connection that was kept from the last time, as most clients do; one that the server said goodbye on is opened anew."""
        connection = getattr(self.local, "connection", None)
        # An idle connection that became readable was closed by the server: every pool looks before it reuses one.
        if connection is None or (connection.sock and select.select([connection.sock], [], [], 0)[0]):
            if connection is not None:
                connection.close()
            connection = self.local.connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=30)
        body = {"model": self.model, **question.body, **question.sampling}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except BaseException:
            self.local.connection = None
            connection.close()
            raise
        if response.status != 200:
            raise ValueError(f"answered {response.status}: {answer}")
        choice, usage = answer["choices"][0], answer["usage"]
        return Told(choice["message"]["content"], choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"])

    def ask(self, kind: str) -> str | None:
        """None for the known answer, else what was wrong."""
        question, call = self.kinds[kind]
        try:
            told = call(question)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return None if told == self.expected[kind] else f"not the known answer: {told}"[:300]


def main(url: str, grpc: str, rate: float, least: int, most_seconds: float) -> None:
    prober = Prober(url, grpc)
    kinds = list(prober.kinds)
    sent: Counter[str] = Counter()
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    late: list[float] = []
    failures: list[dict[str, object]] = []

    def one(kind: str, due: float) -> None:
        begun = time.monotonic()
        late.append(begun - due)
        problem = prober.ask(kind)
        seconds[kind].append(time.monotonic() - begun)
        if problem:
            failures.append({"kind": kind, "at": round(begun - first, 2), "problem": problem})

    first = time.monotonic()
    print("probing", flush=True)
    number = 0
    with ThreadPoolExecutor(32) as threads:
        while (passed := time.monotonic() - first) < most_seconds and not (STOP.exists() and number >= least):
            due = first + number / rate
            if due - first > passed:
                time.sleep(due - first - passed)
            kind = kinds[number % len(kinds)]
            sent[kind] += 1
            threads.submit(one, kind, due)
            number += 1
    whole = time.monotonic() - first
    late.sort()
    report = {
        "requests": number,
        "failed": len(failures),
        "seconds": round(whole, 1),
        "rate_wanted": rate,
        "rate_kept": round(number / whole, 2),
        "late_p99": round(late[int(len(late) * 0.99)], 3),
        "median_seconds": {kind: round(sorted(times)[len(times) // 2], 3) for kind, times in seconds.items()},
        "slowest_seconds": {kind: round(max(times), 3) for kind, times in seconds.items()},
        "sent": dict(sent),
        "failures": failures[:20],
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
