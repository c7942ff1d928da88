"""What a browser reads: the page's files and the OpenAPI document."""

from pathlib import Path

import httpx
from starlette.applications import Starlette

from pilothouse.server import page
from pilothouse.server.edge import TemplateRoute
from server.running import running


async def test_every_route_is_in_the_document_and_no_other() -> None:
    """/openapi.json has each V2 path that is served; it is there before the model is."""
    async with running(loaded=False, page=False) as run:
        document = (await run.client.get("/openapi.json")).json()
        served = {route.path for route in run.server.rest._app.router.routes if isinstance(route, TemplateRoute)} - {"/v2/"}
        assert served == {path for path in document["paths"] if path.startswith("/v2") or path in ("/openapi.json", "/v1/feedback")}
        assert document["openapi"] == "3.1.0"


async def test_the_page_is_exact_files_with_strict_headers(tmp_path: Path) -> None:
    """Each file at its own path, index.html at /; other kinds of files are not served, and nothing is searched."""
    (tmp_path / "parts").mkdir()
    for name, text in {"index.html": "<p>", "parts/chat.js": "1", "notes.txt": "no", "make.py": "no"}.items():
        (tmp_path / name).write_text(text)
    app = Starlette(routes=page.routes(tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        index, script = await client.get("/"), await client.get("/parts/chat.js")
        missing = [
            (await client.get(path)).status_code for path in ("/index.html", "/notes.txt", "/make.py", "/parts/", "/parts/../index.html")
        ]
        again = await client.get("/", headers={"If-None-Match": index.headers["etag"]})

    assert (index.text, index.headers["content-type"]) == ("<p>", "text/html; charset=utf-8")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    assert (script.text, script.headers["x-content-type-options"]) == ("1", "nosniff")
    assert missing[1:4] == [404] * 3
    assert (again.status_code, again.content) == (304, b"")


def test_a_missing_page_is_no_routes(tmp_path: Path) -> None:
    """An image without the page serves without it."""
    assert page.routes(tmp_path / "none") == []
