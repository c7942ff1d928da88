"""What is still to be told: Events, and tags on the registry's versions. Both are owed in the status until they are delivered."""

import logging

from pilothouse.operator import objects, status
from pilothouse.operator.cluster import Cluster
from pilothouse.operator.registry import NotRegistered, Registry, RegistryUnavailable
from pilothouse.operator.rollout import Failure, Outcome
from pilothouse.operator.spec import Model, Object
from pilothouse.operator.values import Revision

log = logging.getLogger("pilothouse.operator")
MOST = 10  # debts that are kept, the newest


class Owed:
    """Of one LanguageModel, in one reconcile; `pending` is what the status holds of it."""

    def __init__(self, cluster: Cluster, registry: Registry, model: Model, now: float) -> None:
        self._cluster, self._registry, self._model, self._now = cluster, registry, model, now
        self.pending: list[Object] = list(model.status.get("pending") or ())

    def add(self, outcome: Outcome, revision: Revision | None) -> Object | None:
        """A rollout of `revision` has ended: an Event and a tag. Answers the failure as the status keeps it, if it is one."""
        version, failure, at = revision.version if revision else None, outcome.failure, status.stamped(self._now)
        named = f"version {version}" if version else f"revision {outcome.revision}"
        if outcome.kind == "Promoted":
            message, tag = f"{named} serves", f"serving since {at}"
        elif failure:
            message = f"{named} was rejected ({failure.reason}): {failure.message}"
            tag = f"rejected at {at}, {failure.reason}: {failure.message}"
        else:
            message, tag = f"{named} was given up: something else is asked for", ""
        one: Object = {"reason": outcome.kind, "message": message[:1000]}
        if tag and version and self._model.registered:
            one |= {"tag": tag[:1000], "version": version}
        self.pending = [*self.pending, one][-MOST:]
        return status.failed(outcome.revision, version, failure, self._now) if failure else None

    def settle(self) -> Failure | None:
        """Deliver what is owed; what can't be delivered now stays owed, and why is answered."""
        owed: list[Object] = []
        trouble = None
        for one in self.pending:
            if "reason" in one:
                self._cluster.create(
                    objects.event(
                        self._model, one["reason"], one["message"], warning=one["reason"] == "RolledBack",
                        at=status.stamped(self._now), reporter=self._cluster.identity,
                    )
                )  # fmt: skip
            rest: Object = {name: one[name] for name in ("tag", "version") if name in one}
            if rest and self._model.registered:
                try:
                    self._registry.tag(self._model.registered, rest["version"], self._model.key, rest["tag"])
                except NotRegistered as failure:
                    log.warning("%s: %s", self._model.key, failure)
                except RegistryUnavailable as failure:
                    trouble = Failure("RegistryUnavailable", str(failure))
                    owed.append(rest)
        self.pending = owed
        return trouble
