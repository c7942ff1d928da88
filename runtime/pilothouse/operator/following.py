"""What the registry says of one LanguageModel's address: asked for now and then, and remembered for as long as it says nothing."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.operator import status
from pilothouse.operator.registry import NotRegistered, Registry, RegistryUnavailable
from pilothouse.operator.rollout import Failure
from pilothouse.operator.spec import Registered
from pilothouse.operator.values import Pinned

RETRY = 15.0  # seconds at most between two tries of a registry that does not answer


@dataclass
class Following:
    """The last answer, and when to ask again (epoch seconds). `failure`: why there is no newer answer."""

    resolved: Pinned | None = None
    failure: Failure | None = None
    next_poll: float = 0.0
    _asked: tuple[str, str] | None = None
    _told: str | None = None

    def look(self, registry: Registry, model: Registered, written: Mapping[str, Any], now: float) -> Pinned | None:
        """The version that the address means, asked for when it is time; `written` is the status, which knows what was said before."""
        asked = (model.uri, model.tracking_uri)
        if self._asked != asked:
            self._asked, self.next_poll = asked, 0.0
            self.resolved = status.resolved_of(written, model.uri)
        if self._told != (told := written.get("told")):  # by a webhook, to whichever operator
            self._told, self.next_poll = told, 0.0
        if now >= self.next_poll:
            try:
                self.resolved, self.failure = registry.resolve(model), None
            except RegistryUnavailable as failure:
                self.failure = Failure("RegistryUnavailable", str(failure))
            except NotRegistered as failure:
                self.failure = Failure("NotRegistered", str(failure))
            wait = min(model.poll_seconds, RETRY) if self.failure else model.poll_seconds
            # Jitter: a hundred resources don't ask in the same second.
            self.next_poll = now + wait * random.uniform(0.8, 1.2)
        return self.resolved
