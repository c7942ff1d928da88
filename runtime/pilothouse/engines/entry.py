"""One job's place in the engine: waiting, then a row, perhaps waiting again."""

from dataclasses import dataclass, field

from pilothouse.engines.base import Job
from pilothouse.engines.lookup import Lookup

NOWHERE = -1


@dataclass(slots=True, eq=False)
class Entry:
    """`tokens` is prompt and answer in one list; the first `fed` of them are in the engine."""

    job: Job
    arrived: float  # monotonic seconds
    tokens: list[int] = field(init=False)
    row: int = NOWHERE
    fed: int = 0
    opened: int = 0  # tokens when it last got a row
    end: int = 0  # tokens that it has at most, once it has had a row
    cached: int = 0  # prompt tokens that the first admission found computed
    age: int = NOWHERE  # order of first admission; the youngest gives way when memory is short
    lookup: Lookup | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.job.prompt)

    @property
    def left(self) -> int:
        """Tokens still to be fed; 1 means the next step answers."""
        return len(self.tokens) - self.fed

    @property
    def answered(self) -> int:
        return len(self.tokens) - len(self.job.prompt)

    @property
    def begun(self) -> bool:
        """Whether it ever had a row."""
        return self.age != NOWHERE
