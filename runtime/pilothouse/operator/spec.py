"""A LanguageModel as the API server keeps it, read into what the controller decides by. Pure.

The API server has already held it to the CRD's schema and rules, so nothing is checked twice here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

GROUP, VERSION, PLURAL, KIND = "pilothouse.org", "v1alpha1", "languagemodels", "LanguageModel"
OWNER = f"{GROUP}/languagemodel"
"""The label of everything that belongs to a LanguageModel: its name."""
REVISION = f"{GROUP}/revision"
"""The annotation of a Deployment, and the label of a check's pod: which revision it is."""
RETRY = f"{GROUP}/retry"
"""The annotation that lets a rejected revision be tried again, when its value changes."""
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """Which LanguageModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Registered:
    """A model of a registry: by its `alias`, which moves, or by its `version`, which doesn't. `poll_seconds` between two looks."""

    name: str
    tracking_uri: str
    alias: str | None = None
    version: str | None = None
    poll_seconds: float = 60.0

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that every version is asked; `answer` is the only right one, where it is given."""

    question: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a new version is held to beside the smoke checks."""

    questions: tuple[Question, ...] = ()
    same_answers: bool = False
    max_slowdown_percent: int | None = None
    samples: int = 5

    @property
    def compares(self) -> bool:
        """Whether the serving version must be asked as well."""
        return self.same_answers or self.max_slowdown_percent is not None


@dataclass(frozen=True, slots=True)
class Policy:
    """How a new revision comes in."""

    strategy: Literal["Candidate", "InPlace"] = "Candidate"
    smoke: bool = True
    pause: bool = False
    progress_seconds: int | None = None
    analysis: Analysis = Analysis()


@dataclass(frozen=True, slots=True)
class Model:
    """One LanguageModel. `body` is the whole object; nothing may change it."""

    key: Key
    uid: str
    generation: int
    retry: str
    policy: Policy
    registered: Registered | None
    body: Object

    @property
    def spec(self) -> Object:
        found: Object = self.body["spec"]
        return found

    @property
    def status(self) -> Object:
        return self.body.get("status") or {}


def read(body: Mapping[str, Any]) -> Model:
    """The object as the controller sees it."""
    metadata, spec = body["metadata"], body["spec"]
    rollout = spec.get("rollout") or {}
    analysis = rollout.get("analysis") or {}
    return Model(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        retry=(metadata.get("annotations") or {}).get(RETRY, ""),
        policy=Policy(
            strategy=rollout.get("strategy", "Candidate"),
            smoke=rollout.get("smoke", True),
            pause=rollout.get("pause", False),
            progress_seconds=rollout.get("progressDeadlineSeconds"),
            analysis=Analysis(
                questions=tuple(Question(q["question"], q.get("answer")) for q in analysis.get("questions", ())),
                same_answers=analysis.get("sameAnswers", False),
                max_slowdown_percent=analysis.get("maxSlowdownPercent"),
                samples=analysis.get("samples", 5),
            ),
        ),
        registered=_registered(spec["source"].get("registry")),
        body=dict(body),
    )


def _registered(source: Mapping[str, Any] | None) -> Registered | None:
    if not source:
        return None
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))", source["uri"])
    assert match, f"the CRD let {source['uri']!r} through"
    return Registered(match["name"], source["trackingUri"], match["alias"], match["version"], source.get("pollSeconds", 60))
