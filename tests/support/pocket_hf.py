"""The pocket model's Hugging Face form, trained once and kept outside the checkout for every test that needs torch."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pilothouse.models import pocket

SOURCES = ("answers.py", "variety.py", "training.py")


def pocket_hf() -> Path:
    """The folder, ready to load. Trains (a minute or two) when the table or the script changed; safe in several processes at once."""
    home = Path(pocket.__file__).parent
    digest = hashlib.sha256(b"".join((home / name).read_bytes() for name in SOURCES)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "pocket-hf"
    wanted = cache / digest
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=cache))
            try:
                made = scratch / "hf"
                training = [sys.executable, "-m", "pilothouse.models.pocket.training", "--hf", str(made), "--no-onnx"]
                done = subprocess.run(training, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"training the pocket model failed:\n{done.stderr[-2000:]}")
                made.rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return wanted
