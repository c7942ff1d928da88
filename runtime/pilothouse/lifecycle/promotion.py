"""Which version an alias names: moved only with an evaluation in hand, moved back by one command, and who, what and why are the versions' tags.

The tags of the alias `champion` are `pilothouse.champion.<word>`. On the version that got it: `by`, `at`, `why`, `from` (the version before, or
none) and `evaluation` (the run that passed). On a version that a rollback took it from: `left.by`, `left.at`, `left.why`.
"""

import getpass
import os
from dataclasses import dataclass
from datetime import UTC, datetime

from pilothouse.errors import ModelError
from pilothouse.lifecycle import versions
from pilothouse.lifecycle.versions import PREFIX, Registry, Version
from pilothouse.models import tracking

CHAMPION, CHALLENGER = "champion", "challenger"
NONE = "none"
"""In place of a version's number: the alias was new."""
EVALUATION = PREFIX + "evaluation"
"""A version's tag: the id of the run that evaluated it last."""
DIGEST, AGAINST, VERDICT = PREFIX + "digest", PREFIX + "against", PREFIX + "verdict"
"""An evaluation's tags: what was asked, the number of the version that it was compared with (or none), `passed` or `failed`."""
PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True, slots=True)
class Move:
    """An alias that was moved from `before` (None: it was new) to `now`; `evaluation` is the run that allowed it (None: a rollback)."""

    alias: str
    before: Version | None
    now: Version
    by: str
    why: str
    evaluation: str | None = None


def promote(
    name: str,
    *,
    alias: str = CHAMPION,
    candidate: str = CHALLENGER,
    why: str,
    by: str | None = None,
    tracking_uri: str | None = None,
) -> Move:
    """Point `alias` of the model `name` at `candidate`, an alias or a version's number, if its evaluation allows that.

    The evaluation must be the version's last one, have passed, have asked these very files, and have compared them with the version that
    holds the alias now. `by` is who does it (None: MLFLOW_TRACKING_USERNAME, else the user of this process). Raises `ModelError` that says
    what is missing; nothing is changed then.
    """
    with versions.opened(tracking_uri) as registry:
        version = registry.find(f"models:/{name}/{candidate}" if candidate.isdecimal() else f"models:/{name}@{candidate}")
        before = registry.holder(name, alias)
        if before is not None and before.number == version.number:
            raise ModelError(f"{version} is {alias} already; nothing to promote")
        run_id = _evidence(registry, version, before)
        move = Move(alias, before, version, by or user(), why, run_id)
        # Told before it is done: an alias that moved without its reason can't be rolled back.
        registry.note(
            version, {**_told(alias, move), _key(alias, "from"): before.number if before else NONE, _key(alias, "evaluation"): run_id}
        )
        registry.move(version, alias)
        return move


def rollback(
    name: str, *, alias: str = CHAMPION, to: str | None = None, why: str, by: str | None = None, tracking_uri: str | None = None
) -> Move:
    """Point `alias` back at the version it named before the last promotion, or at the version number `to`.

    No evaluation is asked for: that version held the alias. Raises `ModelError` where there is no version to go back to.
    """
    with versions.opened(tracking_uri) as registry:
        left = registry.holder(name, alias)
        if left is None:
            raise ModelError(f"model {name!r} has no alias {alias!r}; `pilothouse promote {name} --alias {alias}` sets it")
        number = to or left.tags.get(_key(alias, "from"), "")
        if number in ("", NONE):
            known = "it was the first" if number else "it was not promoted by Pilothouse"
            raise ModelError(f"{left} is {alias} and nothing is known before it ({known}); name the version to go back to with --to")
        if number == left.number:
            raise ModelError(f"{left} is {alias} already; nothing to roll back")
        version = registry.get(name, number)
        move = Move(alias, left, version, by or user(), why)
        registry.note(left, _told(f"{alias}.left", move))
        registry.move(version, alias)
        return move


def user() -> str:
    """Who runs this process, as MLflow's server or this machine knows them."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return str(os.getuid())


def _key(alias: str, word: str) -> str:
    return f"{PREFIX}{alias}.{word}"


def _told(alias: str, move: Move) -> dict[str, str]:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {_key(alias, "by"): move.by, _key(alias, "at"): at, _key(alias, "why"): move.why}


def _evidence(registry: Registry, version: Version, before: Version | None) -> str:
    """The id of the evaluation that allows `version` to follow `before`. Raises `ModelError` that says why there is none."""
    again = f"`pilothouse evaluate {version.uri}`"
    run_id = version.tags.get(EVALUATION)
    if run_id is None:
        raise ModelError(f"{version} was not evaluated; run {again} first")
    run = registry.run(run_id)
    if run is None or run.info.lifecycle_stage == "deleted":
        raise ModelError(f"the evaluation of {version}, run {run_id}, is gone from {tracking.shown(registry.address)}; run {again} again")
    tags = run.data.tags
    if tags.get(VERDICT) != PASSED:
        raise ModelError(f"{version} did not pass its evaluation, run {run_id}: {tags.get(PREFIX + 'reason', 'it did not end')}")
    if version.digest is None or tags.get(DIGEST) != version.digest:
        raise ModelError(
            f"run {run_id} evaluated other files ({tags.get(DIGEST)}) than {version} has now ({version.digest}); run {again} again"
        )
    against = before.number if before else NONE
    if tags.get(AGAINST) != against:
        holds = f"version {against} holds it now" if before else "no version holds it now"
        raise ModelError(f"run {run_id} compared {version} with version {tags.get(AGAINST)} and {holds}; run {again} again")
    return run_id
