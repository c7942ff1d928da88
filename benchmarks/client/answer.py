"""What is asked and what came of it, as plain values: one JSON line for each request."""

import json
from dataclasses import dataclass, field
from typing import Any

TICKS = 10_000  # of a second: times are kept in tenths of a millisecond


@dataclass(frozen=True)
class Asked:
    """`tokens` are to be answered after `prompt` (text, or ids of the slice's words), no more and no less, greedily.

    `at`: seconds after the start (open loop); `leave`: hang up after so many events; `group` tells requests of one point apart.
    """

    prompt: str | list[int]
    tokens: int
    at: float = 0.0
    leave: int | None = None
    group: str = ""

    @property
    def text(self) -> str:
        """The prompt in words; each is one token of the slice."""
        return self.prompt if isinstance(self.prompt, str) else " ".join(f"w{number:05}" for number in self.prompt)


@dataclass
class Answer:
    """Times in seconds after the start of the run. `events` are those with content; a server that doesn't stream has one, at the end.

    `due` is when the schedule wanted it sent; `tokens`, `prompt` and `cached` are what the server's usage says.
    """

    number: int
    asked: int
    group: str = ""
    due: float = 0.0
    sent: float = 0.0
    events: list[float] = field(default_factory=list)
    end: float = 0.0
    status: int = 0
    tokens: int = 0
    prompt: int = 0
    cached: int = 0
    new: bool = False
    left: bool = False
    failure: str = ""

    @property
    def whole(self) -> bool:
        return not self.failure and not self.left

    @property
    def ttft(self) -> float:
        return self.events[0] - self.sent

    @property
    def e2e(self) -> float:
        return self.end - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first; None where nothing came in pieces."""
        return (self.e2e - self.ttft) / (self.tokens - 1) if self.tokens > 1 and len(self.events) > 1 else None

    def line(self) -> str:
        """As JSON. Events are ticks after the one before, the first after `sent`."""
        told: dict[str, Any] = {"n": self.number, "asked": self.asked, "due": round(self.due, 4), "sent": round(self.sent, 4)}
        ticks, before = [], round(self.sent * TICKS)
        for at in self.events:
            ticks.append(round(at * TICKS) - before)
            before = round(at * TICKS)
        told |= {"events": ticks, "end": round(self.end, 4), "status": self.status, "tokens": self.tokens, "prompt": self.prompt}
        told |= {name: value for name in ("group", "cached", "new", "left", "failure") if (value := getattr(self, name))}
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Answer":
        """What `line` wrote."""
        values = {**told, "number": told["n"]}
        del values["n"]
        events, at = [], round(told["sent"] * TICKS)
        for ticks in told["events"]:
            at += ticks
            events.append(at / TICKS)
        return cls(**{**values, "events": events})
