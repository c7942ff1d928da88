"""`pilothouse package`: flags in, a registered model and the line to serve it out."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.commands import package
from pilothouse.errors import ModelError
from pilothouse.models import pocket, registry, source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    package.add(parser.add_subparsers())
    args = parser.parse_args(["package", *arguments])
    return int(args.run(args))


def test_help_needs_neither_mlflow_nor_torch() -> None:
    """The base install has neither."""
    code = (
        "import argparse, sys; from pilothouse.commands import package; p = argparse.ArgumentParser(); package.add(p.add_subparsers());\n"
        "try: p.parse_args(['package', 'onnx', '--help'])\n"
        "except SystemExit: print(sorted({'mlflow', 'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
    assert "--model-config KEY=VALUE" in done.stdout


def test_it_prints_what_was_made_and_how_to_serve_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps on standard error, the result on standard output; the printed address resolves."""
    assert (
        run(
            "onnx",
            "--register",
            "by-hand",
            "--alias",
            "new",
            "--tracking-uri",
            store,
            "--experiment",
            "other",
            "--model-config",
            "max_length=99",
        )
        == 0
    )
    out, err = capsys.readouterr()
    logged, registered, seen, serve = out.splitlines()
    assert logged.startswith("logged models:/m-")
    assert registered == "registered by-hand version 1, alias new"
    assert seen.endswith(f"(once `mlflow server --backend-store-uri {store}` runs)")
    assert serve == f"serve it: pilothouse serve models:/by-hand@new --tracking-uri {store}"
    assert err.splitlines()[0] == f"reading {pocket.FOLDER} ..."
    assert source.describe(registry.resolve("models:/by-hand@new", tracking_uri=store).folder).defaults.max_length == 99


def test_json_is_one_object(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts: every field of the result, and the address to serve."""
    assert run("onnx", str(pocket.FOLDER), "--name", "mine", "--params", "--tracking-uri", store, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["uri"] == made["model_uri"]
    assert made["digest"].startswith("sha256:")
    assert Path(made["folder"]).is_dir()
    assert source.describe(Path(made["folder"])).model_name == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["onnx", "--model-config", "max_length"], "--model-config 'max_length' must be KEY=VALUE, as temperature=0"),
        (["onnx", "--model-config", "max_length=long"], "model_config: max_length must be a whole number, not 'long'"),
        (["onnx", "--alias", "a"], "alias 'a' needs a registered name; add --register NAME"),
        (
            ["onnx", "no-such-folder"],
            "no-such-folder has no genai_config.json; give a folder that onnxruntime-genai's model builder made, or 'pocket'",
        ),
    ],
)
def test_a_wrong_flag_is_one_sentence(elsewhere: Path, arguments: list[str], sentence: str) -> None:
    """Nothing is made, not even a store."""
    with pytest.raises(ModelError) as refused:
        run(*arguments)
    assert str(refused.value) == sentence
    assert list(elsewhere.iterdir()) == []
