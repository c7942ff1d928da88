"""The worked changes of docs/architecture.md are true."""

import re
from pathlib import Path

import pytest
import yaml

import pilothouse
from pilothouse.engines.base import StepEngine
from support.chart import ROOT, Chart

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_profile_of_the_page_is_a_profile() -> None:
    """Its values render, and the pod is scheduled as they say."""
    pod = Chart.found().pod(yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]))
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "c7i.4xlarge"}
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "16", "memory": "24Gi"}


def test_the_methods_of_an_engine_are_the_seams() -> None:
    """What the page tells the author of an engine to write is what the seam asks for."""
    told = re.findall(r"`(\w+)`", re.search(r"`engines.base.StepEngine`: (.*?)\.", PAGE, re.DOTALL)[1])  # type: ignore[index]
    assert told == [name for name in vars(StepEngine) if not name.startswith("_") and callable(getattr(StepEngine, name))]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE))))
def test_every_file_that_the_page_names_is_there(path: str) -> None:
    """A reader can open it. The protocol of the worked change is the one that isn't there yet."""
    assert (Path(pilothouse.__file__).parent / path).is_file() is (path != "protocols/cohere.py")
