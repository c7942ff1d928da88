"""The audit: the locks are past the holes we know of, and a database that can't be reached is never a pass."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.requests import Request

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
assert _spec is not None
assert _spec.loader is not None
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)


@pytest.mark.parametrize("lock", audit.LOCKS, ids=lambda lock: lock.stem)
def test_every_lock_is_past_the_holes_we_know_of(lock: Path) -> None:
    """Starlette and FastAPI among them: MLServer's own pins are below."""
    assert audit.below(audit.packages(lock)) == []


def test_what_the_tests_run_with_is_past_them_too() -> None:
    """Else MLServer would be proven on other versions than those that are served."""
    installed = {
        name: found.version for found in importlib.metadata.distributions() if (name := found.metadata["Name"].lower()) in audit.FLOORS
    }
    assert {"starlette", "fastapi", "h11", "jinja2", "torch", "mlflow"} <= set(installed)
    assert audit.below(installed) == []


def test_mlservers_own_pins_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip would resolve without our overrides, so that nobody takes them out."""
    (pin,) = [line for line in importlib.metadata.requires("mlserver") or () if line.startswith("fastapi")]
    assert "<0.116" in pin
    assert [line.partition(" is below")[0] for line in audit.below({"starlette": "0.46.2", "fastapi": "0.115.14"})] == [
        "fastapi 0.115.14",
        "starlette 0.46.2",
    ]


async def test_a_host_header_does_not_make_the_path() -> None:
    """CVE-2026-48710: on MLServer's own pins this Host makes `request.url.path` an open one."""
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "server": ("t", 80),
        "headers": [(b"host", b"a/v2/health/live?x=")],
    }
    assert Request(scope).url.path == "/v1/chat/completions"


def test_nothing_of_ours_uses_forms_or_files_of_the_framework() -> None:
    """The other holes of Starlette were in its forms, its static files and its ranges: none of them is reached from here."""
    words = re.compile(r"StaticFiles|FileResponse|\.form\(|UploadFile|python_multipart|BaseHTTPMiddleware\(")
    used = {path.name: found for path in (ROOT / "runtime").rglob("*.py") if (found := words.findall(path.read_text()))}
    assert used == {}


def test_a_database_that_is_not_there_is_not_run_and_no_pass(tmp_path: Path) -> None:
    """The reason stands in the report; the floors are held all the same."""
    environment = {**os.environ, **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"), "NO_PROXY": "", "no_proxy": ""}
    code = "import sys; sys.path.insert(0, 'scripts'); import audit; audit.LOCKS = audit.LOCKS[:1]; sys.exit(audit.main())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    head, told = done.stdout.splitlines()
    assert "with a floor of ours: 0 below" in head
    assert "osv.dev: not run: " in told
