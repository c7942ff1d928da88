"""The operator's two ways to a real MLflow server: what it asks of the registry, and the webhooks by which the server asks it to look."""

import json
import queue
import re
import secrets
from pathlib import Path

import pytest

from pilothouse.operator import web
from pilothouse.operator.registry import MlflowRegistry, NotRegistered, RegistryUnavailable
from pilothouse.operator.spec import Key, Registered
from pilothouse.operator.values import Pinned
from support.listening import listening
from support.tracking import World, free_port

PAGE = Path(__file__).parents[2] / "docs" / "operator.md"


def test_an_alias_is_a_version_and_its_digest(world: World) -> None:
    """What the registry keeps; and after the alias moved, what it keeps of the other one."""
    asked = Registered(world.name, world.uri, alias="challenger")
    registry = MlflowRegistry()

    assert registry.resolve(asked) == Pinned(f"models:/{world.name}/2", "2", world.versions[1].digest)
    world.client.set_registered_model_alias(world.name, "challenger", "1")
    assert registry.resolve(asked) == Pinned(f"models:/{world.name}/1", "1", world.versions[0].digest)
    assert registry.resolve(Registered(world.name, world.uri, version="2")).digest == world.versions[1].digest
    assert registry.calls == 3


def test_what_is_not_there_and_who_does_not_answer_are_told_apart(world: World) -> None:
    """The first is for people to mend, the second mends itself."""
    registry = MlflowRegistry()
    for missing in (Registered(world.name, world.uri, alias="nobody"), Registered("none", world.uri, version="1")):
        with pytest.raises(NotRegistered, match=r"is not in http://127\.0\.0\.1:\d+: .*; set the alias, or name a version that is there"):
            registry.resolve(missing)
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        registry.resolve(Registered(world.name, f"http://127.0.0.1:{free_port()}", alias="challenger"))


def test_what_became_of_a_version_is_written_on_it(world: World) -> None:
    """A tag for each model that it was rolled out to."""
    MlflowRegistry().tag(Registered(world.name, world.uri, alias="challenger"), "2", Key("models", "phi3"), "serving since today")

    assert world.tags("2")["pilothouse.rollout.models.phi3"] == "serving since today"


def test_only_listed_servers_get_credentials_and_others_may_be_refused(world: World, tmp_path: Path) -> None:
    """A folder of the chart's Secret for each; read anew, since a Secret may change."""
    (tmp_path / "registries.json").write_text("{}")
    strict = MlflowRegistry(tmp_path, listed_only=True)
    asked = Registered(world.name, world.uri, alias="challenger")

    with pytest.raises(RegistryUnavailable, match="is not one that this operator may ask; add it to its chart's `registries`"):
        strict.resolve(asked)
    (tmp_path / "registries.json").write_text(json.dumps({"0": world.uri}))
    assert strict.resolve(asked).version == "2"


def test_webhook_of_the_page_says_that_an_alias_moved(world: World) -> None:
    """The page's own lines make it; MLflow signs what it delivers, and another secret's deliveries are not heard."""
    heard: queue.Queue[str] = queue.Queue()

    async def changed(name: str) -> bool:
        heard.put(name)
        return True

    secret = secrets.token_hex(32)
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "create_webhook" in block)
    with listening(web.application(alive=lambda: True, metrics=lambda: b"", changed=changed, secret=lambda: secret)) as url:
        exec(code.replace("https://operator.example.com", url), {"client": world.client, "SECRET": secret})  # the page's
        exec(
            code.replace("https://operator.example.com", url).replace('"pilothouse"', '"wrong"'),
            {"client": world.client, "SECRET": "wrong"},
        )
        try:
            world.client.set_registered_model_alias(world.name, "challenger", "1")
            assert heard.get(timeout=60) == world.name
            world.client.delete_registered_model_alias(world.name, "challenger")
            assert heard.get(timeout=60) == world.name
            world.client.set_model_version_tag(world.name, "1", "pilothouse_manifest", "sha256:" + "0" * 64)
            assert heard.get(timeout=60) == world.name
        finally:
            for webhook in world.client.list_webhooks():
                world.client.delete_webhook(webhook.webhook_id)
    assert heard.empty()
