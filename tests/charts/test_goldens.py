"""Generated files are what their sources say: rendered manifests, schema, README."""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pilothouse.settings import Settings
from pilothouse.version import __version__
from support.chart import CHART, ROOT, Chart


@pytest.fixture(scope="module")
def chart_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_docs", ROOT / "scripts" / "chart_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rendered_manifests_are_what_the_chart_makes(chart: Chart, tmp_path: Path) -> None:
    """A reviewer sees a template's change as YAML. Run scripts/render after a change."""
    subprocess.run([ROOT / "scripts/render", tmp_path], check=True, timeout=120)

    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "manifests/rendered").glob("*.yaml")}

    assert fresh == committed
    assert len(fresh) == len(list((ROOT / "manifests/values").iterdir()))


def test_schema_and_readme_are_what_values_say(chart_docs: ModuleType) -> None:
    """values.yaml is the one source. Run scripts/chart-docs after a change of it, or of the settings."""
    for path, text in chart_docs.generate(CHART).items():
        assert path.read_text() == text, f"{path.name} is stale: run scripts/chart-docs"


def test_every_value_is_described() -> None:
    """A leaf without a `# --` sentence would be missing in the README."""
    readme = (CHART / "README.md").read_text()

    def leaves(values: dict[str, object], path: str) -> list[str]:
        found = []
        for key, value in values.items():
            if isinstance(value, dict) and value and f"`{path}{key}`" not in readme:
                found += leaves(value, f"{path}{key}.")
            else:
                found.append(f"{path}{key}")
        return found

    described = [name for name in leaves(yaml.safe_load((CHART / "values.yaml").read_text()), "") if f"`{name}`" not in readme]
    assert described == []


def test_schema_is_closed_at_every_level_of_ours() -> None:
    """Only what is handed to Kubernetes as it is stays open."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_ones = []

    def walk(node: dict[str, object], path: str) -> None:
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False, path
        if node.get("type") == "object" and node.get("additionalProperties") is True:
            open_ones.append(path)
        for name, child in node.get("properties", {}).items():  # type: ignore[attr-defined]  # JSON
            walk(child, f"{path}.{name}")

    walk(schema, "")
    assert open_ones == [".affinity"]


def test_settings_of_the_schema_are_the_servers() -> None:
    """Every setting, with its bounds."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]

    assert list(schema["properties"]) == list(Settings.model_fields)
    assert schema["properties"]["max_n"] == {"type": "integer", "minimum": 1, "maximum": 128, "description": "Choices of one request (n)."}


def test_chart_carries_the_packages_version() -> None:
    """Chart, app and image tags move together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
