"""How a handler's answer becomes an HTTP response: JSON, or an error in the protocol's own shape. Streams are `streaming`'s."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from pilothouse.errors import PilothouseError, Retryable, wire

Handler = Callable[..., Awaitable[Response]]
Spelling = Callable[[BaseException], dict[str, Any]]


def spoken(spell: Spelling) -> Callable[[Handler], Handler]:
    """Put the errors of ours that a handler raises into its protocol's shape. Foreign ones go on to the server's own handler."""

    def around(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(self: Any, request: Request) -> Response:
            try:
                return await handler(self, request)
            except PilothouseError as error:
                return refusal(error, spell)

        return guarded

    return around


def refusal(error: PilothouseError, spell: Spelling) -> Response:
    """An error as a whole answer, with Retry-After where a retry helps."""
    headers = error.headers if isinstance(error, Retryable) else None
    return json(spell(error), wire(error).status, headers)


def json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)
