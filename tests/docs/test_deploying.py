"""The pages about where it runs and what is seen: every command in them is one that can be run, and what they name is there."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pilothouse import cli
from pilothouse.metrics import Metrics
from pilothouse.protocols.feedback import feedback
from pilothouse.settings import Settings
from support.chart import ROOT, Chart

PAGES = [ROOT / "docs" / name for name in ("deploy.md", "monitoring.md")]


def commands(page: Path) -> list[str]:
    """Each command of the page's bash blocks, continued lines joined, sudo and `&&` taken apart."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S) for line in block.replace("\\\n", "").splitlines()]
    return [part.strip().removeprefix("sudo ") for line in lines for part in line.split(" && ") if part.strip()]


ALL = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("pilothouse ")])
def test_pilothouse_takes_every_command_of_ours(command: str) -> None:
    """Its own parser reads each, flags and all."""
    args = cli.parser().parse_args(shlex.split(command)[1:])
    assert args.run


@pytest.mark.parametrize("command", [c for c in ALL if not c.startswith("pilothouse ")])
def test_files_that_foreign_commands_name_are_there(command: str) -> None:
    """Manifests, charts, scripts and Dockerfiles, by their path in this repository."""
    named = [word for word in shlex.split(command) if re.match(r"(manifests|charts|scripts|runtime|examples)/", word)]
    assert [word for word in named if not (ROOT / word).exists()] == []
    assert named or shlex.split(command)[0] in ("curl", "helm", "mlflow", "systemctl", "uv")


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("helm install")])
def test_charts_render_with_the_values_that_the_pages_set(command: str) -> None:
    """As `helm template`: an unknown value would be refused by the schema."""
    words = shlex.split(command)
    done = subprocess.run([Chart.found().helm, "template", *words[2:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_feedback_that_the_page_sends_is_taken() -> None:
    """Its body, with a trace's id in place of the variable."""
    (command,) = [c for c in ALL if "/v1/feedback" in c]
    body = shlex.split(command.replace("$TRACE", "tr-" + "0" * 32))[-1]
    assert feedback(body.encode()).name == json.loads(body)["name"]


def test_every_metric_is_on_the_page() -> None:
    """And the page names no other."""
    page = (ROOT / "docs/monitoring.md").read_text()
    families = {line.split()[2] for line in Metrics().render().decode().splitlines() if line.startswith("# TYPE pilothouse_")}
    told = set(re.findall(r"pilothouse_[a-z_]+", page))
    assert told == {name for name in families if not name.endswith("_created")}


def test_every_setting_of_traces_is_on_the_page_with_its_default() -> None:
    """The table is the settings' own."""
    rows = dict(re.findall(r"^\| `(trace\w*)` \| ([^|]+) \|", (ROOT / "docs/monitoring.md").read_text(), re.M))
    words = {False: "off", None: "none", 1.0: "1"}
    assert rows == {name: words[field.default] for name, field in Settings.model_fields.items() if name.startswith("trace")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_speaks_of_are_there(page: Path) -> None:
    """Every path in code marks that looks like one of ours."""
    named = re.findall(r"(?<![\w/])((?:manifests|charts|scripts|tests|runtime)/[\w./-]+)", page.read_text())
    assert [path for path in named if not (ROOT / path.rstrip(".")).exists() and path != "manifests/azureml/model"] == []
