"""The operator's own port: what it answers, and whom it believes."""

import base64
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from pilothouse.operator import web
from support.listening import listening

SECRET = "a secret of the webhook's"
BODY = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": "phi3", "alias": "champion", "version": "7"}})


class Door:
    """One operator's port; `heard` are the models that were named, `reached` is whether that could be passed on."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.reached, self.alive = True, True

    async def changed(self, name: str) -> bool:
        self.heard.append(name)
        return self.reached


def ask(url: str, body: str | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, body.encode() if body is not None else None, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def signed(body: str, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery, as MLflow signs it."""
    stamp = str(int(time.time() if at is None else at))
    made = hmac.new(secret.encode(), f"one.{stamp}.{body}".encode(), hashlib.sha256).digest()
    return {"X-MLflow-Delivery-Id": "one", "X-MLflow-Timestamp": stamp, "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}"}


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def url(door: Door) -> Iterator[str]:
    made = web.application(alive=lambda: door.alive, metrics=lambda: b"up 1\n", changed=door.changed, secret=lambda: SECRET)
    with listening(made) as address:
        yield address


def test_delivery_that_is_signed_names_a_model(url: str, door: Door) -> None:
    """And is answered at once."""
    assert ask(f"{url}/webhooks/mlflow", BODY, signed(BODY)) == (202, "")
    assert door.heard == ["phi3"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (BODY, dict, 401),
        (BODY, lambda: signed(BODY, "another"), 401),
        (BODY, lambda: signed(BODY, at=time.time() - 3600), 401),
        (BODY, lambda: signed(BODY) | {"X-MLflow-Timestamp": "now"}, 401),
        (BODY.replace("phi3", "other"), lambda: signed(BODY), 401),
        ("{}", lambda: signed("{}"), 400),
        ("no JSON", lambda: signed("no JSON"), 400),
        ("x" * (65 << 10), dict, 413),
    ],
    ids=["not signed", "by another secret", "too old", "without a time", "of another body", "of another kind", "no JSON", "too large"],
)
def test_delivery_of_anybody_else_is_refused(url: str, door: Door, body: str, headers: Callable[[], dict[str, str]], status: int) -> None:
    """And nobody is told. Each is signed when it is sent: pytest collects minutes before, and a signature lives for five."""
    assert ask(f"{url}/webhooks/mlflow", body, headers())[0] == status
    assert door.heard == []


def test_delivery_that_could_not_be_passed_on_is_asked_for_again(url: str, door: Door) -> None:
    """MLflow delivers again what was answered with 503."""
    door.reached = False

    assert ask(f"{url}/webhooks/mlflow", BODY, signed(BODY))[0] == 503


def test_there_is_no_door_without_a_secret(door: Door) -> None:
    """With the way to have one."""
    with listening(web.application(alive=lambda: True, metrics=lambda: b"", changed=door.changed, secret=None)) as url:
        status, said = ask(f"{url}/webhooks/mlflow", BODY, signed(BODY))

    assert (status, said) == (404, "webhooks are off: set webhook.existingSecret in the operator's chart\n")


def test_probes_and_metrics_are_answered(url: str, door: Door) -> None:
    """503 when a watch or a worker has ended, so that the kubelet begins anew."""
    assert (ask(f"{url}/healthz"), ask(f"{url}/readyz"), ask(f"{url}/metrics")) == ((200, "ok\n"), (200, "ok\n"), (200, "up 1\n"))
    door.alive = False
    assert ask(f"{url}/healthz")[0] == 503
