"""The servers under contract: one process a model, shared by the session; or the one at PILOTHOUSE_URL (and PILOTHOUSE_GRPC)."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLServer uses names that newer Starlettes deprecate
    import mlserver  # noqa: F401  # imported once, here, where that is no failure

from pilothouse.smoke import checks
from pilothouse.smoke.client import Client
from support.pocket_hf import pocket_hf
from support.server import served


class Servers:
    """Starts each server when it is first asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._targets: dict[str, checks.Target] = {}

    def __getitem__(self, kind: str) -> checks.Target:
        if kind not in self._targets:
            self._targets[kind] = self._start(kind)
        return self._targets[kind]

    def _start(self, kind: str) -> checks.Target:
        if kind == "elsewhere":
            client = Client(os.environ["PILOTHOUSE_URL"], key=os.environ.get("PILOTHOUSE_API_KEY"))
            return checks.Target(client, checks.find_model(client), os.environ.get("PILOTHOUSE_GRPC"))
        arguments = [str(pocket_hf())] if kind == "transformers" else []
        server = self._stack.enter_context(served(*arguments, scripted=kind == "scripted"))
        return checks.Target(server.client, server.model, server.grpc)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """All servers of this session, stopped at its end."""
    all_of = Servers()
    yield all_of
    all_of.close()


def _models() -> list[object]:
    if "PILOTHOUSE_URL" in os.environ:
        return ["elsewhere"]
    return ["onnx", pytest.param("transformers", marks=pytest.mark.transformers)]


def _kinds() -> list[object]:
    return _models() if "PILOTHOUSE_URL" in os.environ else [*_models(), "scripted"]


@pytest.fixture(scope="session", params=_models())
def trained(request: pytest.FixtureRequest, servers: Servers) -> checks.Target:
    """Each real model in turn: what it knows, it knows on every engine."""
    return servers[request.param]


@pytest.fixture(scope="session", params=_kinds())
def target(request: pytest.FixtureRequest, servers: Servers) -> checks.Target:
    """Each engine in turn, the scripted one too: every promise holds for all."""
    return servers[request.param]
