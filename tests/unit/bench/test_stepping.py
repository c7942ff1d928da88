"""Others' engines on a schedule, and behind a thin server: both ask an engine that says a token a step for each of two rows."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from client.answer import Asked
from client.dialects import DIALECTS
from client.driving import Target
from client.driving import drive as ask
from client.summary import verdict
from loads import Request
from stepping import drive
from thin_server import ThinServer


class TwoRows:
    """Serves two at once; the token is the request's first one. `most` is how many were ever inside."""

    def __init__(self) -> None:
        self.waiting: dict[int, Request] = {}
        self.left: dict[int, int] = {}
        self.most = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def add(self, number: int, request: Request) -> None:
        self.waiting[number], self.left[number] = request, request.tokens
        self.most = max(self.most, len(self.waiting))

    def step(self) -> list[tuple[int, list[int]]]:
        told = [(number, [self.waiting[number].prompt[0]]) for number in list(self.waiting)[:2]]
        for number, _ in told:
            self.left[number] -= 1
            if not self.left[number]:
                del self.waiting[number]
        return told


@pytest.mark.parametrize(("clients", "most"), [(None, 5), (3, 3), (1, 1)])
def test_clients_bound_what_is_open(clients: int | None, most: int) -> None:
    """Without them, all that is due is."""
    steps = TwoRows()
    told = drive(steps, [Request([7], 4)] * 5, clients)
    assert steps.most == most
    assert [len(times) for times in told.times] == [4] * 5
    assert all(sent <= times[0] <= told.seconds for sent, times in zip(told.sent, told.times, strict=True))


def test_nothing_is_sent_before_it_is_due() -> None:
    """An engine with nothing to do waits for the schedule."""
    told = drive(TwoRows(), [Request([7], 2), Request([8], 2, at=0.05)])
    assert told.sent == [0.0, 0.05]
    assert told.times[1][0] >= 0.05


@pytest.fixture
def target() -> Iterator[Target]:
    """A thin server on a thread of its own."""
    loop, server = asyncio.new_event_loop(), ThinServer(TwoRows(), {7: " seven", 8: " eight"})
    listening = loop.run_until_complete(asyncio.start_server(server._client, "127.0.0.1", 0))
    threading.Thread(target=server._compute, args=[loop], daemon=True).start()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield Target(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", DIALECTS["completions"])
    loop.call_soon_threadsafe(listening.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_the_thin_server_streams_every_token(target: Target) -> None:
    """To as many clients as ask, over connections that are kept."""
    run = ask(target, [Asked([7] * 16, 6) for _ in range(8)], clients=4)
    assert verdict(run) == ""
    assert [(one.tokens, len(one.events), one.prompt) for one in run.answers] == [(6, 6, 16)] * 8
    assert json.loads(run.answers[0].line())["tokens"] == 6
