"""A plain client of the server's own, standard library only, so that a check sees what is on the wire and nothing else."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilothouse.errors import StartError


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came: `json` is None where the body is not JSON."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event's data."""

    data: str

    @property
    def done(self) -> bool:
        return self.data == "[DONE]"

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass(frozen=True)
class Trust:
    """Whom an https server must prove to be, and who we are: PEM files. `ca` None: the machine's CAs; `certificate` None: nobody."""

    ca: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None  # None: in the certificate's file

    @cached_property
    def context(self) -> ssl.SSLContext:
        """Raises `StartError` that names the file that is missing or makes no sense."""
        with _naming("--ca", self.ca):
            context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            with _naming("--cert", self.certificate):
                context.load_cert_chain(self.certificate, self.certificate_key)
        return context


@contextmanager
def _naming(flag: str, file: Path | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "no PEM file of this kind" if isinstance(error, ssl.SSLError | ValueError) else error.strerror
        raise StartError(f"{flag} {file} can't be used: {reason}") from None


@dataclass
class Client:
    """`url` is the server's base (http://host:port), `key` an API key, `timeout` in seconds for each read."""

    url: str
    key: str | None = None
    timeout: float = 60.0
    headers: dict[str, str] = field(default_factory=dict)
    trust: "Trust | None" = None

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """`body`: bytes as they are, anything else as JSON, None for none."""
        connection, response = self._send(method, path, body, headers)
        try:
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.request("POST", path, body, headers)

    def events(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Iterator[Event]:
        """The events of a stream as they come. An answer that is no stream raises `ValueError` with its status and body."""
        connection, response = self._send("POST", path, body, headers)
        try:
            if response.status != 200 or not (response.getheader("content-type") or "").startswith("text/event-stream"):
                raise ValueError(
                    f"{path} answered {response.status} {response.getheader('content-type')}: {response.read(500).decode(errors='replace')}"
                )
            for line in response:
                if line.startswith(b"data:"):
                    yield Event(line[5:].strip().decode())
        finally:
            connection.close()

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str] | None) -> tuple[HTTPConnection, HTTPResponse]:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "127.0.0.1", parts.port
        if parts.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(host, port, timeout=self.timeout, context=(self.trust or Trust()).context)
        else:
            connection = HTTPConnection(host, port, timeout=self.timeout)
        sent = {"Accept": "*/*", **self.headers, **(headers or {})}
        if self.key:
            sent.setdefault("Authorization", f"Bearer {self.key}")
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if payload is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, parts.path.rstrip("/") + path, body=payload, headers=sent)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise
