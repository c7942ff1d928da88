"""A reader who types what a page says: its commands, one by one or block by block, in a folder that looks like the checkout."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.chart import ROOT

PATIENCE = 240
SHELLS = ("bash", "sh", "console", "")
"""Fences that hold commands. `bash server` stays in the foreground; `sh` is for a cluster; none is the charts' README."""


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands after the backticks, and its text."""

    fence: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Each command of it, with its continued lines and its here-document; comments are left out, `&&` is taken apart."""
        found: list[str] = []
        end = ""
        for line in self.text.splitlines():
            if end:
                found[-1] += f"\n{line}"
                end = "" if line == end else end
            elif found and found[-1].endswith("\\"):
                found[-1] = f"{found[-1][:-1].rstrip()} {line.strip()}"
            else:
                found += [part.strip() for part in re.sub(r"\s+# .*", "", line).split(" && ") if part.strip() and not part.startswith("#")]
            if not end and (here := re.search(r"<<'?(\w+)'?$", line)):
                end = here[1]
        return found


def blocks(page: Path) -> list[Block]:
    """The page's blocks of commands, indented ones too."""
    found = re.findall(r"^( *)```([^\n]*)\n(.*?)^\1```$", page.read_text(), re.M | re.S)
    cut = ((fence.strip(), re.sub(f"^{indent}", "", text, flags=re.M)) for indent, fence, text in found)
    return [Block(fence, text) for fence, text in cut if fence.split(" ")[0] in SHELLS]


@contextmanager
def running(command: str, shell: dict[str, str], folder: Path, until: Sequence[str]) -> Iterator[None]:
    """A command that stays, up once `until` (curl's arguments, an address among them) answers 200; its process group is ended afterwards."""
    log = folder / "server.log"
    with log.open("a") as out:
        process = subprocess.Popen(["bash", "-c", command], env=shell, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    retry = ["--retry", str(PATIENCE), "--retry-all-errors", "--retry-delay", "1", "--output", os.devnull]
    try:
        begun = subprocess.run(["curl", "--silent", "--fail", *retry, *until], check=False, timeout=PATIENCE)
        assert (begun.returncode, process.poll()) == (0, None), f"{command}\n{log.read_text()[-4000:]}"
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def checkout(folder: Path) -> Path:
    """`folder/pilothouse`, which looks like the checkout to the commands, so that nothing is written into ours.

    `scripts/install` only looks whether there are such extras: what it does has stages of its own (install, wheel).
    """
    found = folder / "pilothouse"
    (found / "scripts").mkdir(parents=True)
    for name in ("runtime", "charts", "MLproject", "pyproject.toml", "benchmarks"):
        (found / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "manifests", found / "manifests")  # a model is fetched into it
    for path in (ROOT / "scripts").iterdir():
        (found / "scripts" / path.name).symlink_to(path)
    install = found / "scripts" / "install"
    install.unlink()
    install.write_text('#!/bin/sh\nfor extra; do grep -q "^$extra = \\[" "$(dirname "$0")/../pyproject.toml" || exit 1; done\n')
    install.chmod(0o755)
    tools = found / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("mlflow", "pilothouse", "python"):  # a link to Python would not find its environment
        (tools / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).with_name(name)}" "$@"\n')
        (tools / name).chmod(0o755)
    return found


@dataclass
class Reader:
    """Types commands in `folder`, with `instead` in place of what the page names (ports, folders), in one environment."""

    folder: Path
    instead: dict[str, str] = field(default_factory=dict)
    shell: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PILOTHOUSE_"))}
        ours = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONPATH": str(ROOT / "runtime"),
            "PYTHONWARNINGS": "ignore",
            "PATH": f"{self.folder}/.venv/bin:{os.environ['PATH']}",
        }
        self.shell = kept | ours | self.shell

    def meant(self, text: str) -> str:
        """What is typed where the page says `text`."""
        for page, here in self.instead.items():
            text = text.replace(page, here)
        return text

    def type(self, text: str) -> str:
        """Standard output of a command or a whole block; exported variables stay. It must end with 0."""
        text = self.meant(text)
        for line in text.splitlines():
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                self.shell[name] = value.replace("$PWD", str(self.folder)).replace("$PATH", self.shell["PATH"])
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, env=self.shell, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    @contextmanager
    def serving(self, command: str, *until: str) -> Iterator[None]:
        """A command that stays, as `running` has it."""
        with running(self.meant(command.strip()), self.shell, self.folder, until):
            yield
