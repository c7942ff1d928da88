"""Which LanguageModel is reconciled, and when it is read anew: what is only known to this process about each, and its turns."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pilothouse.operator.spec import KIND, Key, Object, read
from pilothouse.operator.turn import Memory, Tools, Turn

RESYNC = 600.0  # seconds after which everything is applied again, whatever the watches said


class Controller:
    """Reconciles one LanguageModel at a time and key; several keys at once are fine."""

    def __init__(self, tools: Tools, clock: Callable[[], float] = time.time) -> None:
        self._tools, self._clock = tools, clock
        self._memories: dict[str, Memory] = {}

    def tell(self, name: str) -> None:
        """The registry says that the model of that name changed: whoever serves it is to ask again at once.

        Said in the status, since another operator may be the one that works. Raises `Unreachable`.
        """
        for body in self._tools.store.models():
            model = read(body)
            if model.registered and model.registered.name == name:
                self._tools.cluster.tell(model.key, datetime.fromtimestamp(self._clock(), UTC).isoformat())

    def reconcile(self, key: Key) -> float | None:
        """Bring the LanguageModel one step on. Answers after how many seconds it wants to be asked again; None: not by itself.

        Raises `Unreachable` where the API server does not answer: the same again, later.
        """
        store, now = self._tools.store, self._clock()
        body = store.model(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            # The garbage collector takes everything away by its owner reference; nothing is left to do.
            self._forget(key, body)
            return None
        memory = self._memories.setdefault(body["metadata"]["uid"], Memory())
        if now >= memory.next_resync:
            live = self._tools.cluster.get(KIND, key.namespace, key.name)
            if live is None or live["metadata"]["uid"] != body["metadata"]["uid"]:
                self._forget(key, body)
                store.forget(key)
                return 0.0 if live and store.put(KIND, live) else None
            store.put(KIND, live)
            body = live
            memory.applied.clear()
            memory.next_resync = now + RESYNC * random.uniform(0.8, 1.2)
        return Turn(self._tools, read(body), memory, now).take()

    def _forget(self, key: Key, body: Object | None) -> None:
        if body is None:
            self._tools.store.forget(key)
        else:
            self._memories.pop(body["metadata"]["uid"], None)
