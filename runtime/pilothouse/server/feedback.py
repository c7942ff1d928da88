"""`POST /v1/feedback`: what somebody thinks of an answer, put beside its trace as an MLflow assessment.

It is asked of the tracking server before the client is answered, so that 200 means it is there; a few at a time, on threads, away from
answers. With keys, feedback is taken from the key that asked, and from no other.
"""

import asyncio
import logging
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from pilothouse import calls
from pilothouse.calls import Call
from pilothouse.errors import NotFound, NotReady, Overloaded
from pilothouse.protocols.feedback import Feedback, feedback
from pilothouse.server.tracking_server import ServerFailed, TrackingServer, UnknownTrace

log = logging.getLogger("pilothouse.server")

AT_ONCE = 8
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries: a trace arrives a moment after its answer."""


class Assessor:
    """Takes feedback to one tracking server."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server
        self._running = 0

    async def answer(self, request: Request) -> Response:
        """The route. Raises `InvalidRequest`, `NotFound` (no such trace of this key), `Overloaded`, `NotReady` (MLflow is away)."""
        given = feedback(await request.body())
        call = calls.current()
        if self._running >= AT_ONCE:
            raise Overloaded(f"{self._running} pieces of feedback are on their way; send it again later")
        self._running += 1
        try:
            made = await self._take(given, call)
        finally:
            self._running -= 1
        return Response(orjson.dumps({"id": made, "trace_id": given.trace_id, "name": given.name}), media_type="application/json")

    async def _take(self, given: Feedback, call: Call) -> str:
        for pause in (*PAUSES, None):
            try:
                return await asyncio.to_thread(self._put, given, call)
            except UnknownTrace:
                if pause is None:
                    break
                await asyncio.sleep(pause)
            except ServerFailed as failure:
                log.warning("feedback was not taken by the MLflow server %s: %s", self._server.shown, failure)
                raise NotReady("the tracking server does not take feedback now; send it again later", retry_after=5.0) from None
        raise NotFound(f"no trace {given.trace_id} is known here; only answers that carry an X-Trace-Id were traced")

    def _put(self, given: Feedback, call: Call) -> str:
        if self._server.trace(given.trace_id).get("pilothouse.key", "") != call.tenant:
            raise UnknownTrace
        return self._server.assess(given.trace_id, _assessment(given, call))


def _assessment(given: Feedback, call: Call) -> dict[str, Any]:
    """In MLflow's form."""
    metadata = {"pilothouse.request": call.id} | ({"pilothouse.key": call.tenant} if call.tenant else {})
    return {
        "assessment_name": given.name,
        "feedback": {"value": given.value},
        "source": {"source_type": "HUMAN", "source_id": given.user or call.tenant or "client"},
        "metadata": metadata,
        **({"rationale": given.rationale} if given.rationale is not None else {}),
    }
