"""Schemathesis reads three descriptions of the server and looks for requests that prove one of them wrong: ours at /openapi.json, the Open
Inference Protocol's, and OpenAI's as its own client types it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.documents import open_inference, openai_shapes
from support.server import Served, served

FULL = os.environ.get("PILOTHOUSE_TEST_DEPTH") == "full"
EXAMPLES = 150 if FULL else 4
"""Made-up requests for each operation, beside the systematic ones: those of ours alone are over 5000."""

NO_SLOWER = 20  # seconds for one answer

CONFIG = """
hooks = "schemathesis_hooks"
request-timeout = {timeout}
[generation]
deterministic = true
database = "none"
max-examples = {examples}
[phases]
stateful.enabled = false
[parameters]
"path.model" = "{model}"
"path.version" = "{version}"
[checks]
enabled = true
negative_data_rejection.expected-statuses = [400, 404, 405, 413, 415]
positive_data_acceptance.expected-statuses = [{accepted}]
[[operations]]
include-path = "/v1/embeddings"
checks.positive_data_acceptance.expected-statuses = [400]
"""


@pytest.fixture(scope="module")
def scripted() -> Iterator[Served]:
    """The scripted engine: what is tried here is the wire, thousands of times."""
    with served(scripted=True, max_tokens=16) as running:
        yield running


def ours(server: Served) -> dict[str, Any]:
    """The published document."""
    return dict(server.client.get("/openapi.json").json)


DOCUMENTS: dict[str, tuple[Callable[[Served], dict[str, Any]], str]] = {
    # What others' documents allow and this model can't do is refused by name: 400 is no failure there.
    "ours": (ours, "200, 404"),  # a body may name any model
    "open inference": (lambda server: open_inference(server.model, "1"), "200, 400"),
    "openai": (lambda server: openai_shapes(server.model), "200, 400"),
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_request_proves_the_description_wrong(scripted: Served, tmp_path: Path, name: str) -> None:
    """Every check of schemathesis holds: statuses, media, headers and bodies as described, bad data refused, good data taken, methods told."""
    describe, accepted = DOCUMENTS[name]
    document, config = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
    document.write_text(json.dumps(describe(scripted)))
    config.write_text(CONFIG.format(timeout=NO_SLOWER, examples=EXAMPLES, model=scripted.model, version="1", accepted=accepted))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", str(document)]
    command += ["--url", scripted.rest, "--no-color", "--warnings", "off", "--continue-on-failure"]
    if not FULL:
        command += ["--exclude-path-regex", "/versions/"]  # the same handlers once more
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}

    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    count = re.search(r"(\d+) generated", done.stdout)
    assert count is not None
    print(f"{name}: {count[1]} requests")
    if name == "ours":
        assert int(count[1]) >= 5000
