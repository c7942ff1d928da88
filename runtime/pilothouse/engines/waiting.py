"""Who comes next: tenants in turn, and within a tenant in order of arrival. A tenant with fifty requests waits behind one with one."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain

from pilothouse.engines.entry import Entry


class Waiting:
    """The entries without a row.

    Those that lost theirs to a memory shortage stand before all others. Those that are parked stand aside, for something that is about to
    be; afterwards they stand where they stood, before who came later.
    """

    def __init__(self) -> None:
        self._resumed: deque[Entry] = deque()
        self._parked: list[Entry] = []
        self._tenants: OrderedDict[str, deque[Entry]] = OrderedDict()

    def add(self, entry: Entry) -> None:
        self._tenants.setdefault(entry.job.tenant, deque()).append(entry)

    def resume(self, entry: Entry) -> None:
        """Put back an entry whose row was taken from it, before all others."""
        self._resumed.appendleft(entry)

    def park(self) -> None:
        """Let the next in turn stand aside."""
        self._parked.append(self.pop())

    def unpark(self, parked: Callable[[Entry], bool]) -> None:
        """Put back those for whom `parked` does not hold any more."""
        if self._parked:
            stay = [entry for entry in self._parked if parked(entry)]
            self._resumed.extend(entry for entry in self._parked if entry not in stay)
            self._parked = stay

    def first(self) -> Entry | None:
        """The next in turn; it stays where it is."""
        if self._resumed:
            return self._resumed[0]
        return next(iter(self._tenants.values()))[0] if self._tenants else None

    def pop(self) -> Entry:
        """Take out the next in turn; its tenant goes to the end of the round. `IndexError` when nobody waits."""
        if self._resumed or not self._tenants:
            return self._resumed.popleft()
        tenant, queue = next(iter(self._tenants.items()))
        entry = queue.popleft()
        if queue:
            self._tenants.move_to_end(tenant)
        else:
            del self._tenants[tenant]
        return entry

    def remove(self, entry: Entry) -> bool:
        """Take out `entry`, wherever it stands; False when it does not wait here."""
        for aside in (self._resumed, self._parked):
            if entry in aside:
                aside.remove(entry)
                return True
        queue = self._tenants.get(entry.job.tenant, ())
        if entry not in queue:
            return False
        self._tenants[entry.job.tenant].remove(entry)
        if not queue:
            del self._tenants[entry.job.tenant]
        return True

    def __iter__(self) -> Iterator[Entry]:
        return chain(self._resumed, self._parked, *self._tenants.values())

    def __len__(self) -> int:
        return len(self._resumed) + len(self._parked) + sum(len(queue) for queue in self._tenants.values())

    def __repr__(self) -> str:
        return f"<Waiting: {len(self)} of {len(self._tenants)} tenants, {len(self._resumed)} resumed, {len(self._parked)} parked>"
