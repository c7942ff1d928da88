"""API keys: who may ask, and how much, on every route and gRPC method that is not named open.

The file is read again when it changes, so that a key is added or taken back without a restart. Only hashes are kept, every one of them
is compared each time, and the path is the server's own (`scope["path"]`): what a `Host` header says never decides.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.calls import Call
from pilothouse.errors import StartError, Unauthenticated
from pilothouse.server.quotas import Allowance, Quotas

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

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?:sha256=(?P<digest>[0-9a-fA-F]{64})|(?P<key>(?!sha256=)[!-~]{8,512}))(?P<limits>(?:[ \t]+\S+)*)"
)
_LIMIT = re.compile(r"(at-once|requests-per-minute|tokens-per-minute)=([1-9][0-9]{0,11})")


class Keys:
    """The keys of one file, a line each: `name:key` or `name:sha256=<hex>`, then the name's limits, if any, as in `at-once=4`.

    A name may have several keys. Raises `StartError` at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        try:
            self._seen = self._stamp()
            self._digests, self._allowances = _parse(path.read_text())
        except OSError as error:
            raise StartError(f"can't read {path} (setting api_keys_file): {error.strerror}") from None
        except ValueError as error:
            raise StartError(f"{path} (setting api_keys_file): {error}") from None
        if not self._digests:
            raise StartError(
                f"{path} (setting api_keys_file) holds no key; add name:key lines, or leave the setting empty to serve without keys"
            )

    def admit(self, *authorization: str) -> str:
        """The name of the key in the `Authorization` header. Raises `Unauthenticated`, also for two: another hop may have read the other."""
        self._refresh()
        if len(authorization) > 1:
            raise Unauthenticated("more than one Authorization header; send one")
        scheme, _, given = (authorization[0] if authorization else "").partition(" ")
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

    def allowance(self, name: str) -> Allowance:
        """The limits of a name, as the file says now."""
        return self._allowances.get(name, _UNLIMITED)

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
            self._digests, self._allowances = _parse(self._path.read_text())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("%s changed and can't be used, the keys stay as they were: %s", self._path, reason)
        else:
            log.info("%s changed: %d keys", self._path, len(self._digests))

    def _stamp(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return (found.st_mtime_ns, found.st_ino, found.st_size)


_UNLIMITED = Allowance()


def _parse(text: str) -> tuple[list[tuple[bytes, str]], dict[str, Allowance]]:
    """(sha256, name) of every key, and the names' limits. Raises `ValueError` that names the line, never what it holds."""
    found: list[tuple[bytes, str]] = []
    allowances: dict[str, Allowance] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line)):
            raise ValueError(f"line {number} is not name:key (8 to 512 printable characters) or name:sha256=<64 hex digits>")
        digest = bytes.fromhex(match["digest"]) if match["digest"] else hashlib.sha256(match["key"].encode()).digest()
        found.append((digest, match["name"]))
        if match["limits"]:
            allowance = _limits(match["limits"].split(), number)
            if allowances.setdefault(match["name"], allowance) != allowance:
                raise ValueError(f"line {number} gives other limits to a name that has some; write them once, they hold for all its keys")
    return found, allowances


def _limits(written: list[str], number: int) -> Allowance:
    limits: dict[str, int] = {}
    for limit in written:
        match = _LIMIT.fullmatch(limit)
        if not match or match[1] in limits:
            raise ValueError(f"line {number}: after the key may stand at-once=N, requests-per-minute=N and tokens-per-minute=N, each once")
        limits[match[1]] = int(match[2])
    return Allowance(**{name.replace("-", "_"): value for name, value in limits.items()})


class Auth:
    """Denies every path that is not in `open_paths` to requests without a key; tells the rest who asks (`state.tenant`).

    What asks for an answer counts against its key's limits, from before its body is read to the end of the response.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys | None, quotas: Quotas | None, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._quotas = quotas
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._keys is None or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        call: Call = scope["state"]["call"]
        call.tenant = scope["state"]["tenant"] = self._keys.admit(
            *(value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization")
        )
        counted = self._quotas is not None and scope["method"] == "POST" and call.protocol != "other"
        with self._quotas.taken(call) if counted and self._quotas else nullcontext():
            await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open and scope["method"] in ("GET", "HEAD")
