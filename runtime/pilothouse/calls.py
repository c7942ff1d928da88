"""The call being answered: who asks, and what became of it.

A context variable, because MLServer's own layers lie between the edge, where the caller is known, and the answer, where its tokens are
counted. The edge sets one `Call` for each request and hands it to `server.finished` at the end; answering reads the tenant and writes the
numbers. The access log, traces and quotas all read this one account.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Call:
    """One request over any protocol. Times in seconds; nothing of its content."""

    id: str = ""
    tenant: str = ""  # the API key's name
    protocol: str = "python"
    began: float = field(default_factory=time.time)  # of the clock on the wall
    seconds: float = 0.0  # from its head to the end of its answer
    method: str = ""  # GET, POST, ...; "" over gRPC
    route: str = ""  # the route's template, or the gRPC method; "unknown" for a path that is none of ours
    status: int | str = 0  # HTTP's number, or gRPC's name
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float | None = None  # the longest wait of its rows for their place in the engine
    first_token_seconds: float | None = None
    finish_reasons: tuple[str, ...] = ()
    outcome: str = "none"  # ok, refused, failed, cancelled; none where nothing was asked of the engine
    operation: str = ""  # chat or text_completion, where the engine was asked
    options: dict[str, float] = field(default_factory=dict)  # the numbers it asked with: temperature, max_tokens, ...
    trace_id: str = ""  # 32 hex digits, where traces are on
    trace: str = ""  # the same as its store names it, for a gRPC caller
    span: object = field(default=None, repr=False, compare=False)  # the tracing library's own, from begin to end


_current: ContextVar[Call | None] = ContextVar("pilothouse_call", default=None)


def current() -> Call:
    """The call of this task; a fresh nameless one where no edge set any."""
    return _current.get() or Call()


def begin(call: Call) -> None:
    """Make `call` the one that this task, and the tasks it starts, answer."""
    _current.set(call)
