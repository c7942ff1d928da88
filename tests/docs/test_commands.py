"""Every command of the pages is run by a test: by test_reading.py, as a reader would, or where docs/typed.py says, or with a reason why not."""

import re
import shlex
import subprocess

import pytest
import yaml
from jsonschema import Draft202012Validator

from docs.typed import CLUSTER, ELSEWHERE, EVERY, HERE, NOT_RUN, listed
from pilothouse import cli
from support.chart import ROOT, Chart

OURS = [command for _, _, command in EVERY if re.match(r"(\.venv/bin/)?pilothouse ", command)]
HELM = [command for _, _, command in EVERY if re.match(r"helm (install|upgrade|template) ", command)]
APPLIED = [command for _, _, command in EVERY if command.startswith("kubectl apply -f - <<")]


def test_every_command_is_run_somewhere() -> None:
    """A page that is read here or elsewhere, or a line of the tables; and no line without its command."""
    run = {ROOT / page for page in (*HERE, *ELSEWHERE)}
    assert [f"{page.name}: {command}" for page, _, command in EVERY if page not in run and listed(command) is None] == []
    assert sorted({*CLUSTER, *NOT_RUN} - {listed(command) for _, _, command in EVERY}) == []


@pytest.mark.parametrize("test", sorted({*CLUSTER.values(), *ELSEWHERE.values()}))
def test_the_tests_that_run_the_others_are_there(test: str) -> None:
    """By file and name."""
    path, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M)


@pytest.mark.parametrize("command", sorted(set(OURS)))
def test_pilothouse_takes_every_command_of_ours(command: str) -> None:
    """Its own parser reads each, flags and all, also where nothing runs it."""
    words = shlex.split(re.sub(r" > \S+$", "", command))
    assert cli.parser().parse_args(words[1:]).run


@pytest.mark.parametrize("command", sorted({command for _, _, command in EVERY if listed(command)}))
def test_files_that_a_command_names_are_there(command: str) -> None:
    """Manifests, charts, scripts and Dockerfiles, by their path in this repository."""
    named = re.findall(r"(?<![\w/])(?:manifests|charts|scripts|runtime|examples)/[\w./-]+", command)
    assert [path for path in named if not (ROOT / path).exists() and path != "manifests/azureml/model"] == []


@pytest.mark.parametrize("command", sorted(set(HELM)))
def test_charts_render_with_the_values_that_the_pages_set(command: str) -> None:
    """As `helm template`: an unknown value would be refused by the schema. What is upgraded was installed from a registry."""
    words = [word for word in shlex.split(re.sub(r" > \S+$", "", command))[2:] if word not in ("--reuse-values", "--rollback-on-failure")]
    if "--reuse-values" in command:
        words += ["--set", "model.source=mlflow", "--set", "model.mlflow.trackingUri=http://mlflow.mlflow.svc:5000"]
    if "--values" in words:  # a file that the page's own test makes
        return
    done = subprocess.run([Chart.found().helm, "template", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", APPLIED)
def test_what_is_applied_fits_its_definition(command: str) -> None:
    """A LanguageModel, as the API server would judge it by the CRD's schema."""
    path = ROOT / "charts/pilothouse-operator/files/languagemodel.yaml"
    schema = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(command.split("\n", 1)[1].rpartition("\n")[0]))) == []
