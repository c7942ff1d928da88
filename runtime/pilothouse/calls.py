"""The call being answered: who asks, and what became of it.

A context variable, because MLServer's own layers lie between the edge, where the caller is known, and the answer, where its tokens are
counted. The edge sets one `Call` for each request and logs it at the end; answering reads the tenant and writes the numbers.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    """One request over any protocol. Times in seconds; nothing of its content."""

    id: str = ""
    tenant: str = ""  # the API key's name
    protocol: str = "python"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token_seconds: float | None = None
    outcome: str = "none"  # ok, refused, failed, cancelled; none where nothing was asked of the engine


_current: ContextVar[Call | None] = ContextVar("pilothouse_call", default=None)


def current() -> Call:
    """The call of this task; a fresh nameless one where no edge set any."""
    return _current.get() or Call()


def begin(call: Call) -> None:
    """Make `call` the one that this task, and the tasks it starts, answer."""
    _current.set(call)
