"""docs/reference.md is what the code says: made by scripts/reference, which leaves nothing out."""

import subprocess
import warnings

from pilothouse.cli import COMMANDS
from pilothouse.settings import Settings
from support.chart import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLServer uses names that newer Starlettes deprecate
    from mlserver.grpc import dataplane_pb2

PAGE = (ROOT / "docs" / "reference.md").read_text()


def test_the_page_is_what_the_code_says() -> None:
    """A changed setting, route or flag needs scripts/reference."""
    done = subprocess.run([ROOT / "scripts/reference", "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_and_every_command_is_on_it() -> None:
    """The script could leave one out."""
    assert [name for name in Settings.model_fields if f"\n| `{name}` | " not in PAGE] == []
    assert [name for name in COMMANDS if f"\n### pilothouse {name}" not in PAGE] == []


def test_the_calls_of_grpc_are_those_that_are_served() -> None:
    """All of the service, but for the repository's."""
    calls = {method.name for method in dataplane_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert sorted(name for name in calls if f"`{name}`" not in PAGE) == sorted(name for name in calls if name.startswith("Repository"))
