"""Evaluated against a served model, promoted, rolled back: in a real registry, by the commands that a user types."""

import getpass
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pilothouse import cli
from pilothouse.errors import ModelError
from pilothouse.lifecycle import promotion, serving, versions
from pilothouse.models import manifest
from pilothouse.smoke.client import Client
from support.server import served
from support.tracking import World

Command = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def command(world: World, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command against the stage's store; its exit code, its lines and those of standard error."""

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = cli.main([*arguments, "--tracking-uri", world.uri])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def test_the_cycle(world: World, command: Command, few: Path) -> None:
    """First a champion, then a challenger that is compared with it, promoted and taken back; who, what and why stay on the versions."""
    name = world.name
    first, second = world.versions
    asked = ("--data", str(few), "--slower", "100")

    code, out, _ = command("evaluate", f"models:/{name}/1", *asked)
    assert (code, out[-2]) == (0, f"{name} version 1 passed (no other version is champion)")
    run = world.client.get_run(out[-1].rsplit("/", 1)[1])
    assert out[-1] == f"run: {world.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert (run.info.status, run.data.tags["pilothouse.kind"]) == ("FINISHED", "evaluate")
    assert run.data.params["candidate"] == f"models:/{name}/1"
    assert run.data.params["candidate_digest"] == first.digest
    assert (run.data.params["baseline"], run.data.params["questions"]) == ("none", "few-v1")
    assert run.data.metrics["exact"] == 1.0
    assert run.data.metrics["smoke_failed"] == 0
    assert run.data.metrics["asked"] == 6
    assert "latency_ratio" not in run.data.metrics
    assert "few-v1" in {given.dataset.name for given in run.inputs.dataset_inputs}
    assert {file.path for file in world.client.list_artifacts(run.info.run_id)} >= {"answers.json", "smoke.json"}
    assert len(world.client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)) == 3

    assert command("promote", name, "--from", "1")[:2] == (
        0,
        [
            f"champion of {name} is version 1 now, it was not set",
            f"by {getpass.getuser()}, because it passed its evaluation; evaluation: run {run.info.run_id}",
        ],
    )
    tags = world.tags("1")
    assert (world.holder("champion"), tags["pilothouse.champion.from"]) == ("1", "none")
    assert tags["pilothouse.champion.evaluation"] == run.info.run_id

    code, out, _ = command("evaluate", f"models:/{name}@challenger", *asked, "--json")
    verdict = json.loads(out[-1])
    assert (code, verdict["passed"], verdict["candidate"], verdict["baseline"]) == (0, True, f"models:/{name}/2", f"models:/{name}/1")
    run = world.client.get_run(verdict["run_id"])
    assert run.data.params["baseline_digest"] == first.digest
    assert 0 < run.data.metrics["latency_ratio"] < 100

    assert command("promote", name, "--by", "ada", "--why", "fewer pauses")[:2] == (
        0,
        [f"champion of {name} is version 2 now, it was 1", f"by ada, because fewer pauses; evaluation: run {verdict['run_id']}"],
    )
    tags = world.tags("2")
    assert world.holder("champion") == "2"
    assert [tags[f"pilothouse.champion.{word}"] for word in ("by", "why", "from")] == ["ada", "fewer pauses", "1"]
    assert tags[manifest.KEY] == second.digest
    assert command("promote", name)[0::2] == (2, [f"pilothouse promote: {name} version 2 is champion already; nothing to promote"])

    assert command("rollback", name, "--by", "bob", "--why", "too bold")[:2] == (
        0,
        [f"champion of {name} is version 1 again, it was 2", "by bob, because too bold"],
    )
    tags = world.tags("2")
    assert world.holder("champion") == "1"
    assert [tags[f"pilothouse.champion.left.{word}"] for word in ("by", "why")] == ["bob", "too bold"]
    assert command("rollback", name)[0::2] == (
        2,
        [
            f"pilothouse rollback: {name} version 1 is champion and nothing is known before it (it was the first); "
            "name the version to go back to with --to"
        ],
    )


def test_wrong_answers_fail(world: World, command: Command, few: Path, tmp_path: Path) -> None:
    """A server that runs already is asked as it is; the verdict is exit code 1, kept by the run, and nothing is promoted then."""
    wrong = tmp_path / "wrong-v1.jsonl"
    rows = [json.loads(line) for line in few.read_text().splitlines()]
    rows[0]["expectations"]["expected_response"] = "Lisbon."
    wrong.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(f"models:/{world.name}/2", tracking_uri=world.uri) as server:
        code, out, _ = command("evaluate", f"models:/{world.name}/2", "--url", server.rest, "--data", str(wrong), "--rounds", "1")

        assert code == 1
        assert out[-2].startswith(
            f"{world.name} version 2 failed (no other version is champion): Metric exact value threshold check failed"
        )
        run_id = out[-1].rsplit("/", 1)[1]
        assert world.client.get_run(run_id).data.tags["pilothouse.verdict"] == "failed"
        code, _, err = command("promote", world.name)
        assert (code, err[0].split(":")[0:2]) == (
            2,
            ["pilothouse promote", f" {world.name} version 2 did not pass its evaluation, run {run_id}"],
        )

        code, _, err = command("evaluate", f"models:/{world.name}/1", "--url", server.rest)
        first, second = world.versions
        assert (code, err[-1]) == (
            2,
            f"pilothouse evaluate: {server.rest} serves {second.digest}, and {world.name} version 1 is {first.digest}",
        )


