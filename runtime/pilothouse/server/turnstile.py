"""Refusals by the shortest way. Where the engine has no place, a plain request is refused before HTTP is parsed in full, without a task and
past every layer: under overload, refusing is most of what a server does, and those who are let in share its CPU with it.

It says what the layers would say, counts it and logs it as they do. Whatever is not plain or not certain is left to them.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

from starlette.responses import Response

from pilothouse import calls
from pilothouse.calls import Call
from pilothouse.errors import Overloaded, PilothouseError
from pilothouse.metrics import Metrics
from pilothouse.server import plain
from pilothouse.server.auth import Keys
from pilothouse.server.catalog import Catalog
from pilothouse.server.edge import request_id
from pilothouse.server.finished import Finished, outcome_of
from pilothouse.server.health import Health
from pilothouse.server.quotas import Allowance
from pilothouse.server.refusals import protocol_of, refusal

if TYPE_CHECKING:
    from mlserver import MLModel

Asked = Callable[[str], "tuple[str, MLModel] | None"]
"""The route and the model that answers a POST to a path; None where nothing is asked of a model, or no such is known."""


class Turnstile:
    """Stands before a connection's parser."""

    def __init__(
        self, asked: Asked, *, catalog: Catalog, keys: Keys | None, metrics: Metrics, health: Health, finished: Finished, max_headers: int
    ) -> None:
        self._asked = asked
        self._catalog = catalog
        self._keys = keys
        self._metrics = metrics
        self._health = health
        self._finished = finished
        self._max_headers = max_headers
        self._coming = 0  # let in, with a task that has not begun
        self._beginning = 0  # of them, those that have a task

    def passes(self) -> bool:
        """Whether every model has a place for one more request: then nobody needs to look at this one, and `begins` is to be told when its task
        is made."""
        try:
            for model in self._catalog.all():
                self._catalog.admit(model, ahead=self._coming)
        except Overloaded:
            return False
        except PilothouseError:
            pass  # for the layers to say
        self._coming += 1
        return True

    def refuse(self, head: plain.Head) -> Response | None:
        """The response to a request that finds no place; None leaves it to the layers."""
        began = time.monotonic()
        protocol = protocol_of(head.path)
        if (
            protocol == "other"
            or self._health.leaving
            or len(head.headers) > self._max_headers
            or (found := self._asked(head.path)) is None
        ):
            return None
        route, model = found
        call = Call(id=request_id(next(iter(head.all(b"x-request-id")), None)), protocol=protocol)
        try:
            if self._keys is not None:
                call.tenant = self._keys.admit(*head.all(b"authorization"))
                if self._keys.allowance(call.tenant) != Allowance():
                    return None  # a request is taken from its quota first
            copy_context().run(self._admit, call, model)
        except Overloaded as error:
            response = refusal(head.path, error)
            response.raw_headers.append((b"x-request-id", call.id.encode("ascii")))
            call.method, call.route, call.status, call.seconds = "POST", route, response.status_code, time.monotonic() - began
            self._metrics.outcome(protocol, outcome_of(response.status_code))
            self._finished(call)
            return response
        except PilothouseError:
            pass
        return None

    def begins(self) -> None:
        """Whoever was let in has a task. Where its body is there it enters the engine's queue as soon as the loop turns, and is counted there."""
        if self._coming > self._beginning:
            asyncio.get_running_loop().call_soon(self._begun, self._coming - self._beginning)
            self._beginning = self._coming

    def _admit(self, call: Call, model: "MLModel") -> None:
        calls.begin(call)
        self._catalog.admit(model, ahead=self._coming)

    def _begun(self, requests: int) -> None:
        self._coming -= requests
        self._beginning -= requests
