"""Environments of their own for clients that can't live beside the server's packages, made once and kept outside the checkout."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse"


def uv() -> str:
    """The uv that scripts/lib/uv.sh finds."""
    for found in (shutil.which("uv"), Path.home() / ".local/bin/uv", _cache() / "uv/bin/uv"):
        if found and os.access(found, os.X_OK):
            return str(found)
    raise RuntimeError("uv is needed to make a client's environment: run scripts/install")


def environment(requirements: Path) -> Path:
    """The interpreter of an environment that holds what the file pins, and nothing else; safe in several processes at once."""

    def make(folder: Path) -> None:
        _run("venv", "--quiet", "--relocatable", "--python", VERSION, str(folder))
        _run("pip", "install", "--quiet", "--python", str(folder / "bin/python"), "--requirement", str(requirements))

    return _made(requirements, make) / "bin/python"


def overlay(requirements: Path) -> Path:
    """A folder with what the file pins and nothing it needs, for the PYTHONPATH of an environment that holds another version."""

    def make(folder: Path) -> None:
        _run("pip", "install", "--quiet", "--no-deps", "--python", VERSION, "--target", str(folder), "--requirement", str(requirements))

    return _made(requirements, make)


def _made(requirements: Path, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, once for each content of the file."""
    digest = hashlib.sha256(requirements.read_bytes() + VERSION.encode()).hexdigest()[:16]
    home = _cache() / requirements.parents[1].name
    wanted = home / f"{requirements.stem}-{digest}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{wanted.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=home))
            try:
                make(scratch / "made")
                (scratch / "made").rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return wanted


def _run(*arguments: str) -> None:
    # Without this project's own overrides: such an environment holds what its file says, and nothing that we made of it.
    done = subprocess.run([uv(), "--no-config", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"uv {' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
