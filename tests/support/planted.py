"""A secret that is planted wherever a client or an operator can put one, and looked for in everything that the servers of a run wrote.

`served` plants it into each server at its end and keeps what that one wrote under PILOTHOUSE_TEST_WROTE; `scripts/test` sets that and has
this file search there after all stages: `python tests/support/planted.py FOLDER`.
"""

import http.client
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

SECRET = "zq-planted-7c1f0e5b-orchard"
PLACE = "PILOTHOUSE_TEST_WROTE"
SECONDS = 5.0


def requests(model: str) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Path, body and headers of requests that hold the secret in every place that is the client's."""
    message = [{"role": "user", "content": f"Repeat this: {SECRET}"}]
    prompt = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": [SECRET]}
    key = {"Authorization": f"Bearer {SECRET}", "X-API-Key": SECRET, "Cookie": f"session={SECRET}", "User-Agent": SECRET, "Referer": SECRET}
    chat = {"model": model, "messages": message, "max_tokens": 2, "stop": [SECRET], "user": SECRET}
    yield "/v1/chat/completions", chat, key
    yield "/v1/chat/completions", chat, {}
    yield "/v1/chat/completions", {**chat, "stream": True}, {"X-Request-Id": f"{SECRET} with a space"}
    yield "/v1/chat/completions", {**chat, "model": SECRET}, {}
    yield "/v1/chat/completions", {**chat, SECRET: SECRET, "temperature": SECRET}, {}
    yield (
        "/v1/chat/completions",
        {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": SECRET, "schema": {SECRET: 1}}}},
        {},
    )
    yield "/v1/chat/completions", {**chat, "tools": [{"type": "function", "function": {"name": SECRET, "description": SECRET}}]}, {}
    tagged = {"metadata": {SECRET: SECRET}, "safety_identifier": SECRET, "prompt_cache_key": SECRET, "instructions": SECRET}
    yield "/v1/responses", {"model": model, "input": SECRET, "max_output_tokens": 2, **tagged}, {}
    yield "/v1/responses", {"model": model, "input": [{"type": SECRET}], "previous_response_id": SECRET}, {}
    yield f"/v1/responses/{SECRET}", None, {}
    yield "/v1/completions", {"model": model, "prompt": SECRET, "max_tokens": 2, "echo": True, "suffix": SECRET}, {}
    yield "/invocations", {"messages": message, "max_tokens": 2}, {}
    yield "/invocations", {"dataframe_split": {"columns": [SECRET], "data": [[SECRET]]}}, {"Content-Type": "application/json"}
    yield f"/v2/models/{model}/infer", {"inputs": [prompt], "parameters": {"max_tokens": 2}}, {}
    yield f"/v2/models/{model}/generate_stream", {"text_input": SECRET, "parameters": {"max_tokens": 2}}, {}
    yield f"/v2/models/{SECRET}/infer", {"inputs": [prompt]}, {}
    yield f"/v2/models/{model}/versions/{SECRET}/infer", {"inputs": [{**prompt, "name": SECRET, "datatype": SECRET}]}, {}
    yield f"/{SECRET}?key={SECRET}", {SECRET: SECRET}, {"traceparent": SECRET, "tracestate": f"a={SECRET}", "Host": f"{SECRET}.example"}
    yield f"/v1/models/{SECRET}", None, {"Content-Encoding": SECRET}
    yield "/v2/repository/models/x/load", {"parameters": {SECRET: SECRET}}, {}
    yield "/v1/chat/completions", SECRET.encode(), {}


def plant(rest: str, model: str, key: str | None = None) -> list[bytes]:
    """Send them all to the server at `rest`; what it answered with an error. A server that does not answer is none to plant into."""
    refusals = []
    for path, body, headers in requests(model):
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
        request = urllib.request.Request(rest + path, data, sent, method="GET" if data is None else "POST")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            refusals.append(error.read())
        except (OSError, http.client.HTTPException):
            break
    return refusals


def keep(name: str, *files: Path, **texts: bytes) -> None:
    """Put what a server wrote where it is searched at the end of the run."""
    if place := os.environ.get(PLACE):
        folder = Path(place)
        for file in files:
            with suppress(OSError):
                shutil.copyfile(file, folder / f"{name}-{file.name}")
        for kind, text in texts.items():
            (folder / f"{name}-{kind}").write_bytes(text)


def scraped(metrics: str) -> bytes:
    """All of a server's metrics; nothing where it can't be asked."""
    try:
        with urllib.request.urlopen(metrics, timeout=SECONDS) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def hits(files: Iterable[Path]) -> dict[str, int]:
    """The files that hold the secret, and how often."""
    return {file.name: count for file in files if (count := file.read_bytes().count(SECRET.encode()))}


def main(folder: str) -> int:
    """Search a run's folder; 1 where anything is found."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    found = hits(files)
    print(f"planted secret: searched {len(files)} files, {sum(path.stat().st_size for path in files)} bytes, {sum(found.values())} hits")
    for name, count in found.items():
        print(f"  {count} in {name}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
