"""The client of the layers' closed loops costs little and still knows a whole answer from another."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from streams import Asked, in_turn


def answer(tokens: int) -> list[bytes]:
    """A stream in pieces: a token each, then its usage and its end."""
    usage = b'data: {"usage": {"completion_tokens":%d}}\n\ndata: [DONE]\n\n' % tokens
    return [b"HTTP/1.1 200 OK\r\n\r\n", *[b"data: a token\n\n"] * tokens, usage + b"0\r\n\r\n"]


class Told:
    """Serves each connection in a thread, and hangs up where an answer's last piece is empty; `asked` are the tokens that were asked for, `at_once` how many requests were open at most."""

    def __init__(self, pieces: dict[int, list[bytes]]) -> None:
        self.asked: list[int] = []
        self.at_once = self.open = 0
        self._pieces, self._lock = pieces, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                [tokens] = (int(number) for number in re.findall(rb'"max_tokens": (\d+)', data))
                with self._lock:
                    self.asked.append(tokens)
                    self.open += 1
                    self.at_once = max(self.at_once, self.open)
                *pieces, last = self._pieces.get(tokens) or answer(tokens)
                for piece in pieces:
                    one.sendall(piece)
                with self._lock:
                    self.open -= 1
                if not last:
                    return
                one.sendall(last)


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    server = Told(getattr(request, "param", {}))
    yield server
    server.listener.close()


@pytest.mark.parametrize("look", [0.0, 0.01])
@pytest.mark.parametrize("clients", [1, 3, 9])
def test_each_client_asks_again_when_its_answer_has_ended(told: Told, clients: int, look: float) -> None:
    """Every request is answered once, whole, and never are more open than there are clients, whether they read at once or now and then."""
    seconds, times = in_turn(told.url, Asked("model"), "chat", [("a question", tokens) for tokens in range(3, 10)], clients, look)
    assert sorted(told.asked) == list(range(3, 10))
    assert told.at_once <= clients
    assert len(times) == 7
    assert all(0 < first - sent <= seconds for sent, first in times)


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        ({5: answer(4)}, ValueError, "not 5 tokens"),
        ({5: [b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}"]}, ValueError, "not 5 tokens: b'HTTP/1.1 429"),
        ({5: [*answer(5)[:-1], b""]}, ConnectionError, "the server hung up"),
    ],
    indirect=["told"],
    ids=["short", "refused", "cut"],
)
def test_an_answer_that_is_not_whole_fails_the_run(told: Told, error: type[Exception], words: str) -> None:
    """A figure is never made of something else."""
    with pytest.raises(error, match=re.escape(words)):
        in_turn(told.url, Asked("model"), "chat", [("a question", 5)], 1)
