"""A box without a cluster: the unit is one that systemd takes, the container has the chart's limits, and both have wheels on arm64."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from pilothouse.settings import Settings
from support.chart import ROOT

EDGE = ROOT / "manifests" / "edge"
UNIT = EDGE / "pilothouse.service"

ARM = {"platform_machine": "aarch64", "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""} | {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)] + ["manylinux2014_aarch64", "linux_aarch64"]
"""Of the images' base: Debian 12 has glibc 2.36."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Every line is understood; the program itself need not be here."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_a_misspelt_line_would_be_found(tmp_path: Path) -> None:
    """The check above does check."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/pilothouse/bin/pilothouse", "/bin/true").replace("PrivateTmp=", "PrivateTemp="))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "PrivateTemp" in done.stderr


def test_both_forms_wait_for_lame_duck_and_drain() -> None:
    """And name settings that exist."""
    stopping = sum(Settings.model_fields[name].default for name in ("lame_duck_seconds", "drain_seconds")) + 10
    unit, compose = UNIT.read_text(), yaml.safe_load((EDGE / "compose.yaml").read_text())
    assert f"TimeoutStopSec={stopping:g}\n" in unit
    assert compose["services"]["pilothouse"]["stop_grace_period"] == f"{stopping:g}s"
    named = re.findall(r"PILOTHOUSE_([A-Z_]+)[:=]", unit) + list(compose["services"]["pilothouse"]["environment"])
    assert {name.removeprefix("PILOTHOUSE_").lower() for name in named} <= set(Settings.model_fields)


# -- arm64 -------------------------------------------------------------------------------------------------------------------------


def packages() -> dict[tuple[str, str], dict[str, Any]]:
    """uv.lock, by name and version."""
    return {(p["name"], p.get("version", "")): p for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def locked(image: str) -> dict[str, str]:
    """What an image installs: name and version."""
    text = (ROOT / f"runtime/requirements/{image}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text, re.M))


@pytest.mark.parametrize("image", ["onnx", "transformers"])
def test_every_package_of_an_image_has_a_wheel_for_arm64(image: str) -> None:
    """The same lock, hashes and all, fills an image for linux/arm64: nothing is compiled, nothing is missing."""
    tags = {*cpython_tags((3, 11), platforms=PLATFORMS), *compatible_tags((3, 11), "cp311", PLATFORMS)}
    known, text = packages(), (ROOT / f"runtime/requirements/{image}.txt").read_text()
    without = []
    for name, version in locked(image).items():
        wheels = known[name, version].get("wheels", [])
        fit = [wheel for wheel in wheels if parse_wheel_filename(wheel["url"].rsplit("/", 1)[-1])[3] & tags]
        if not any(wheel["hash"] in text for wheel in fit):
            without.append(f"{name} {version}")
    assert without == []


@pytest.mark.parametrize("image", ["onnx"])
def test_arm64_needs_no_package_that_the_lock_lacks(image: str) -> None:
    """A dependency that only another processor has would be missing there: the lock was made for x86-64."""
    known, have = packages(), locked(image)
    for name, version in have.items():
        for dependency in known[name, version].get("dependencies", ()):
            marker = dependency.get("marker")
            if marker is None or Requirement(f"x; {marker}").marker.evaluate(ARM):  # type: ignore[union-attr]  # it has one
                assert dependency["name"] in have, f"{name} needs {dependency['name']} on arm64"
