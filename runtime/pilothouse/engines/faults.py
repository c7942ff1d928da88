"""What goes wrong with the scripted engine, by command: rehearsals of failures, and a clock that a test holds in its hand."""

import threading
from dataclasses import dataclass, field


class Gate:
    """Lets steps through one by one, by a test's leave. Open until `shut`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._leave: float = float("inf")
        self._standing = False

    def shut(self) -> None:
        """From now on each step needs leave."""
        with self._condition:
            self._leave = 0

    def allow(self, steps: int = 1) -> None:
        with self._condition:
            self._leave += steps
            self._condition.notify_all()

    def open(self) -> None:
        self.allow(2**62)

    def wait(self) -> None:
        """The engine's side: stand until there is leave."""
        with self._condition:
            self._standing = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._leave > 0)
            self._leave -= 1
            self._standing = False

    def reached(self, timeout: float = 10.0) -> None:
        """The test's side: until a step stands here without leave. `TimeoutError` when none comes."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._standing and self._leave <= 0, timeout):
                raise TimeoutError("no step reached the gate")


@dataclass(slots=True)
class Faults:
    """What goes wrong, and when. Steps are counted over all engines that share the object, from 1; two of them are the first answer's."""

    fail_load: BaseException | None = None
    fail_steps: frozenset[int] = frozenset()
    hang_step: int = 0  # 0: never
    release: threading.Event = field(default_factory=threading.Event)  # lets the hanging step go on
    refuse_admits: int = 0  # so many times there is "no room now"
    delay_seconds: float = 0.0  # of every step: for rehearsals by hand
    load_seconds: float = 0.0  # of every engine that is made
    gate: Gate = field(default_factory=Gate)
    steps: int = 0  # begun
