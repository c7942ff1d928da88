"""Which of several operators works: the one that holds the Lease. The client library's own election; the other file that imports it.

Who loses the Lease ends the process: nothing that it still has in hand may be written after another one has begun.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

LEASE, RENEW, RETRY = 15, 10, 2  # seconds: how long it holds, within which it must be renewed, and between tries


class _Lock(LeaseLock):
    """A server that does not answer is a try that failed, not the end of the election."""

    def get(self, name: str, namespace: str) -> Any:
        lock: Any = super()
        try:
            return lock.get(name, namespace)
        except Exception as failure:
            return False, ApiException(reason=type(failure).__name__)

    def create(self, name: str, namespace: str, election_record: Any) -> Any:
        lock: Any = super()
        return _tried(lambda: lock.create(name, namespace, election_record))

    def update(self, name: str, namespace: str, updated_record: Any) -> Any:
        lock: Any = super()
        return _tried(lambda: lock.update(name, namespace, updated_record))


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception:
        return False


def elect(name: str, namespace: str, identity: str, *, started: Callable[[], None], stopped: Callable[[], None]) -> threading.Thread:
    """Take part in the election, in a thread of its own: `started` is called once this process leads, `stopped` when it no longer does."""
    logging.getLogger("leaderelection").setLevel(logging.WARNING)

    lock: Callable[..., Any] = _Lock
    configuration = electionconfig.Config(
        lock(name, namespace, identity),
        lease_duration=LEASE,
        renew_deadline=RENEW,
        retry_period=RETRY,
        onstarted_leading=started,
        onstopped_leading=stopped,
    )

    def run() -> None:
        try:
            leaderelection.LeaderElection(configuration).run()
        finally:
            stopped()

    thread = threading.Thread(target=run, name="election", daemon=True)
    thread.start()
    return thread
