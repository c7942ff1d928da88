"""The chat page: the static files of `pilothouse/page`, read once, each at its own exact path. No folder is ever searched for a client."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

import pilothouse
from pilothouse.server.edge import TemplateRoute

FOLDER = Path(pilothouse.__file__).parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}

_HEADERS = {
    # Nothing from elsewhere, nothing inline, no frame around it: a key that is typed here goes to this server alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(folder: Path = FOLDER) -> list[TemplateRoute]:
    """A route for each file, and `/` for index.html; none where there is no page."""
    found = []
    for file in sorted(folder.glob("**/*")):
        if file.is_file() and file.suffix in _TYPES:
            path = "/" if file == folder / "index.html" else f"/{file.relative_to(folder).as_posix()}"
            found.append(TemplateRoute(path, _file(file.read_bytes(), _TYPES[file.suffix])))
    return found


def _file(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag, "Content-Type": media_type}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return answer