def evidence(world: World, number: str, **tags: str) -> str:
    """A run that says that version passed, as an evaluation leaves it; `tags` over it."""
    client = world.client
    run_id = str(client.create_run("0").info.run_id)
    digest = world.versions[int(number) - 1].digest
    for key, value in {"verdict": "passed", "digest": digest, "against": "none", **tags}.items():
        client.set_tag(run_id, f"pilothouse.{key}", value)
    client.set_model_version_tag(world.name, number, "pilothouse.evaluation", run_id)
    return run_id


def test_promotion_needs_an_evaluation_that_still_holds(world: World) -> None:
    """Of this version, of these files, against the version that holds the alias now; what is missing is said, and nothing moves."""
    name, uri = world.name, f"models:/{world.name}/2"

    def refused() -> str:
        with pytest.raises(ModelError) as error:
            promotion.promote(name, why="test", tracking_uri=world.uri)
        assert "champion" not in world.client.get_registered_model(name).aliases
        return str(error.value)

    assert refused() == f"{name} version 2 was not evaluated; run `pilothouse evaluate {uri}` first"
    run_id = evidence(world, "2", digest="sha256:other")
    assert refused().startswith(f"run {run_id} evaluated other files (sha256:other) than {name} version 2 has now")
    run_id = evidence(world, "2", against="1")
    assert (
        refused()
        == f"run {run_id} compared {name} version 2 with version 1 and no version holds it now; run `pilothouse evaluate {uri}` again"
    )
    run_id = evidence(world, "2", verdict="")
    assert refused() == f"{name} version 2 did not pass its evaluation, run {run_id}: it did not end"
    run_id = evidence(world, "2")
    world.client.delete_run(run_id)
    assert refused() == (
        f"the evaluation of {name} version 2, run {run_id}, is gone from {world.uri}; run `pilothouse evaluate {uri}` again"
    )
    evidence(world, "2")
    move = promotion.promote(name, why="test", by="ada", tracking_uri=world.uri)
    assert (move.now.number, move.before, move.by) == ("2", None, "ada")


def test_a_champion_that_moved_meanwhile_needs_a_new_evaluation(world: World) -> None:
    """The ratio was taken against another version."""
    world.client.set_registered_model_alias(world.name, "champion", "1")
    evidence(world, "2")
    with pytest.raises(ModelError, match=r"with version none and version 1 holds it now; run `pilothouse evaluate"):
        promotion.promote(world.name, why="test", tracking_uri=world.uri)
    assert world.holder("champion") == "1"


def test_rolling_back_to_what_is_gone_is_said(world: World) -> None:
    """The alias stays; a version can be named."""
    evidence(world, "1")
    promotion.promote(world.name, candidate="1", why="test", tracking_uri=world.uri)
    evidence(world, "2", against="1")
    promotion.promote(world.name, why="test", tracking_uri=world.uri)
    world.client.delete_model_version(world.name, "1")

    with pytest.raises(ModelError, match=r"has no version 1 in http://.*; name one that it has$"):
        promotion.rollback(world.name, why="test", tracking_uri=world.uri)
    assert world.holder("champion") == "2"
    with pytest.raises(ModelError, match=r"has no alias 'stable'; `pilothouse promote .* --alias stable` sets it$"):
        promotion.rollback(world.name, alias="stable", why="test", tracking_uri=world.uri)


def test_only_a_version_of_ours_is_evaluated(world: World) -> None:
    """Without digests nobody knows what is served; without a server there is nothing to ask."""
    with versions.opened(world.uri) as registry:
        version = registry.find(f"models:/{world.name}/1")
        with pytest.raises(ModelError, match=r"names no registered version; give models:/name@alias or models:/name/version$"):
            registry.find("runs:/1/model")
    with pytest.raises(ModelError, match=r"^no server of ours answers at http://127\.0\.0\.1:9 \(ConnectionRefusedError\); start one"):
        serving.at(version, Client("http://127.0.0.1:9"))


def test_a_version_that_cannot_be_served_is_said(world: World, command: Command, few: Path) -> None:
    """The server's own last line is the reason."""
    world.client.set_model_version_tag(world.name, "2", manifest.KEY, manifest.BLANK)

    code, _, err = command("evaluate", f"models:/{world.name}/2", "--data", str(few))

    assert code == 2
    assert "version 2 can't be served: " in err[-1]
    assert "is not the one that the registry names" in err[-1]


def test_an_alias_is_resolved_to_a_version_and_a_digest(world: World, command: Command) -> None:
    """As JSON, and as values of the chart."""
    made = world.versions[1]
    _, out, _ = command("resolve", f"models:/{world.name}@challenger")
    told = json.loads(out[0])
    assert (told["uri"], told["number"], told["digest"], told["aliases"]) == (f"models:/{world.name}/2", "2", made.digest, ["challenger"])
    _, out, _ = command("resolve", f"models:/{world.name}@challenger", "--values")
    assert json.loads(out[0]) == {"model": {"source": "mlflow", "mlflow": {"uri": f"models:/{world.name}/2", "digest": made.digest}}}
