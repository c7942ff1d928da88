"""The load client against a real server with the scripted engine: it sends what was planned, and notes what came."""

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from client import workloads
from client.answer import Answer, Asked
from client.dialects import DIALECTS
from client.driving import Target, drive
from client.summary import figures, verdict

from support.server import Served, served

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench"
STEP = 0.003


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(scripted=True, environment={"SCRIPTED_STEP_SECONDS": str(STEP)}, context_tokens=256) as one:
        yield one


@pytest.fixture
def target(server: Served) -> Target:
    return Target(server.rest, DIALECTS["completions"], server.model)


@pytest.mark.parametrize("dialect", ["completions", "chat"])
def test_every_token_of_a_closed_loop_is_counted_and_timed(server: Served, dialect: str) -> None:
    """Tokens as the server's usage tells them; times in order, from sent to end."""
    requests = workloads.unlike(1, 6, 8, 12, plain=True)
    run = drive(Target(server.rest, DIALECTS[dialect], server.model), requests, clients=3)
    assert verdict(run) == ""
    assert sorted(one.number for one in run.answers) == list(range(6))
    for one in run.answers:
        assert (one.tokens, one.asked, one.new) == (12, 12, False)
        assert one.prompt >= 8
        assert [one.sent, *one.events, one.end] == sorted([one.sent, *one.events, one.end])
    told = figures(run.answers)
    assert (told["requests"], told["failed"]) == (6, 0)


def test_an_open_loop_sends_when_it_was_planned_whether_answered_or_not(target: Target) -> None:
    """The schedule is the seed's alone: a slow server gets the same one, and what is late is said to be."""
    requests = workloads.poisson(workloads.unlike(2, 10, 8, 40, plain=True), 1000.0, 2)
    run = drive(target, requests)
    answers = sorted(run.answers, key=lambda one: one.number)
    assert [one.due for one in answers] == [one.at for one in requests]
    assert all(one.sent >= one.due for one in answers)
    assert answers[-1].sent < min(one.end for one in answers)


def test_a_short_answer_fails_the_point(server: Served) -> None:
    """The context ends before the answer that was asked for; that is no figure."""
    run = drive(Target(server.rest, DIALECTS["completions"], server.model), [Asked("a b c", 4), Asked("a b c", 100_000)], clients=1)
    assert "1 of 2 failed" in verdict(run)
    assert figures(run.answers)["failed"] == 1


def test_a_client_that_leaves_is_neither_whole_nor_a_failure(target: Target) -> None:
    """It hangs up at the event it was told to, and the others are answered."""
    run = drive(target, [Asked("one two", 40, leave=3), Asked("three four", 40)], clients=2)
    left, stayed = sorted(run.answers, key=lambda one: one.number)
    assert (left.left, left.whole, len(left.events), left.failure) == (True, False, 3, "")
    assert (stayed.whole, stayed.tokens) == (True, 40)


def test_an_answer_comes_back_from_its_line() -> None:
    """To the tenth of a millisecond."""
    one = Answer(3, 8, "long", 0.5, 0.5001, [0.6, 0.6503, 0.7], 0.7002, 200, 8, 64, 12, True)
    assert Answer.of(json.loads(one.line())) == one


def test_the_same_seed_is_the_same_load() -> None:
    """And another one shares no prompt with it."""
    first, again, other = (workloads.poisson(workloads.unlike(seed, 5, 16, None), 2.0, seed) for seed in (7, 7, 8))
    assert first == again
    assert not {tuple(one.prompt) for one in first} & {tuple(one.prompt) for one in other}


def test_the_command_prints_figures_and_keeps_every_answer(server: Served, tmp_path: Path) -> None:
    """One JSON line each."""
    out = tmp_path / "run.jsonl.gz"
    command = [SCRIPT, "load", server.rest, "--model", server.model, "--clients", "2", "--requests", "4", "--tokens", "6", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tokens_per_second" in done.stdout
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    assert [Answer.of(json.loads(line)).tokens for line in lines] == [6] * 4


def test_ctrl_c_keeps_what_was_measured(server: Served, tmp_path: Path) -> None:
    """The figures of what was answered are printed, and the exit code says that there was to be more."""
    out = tmp_path / "run.jsonl"
    os.mkfifo(out)
    # Whoever runs the tests in the background ignores SIGINT, and so would the command.
    command = ["env", "--default-signal=INT", SCRIPT, "load", server.rest, "--model", server.model]
    command += ["--requests", "100000", "--tokens", "4", "--out", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with out.open() as lines:
            assert json.loads(lines.readline())["tokens"] == 4
            process.send_signal(signal.SIGINT)
            for _ in lines:
                pass
        printed, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "tokens_per_second" in printed
    assert "stopped after" in said
    assert "Traceback" not in said


def test_nobody_who_listens_is_one_line(tmp_path: Path) -> None:
    """And names the address."""
    done = subprocess.run([SCRIPT, "load", "http://127.0.0.1:9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("bench load: error: http://127.0.0.1:9: ")
