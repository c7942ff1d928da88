"""A TCP relay before a real server, that a test can take away and put back: the address stays, what is behind it comes and goes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["open", "cut", "silent"]


class Relay:
    """Passes connections on to a server while `open`; `cut` ends each at once, `silent` takes them and never says a word."""

    def __init__(self, to: str, mode: Mode = "open") -> None:
        parts = urlsplit(to)
        self._to = (str(parts.hostname), int(parts.port or 80))
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.mode: Mode = mode
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._passing: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def turn(self, mode: Mode) -> None:
        """Behave so from now on; what is connected is cut."""
        self.mode = mode
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._passing:
            thread.join(10)
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._passing.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._accepting.join(10)
        self._listening.close()
        self.turn("cut")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            if self.mode == "cut":
                connection.close()
                continue
            self._open.append(connection)
            if self.mode == "open":
                try:
                    behind = socket.create_connection(self._to)
                except OSError:
                    continue
                self._open.append(behind)
                for source, target in ((connection, behind), (behind, connection)):
                    thread = threading.Thread(target=_pass, args=(source, target), daemon=True)
                    self._passing.append(thread)
                    thread.start()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(to: str, mode: Mode = "open") -> Iterator[Relay]:
    """A relay before the server at `to`."""
    relay = Relay(to, mode)
    try:
        yield relay
    finally:
        relay.close()
