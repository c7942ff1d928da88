"""Who is asked: peers over HTTP by the load client, onnxruntime-genai in process on the same schedule."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from client.answer import Answer, Asked
from client.driving import Run, Target, drive
from client.workloads import unlike
from peers import field, served
from peers.loads import Request

Told = Callable[[Answer], None]


class Arm(Protocol):
    name: str
    facts: dict[str, Any]
    ready_seconds: float

    def start(self) -> None: ...
    def ask(self, requests: Sequence[Asked], clients: int | None, told: Told) -> Run: ...
    def stop(self) -> None: ...


class OverHttp:
    """A server in a process of its own."""

    def __init__(self, name: str, rows: int, threads: int) -> None:
        self.name = name
        self.server = served.server(name, rows=rows, threads=threads)
        self.facts: dict[str, Any] = {}
        self.ready_seconds = 0.0

    def start(self) -> None:
        self.server.start()
        self.facts, self.ready_seconds = self.server.facts, self.server.ready_seconds

    @property
    def target(self) -> Target:
        return self.server.target

    def ask(self, requests: Sequence[Asked], clients: int | None, told: Told) -> Run:
        return drive(self.target, requests, clients, told)

    def stop(self) -> None:
        self.server.stop()


class InProcess:
    """onnxruntime-genai without a server: what it answers is told when the schedule is over."""

    ready_seconds = 0.0

    def __init__(self, name: str, rows: int, threads: int) -> None:
        self.name = name
        self._peer = field.peer(name.lower().replace("og.", "og-"), rows=rows, threads=threads)
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        self._peer.start()
        about = {
            "og.Engine": "onnxruntime-genai's Engine in process, no server, static batches",
            "og.Generator": "its Generator in process, serial",
        }
        version = f"onnxruntime-genai {self._peer.facts['version']}"
        tuning = "intra_op_num_threads set; sessions as long as each request needs"
        self.facts = {"name": about[self.name], "version": version, "command": "in process", "tuning": tuning}

    def ask(self, requests: Sequence[Asked], clients: int | None, told: Told) -> Run:
        assert all(isinstance(one.prompt, list) for one in requests)
        done = self._peer.run([Request(list(one.prompt), one.tokens, one.at) for one in requests], clients)  # type: ignore[arg-type]  # asserted
        run = Run(seconds=done.seconds, wanted=len(requests))
        for number, (asked, sent, times) in enumerate(zip(requests, done.sent, done.times, strict=True)):
            answer = Answer(
                number, asked.tokens, asked.group, sent if clients else asked.at, sent, times, times[-1], 200, len(times), len(asked.prompt)
            )
            answer.failure = "" if len(times) == asked.tokens else f"{len(times)} tokens of {asked.tokens}"
            run.answers.append(answer)
            told(answer)
        return run

    def stop(self) -> None:
        self._peer.stop()


def arm(name: str, rows: int, threads: int) -> Arm:
    """Not started yet."""
    return InProcess(name, rows, threads) if name.startswith("og.") else OverHttp(name, rows, threads)


def warm(one: Arm, rows: int) -> str:
    """Every batch size once, and a long prompt; why it does not answer, or nothing."""
    run = one.ask(unlike(-1, rows, 24, 4), None, lambda answer: None)
    if not any(answer.failure for answer in run.answers):
        run = one.ask(unlike(-2, 1, 512, 2), 1, lambda answer: None)
    return next((answer.failure for answer in run.answers if answer.failure), "")
