"""The head of a plain request: one that any HTTP parser would read alike, taken apart in a few microseconds.

`read` knows a part of RFC 9112 and says None to all else. What it takes is what h11 makes of it, which a property test holds.
"""

import re
from typing import NamedTuple

MOST_BYTES = 16 * 1024  # of a head

_LINE = re.compile(rb"POST (/[A-Za-z0-9/._~-]*) HTTP/1\.1")
# With one way to match: whoever sends blanks must not choose how long it takes.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,9}")
_ODD = frozenset({b"transfer-encoding", b"expect", b"upgrade"})  # they change how the rest is to be read
_ONCE = frozenset({b"host", b"content-length", b"connection"})
_ENDS = {b"": False, b"keep-alive": False, b"close": True}


class Head(NamedTuple):
    """A POST's head: `path` as sent, headers by lower-case name in their order, the lengths of head and body, and whether to close after it."""

    path: str
    headers: list[tuple[bytes, bytes]]
    size: int
    body: int
    closes: bool

    def all(self, name: bytes) -> list[str]:
        """The values of one header."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]


def read(data: bytes) -> Head | None:
    """The head that `data` begins with; None where it is not whole, or not plain."""
    end = data.find(b"\r\n\r\n", 0, MOST_BYTES)
    line, *fields = data[: max(end, 0)].split(b"\r\n")
    request = _LINE.fullmatch(line)
    matches = [_FIELD.fullmatch(field) for field in fields]
    if request is None or not all(matches):
        return None
    headers = [(match[1].lower(), match[2].strip(b" \t")) for match in matches if match is not None]
    once: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ODD or name in once:
            return None
        if name in _ONCE:
            once[name] = value
    length, closes = once.get(b"content-length", b""), _ENDS.get(once.get(b"connection", b"").lower())
    if b"host" not in once or closes is None or not _LENGTH.fullmatch(length):
        return None
    return Head(request[1].decode("ascii"), headers, end + 4, int(length), closes)
