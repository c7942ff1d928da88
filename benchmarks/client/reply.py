"""One HTTP/1.1 response, read as its bytes come: a body of known length, in chunks, or until the end; server-sent events one by one."""

from collections.abc import Iterator


class Reply:
    """Feed it bytes. `status` is 0 until the head is there; `over` says that the response is whole, `kept` that its connection can be used again."""

    def __init__(self) -> None:
        self.status = 0
        self.over = False
        self.kept = True
        self.body = b""
        self.headers: dict[str, str] = {}
        self._raw = b""
        self._events = b""
        self._streams = False
        self._left: int | None = None  # bytes of a body of known length that are not here yet

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of every event that is whole now. Raises `ValueError` for what is no HTTP."""
        self._raw += data
        if not self.status and not self._head():
            return
        for piece in self._pieces():
            if self._streams:
                yield from self._cut(piece)
            else:
                self.body += piece

    @property
    def begun(self) -> bool:
        return bool(self.status or self._raw)

    def end(self) -> None:
        """The server closed the connection. Raises `ConnectionError` where it had more to say."""
        if self.status and not self.over and self._left is None and self.headers.get("transfer-encoding") != "chunked":
            self.over, self.kept = True, False
        if not self.over:
            raise ConnectionError(
                "the server hung up in the middle of its answer" if self.status else "the server hung up without an answer"
            )

    def _head(self) -> bool:
        head, separator, rest = self._raw.partition(b"\r\n\r\n")
        if not separator:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1."):
            raise ValueError(f"no HTTP: {first[:60]!r}")
        self.status = int(first.split()[1])
        self.headers = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)}
        self.kept = self.headers.get("connection") != "close"
        self._streams = self.headers.get("content-type", "").startswith("text/event-stream")
        if "content-length" in self.headers:
            self._left = int(self.headers["content-length"])
        self._raw = rest
        return True

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") == "chunked":
            yield from self._chunks()
            return
        piece, self._raw = self._raw, b""
        if self._left is not None:
            self._left -= len(piece)
            self.over = self._left <= 0
        yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line, separator, rest = self._raw.partition(b"\r\n")
            if not separator:
                return
            size = int(line.split(b";")[0], 16)
            if len(rest) < size + 2:
                return
            piece, self._raw = rest[:size], rest[size + 2 :]
            if size == 0:
                self.over = True
                return
            yield piece

    def _cut(self, piece: bytes) -> Iterator[bytes]:
        self._events = (self._events + piece).replace(b"\r\n", b"\n")
        while b"\n\n" in self._events:
            event, _, self._events = self._events.partition(b"\n\n")
            data = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if data:
                yield b"\n".join(data)
