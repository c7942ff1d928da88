"""The operator's way to MLflow's registry, against a server of our own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pilothouse.operator.registry import MlflowRegistry, RegistryUnavailable
from pilothouse.operator.spec import Registered

VERSION = {"model_version": {"name": "phi3", "version": "2", "tags": [{"key": "pilothouse_manifest", "value": "sha256:abc"}]}}


class Elsewhere(BaseHTTPRequestHandler):
    """The first connection leads to somebody who keeps it and knows nothing; those after it to the registry."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1  # type: ignore[attr-defined]  # of the fixture's server
        self.wrong = self.server.connections == 1  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        body = b"" if self.wrong else json.dumps(VERSION).encode()
        self.send_response(404 if self.wrong else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.connections = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_connection_that_leads_elsewhere_is_not_asked_again(address: str) -> None:
    """What says nothing of the model is hung up on: the next question finds the registry."""
    registry = MlflowRegistry()
    model = Registered(name="phi3", alias="champion", tracking_uri=address)
    with pytest.raises(RegistryUnavailable):
        registry.resolve(model)
    found = registry.resolve(model)
    assert (found.version, found.digest) == ("2", "sha256:abc")
