"""API keys: who may ask, on every route and gRPC method that is not named open.

The file is read again when it changes, so that a key is added or taken back without a restart. Only hashes are kept, every one of them
is compared each time, and the path is the server's own (`scope["path"]`): what a `Host` header says never decides.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Collection
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.calls import Call
from pilothouse.errors import StartError, Unauthenticated
from pilothouse.server.edge import header

log = logging.getLogger("pilothouse.server")

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/ping"})
OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)

_LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?:sha256=(?P<digest>[0-9a-fA-F]{64})|(?P<key>(?!sha256=)[!-~]{8,512}))")


class Keys:
    """The keys of one file: `name:key` or `name:sha256=<hex>` a line; a name may have several. Raises `StartError` at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        try:
            self._seen = self._stamp()
            self._digests = _parse(path.read_text())
        except OSError as error:
            raise StartError(f"can't read {path} (setting api_keys_file): {error.strerror}") from None
        except ValueError as error:
            raise StartError(f"{path} (setting api_keys_file): {error}") from None
        if not self._digests:
            raise StartError(
                f"{path} (setting api_keys_file) holds no key; add name:key lines, or leave the setting empty to serve without keys"
            )

    def admit(self, authorization: str | None) -> str:
        """The name of the key in an `Authorization` header. Raises `Unauthenticated`."""
        self._refresh()
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthenticated("no API key; send it as Authorization: Bearer <key>")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        name = None
        for known, owner in self._digests:
            if hmac.compare_digest(known, digest):
                name = owner
        if name is None:
            raise Unauthenticated("the API key is not known here")
        return name

    def _refresh(self) -> None:
        """Read the file again if it changed; one that can't be read or understood leaves the keys as they are."""
        try:
            stamp = self._stamp()
        except OSError:
            stamp = None
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._digests = _parse(self._path.read_text())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("%s changed and can't be used, the keys stay as they were: %s", self._path, reason)
        else:
            log.info("%s changed: %d keys", self._path, len(self._digests))

    def _stamp(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return (found.st_mtime_ns, found.st_ino, found.st_size)


def _parse(text: str) -> list[tuple[bytes, str]]:
    """(sha256, name) of every key. Raises `ValueError` that names the line, never what it holds."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line)):
            raise ValueError(f"line {number} is not name:key (8 to 512 printable characters) or name:sha256=<64 hex digits>")
        digest = bytes.fromhex(match["digest"]) if match["digest"] else hashlib.sha256(match["key"].encode()).digest()
        found.append((digest, match["name"]))
    return found


class Auth:
    """Denies every path that is not in `open_paths` to requests without a key; tells the rest who asks (`state.tenant`)."""

    def __init__(self, app: ASGIApp, *, keys: Keys | None, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys is not None and not self._is_open(scope):
            call: Call = scope["state"]["call"]
            call.tenant = scope["state"]["tenant"] = self._keys.admit(header(scope, b"authorization"))
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open and scope["method"] in ("GET", "HEAD")
