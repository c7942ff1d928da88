"""What is known of the images' packages: by pip-audit, where its database can be reached, and by the table of this file everywhere.

Exit code 1 where a package is known to be vulnerable. A database that can't be reached is "not run", with the reason, and never "passed".
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "runtime" / "requirements").glob("*.txt"))
SECONDS = 300

FLOORS: dict[str, tuple[tuple[int, ...], str]] = {
    "aiohttp": ((3, 12, 14), "CVE-2025-53643: request smuggling"),
    "fastapi": ((0, 165), "the first that MLServer is proven on here with a Starlette past its holes"),
    "h11": ((0, 16), "CVE-2025-43859: request smuggling by chunked bodies"),
    "jinja2": ((3, 1, 6), "CVE-2025-27516: a way out of the sandbox that chat templates run in"),
    "mlflow": ((3, 11), "CVE-2026-4137: temporary folders that others may write to"),
    "mlflow-skinny": ((3, 11), "CVE-2026-4137: temporary folders that others may write to"),
    "orjson": ((3, 9, 15), "CVE-2024-27454: recursion without an end"),
    "protobuf": ((6, 31, 1), "CVE-2025-4565: recursion without an end"),
    "python-multipart": ((0, 0, 18), "CVE-2024-53981: a form that takes all time"),
    "requests": ((2, 32, 4), "CVE-2024-47081: credentials of .netrc to another host"),
    "setuptools": ((78, 1, 1), "CVE-2025-47273: a path out of the folder"),
    "starlette": (
        (1, 3, 1),
        "CVE-2026-48710: Host decides request.url.path; CVE-2025-62727, CVE-2025-54121 and CVE-2026-54283: Range and forms that take all time",
    ),
    "torch": ((2, 6), "CVE-2025-32434: weights_only runs code"),
    "urllib3": ((2, 6), "CVE-2025-66418 and CVE-2025-66471: inflating without a bound"),
}
"""The least version of each package that has a hole we know of, and the hole. MLServer's own pins would take an older Starlette."""


def packages(lock: Path) -> dict[str, str]:
    """Name to version of a lock file."""
    return {m[1]: m[2] for m in re.finditer(r"(?m)^([a-z0-9._-]+)(?:\[[^]]*\])?==([^\s\\]+)", lock.read_text())}


def numbers(version: str) -> tuple[int, ...]:
    """A version's release as numbers."""
    return tuple(int(part) for part in re.match(r"[0-9]+(?:\.[0-9]+)*", version)[0].split("."))  # type: ignore[index]  # every version begins so


def below(found: dict[str, str]) -> list[str]:
    """The packages under their floor, each with the hole."""
    return [
        f"{name} {found[name]} is below {'.'.join(map(str, floor))}: {hole}"
        for name, (floor, hole) in FLOORS.items()
        if name in found and numbers(found[name]) < floor
    ]


def looked_up(lock: Path) -> tuple[list[str], str | None]:
    """What the database knows of a lock's packages, and why it was not asked, if it was not."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(lock),
        "--require-hashes",
        "--disable-pip",
        "--vulnerability-service",
        "osv",
    ]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "15"], capture_output=True, text=True, timeout=SECONDS
        )
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [], f"the database took over {SECONDS} s"
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return [], re.sub(r"^[\w.]+: ", "", last)[:200]
    return [
        f"{package['name']} {package['version']}: {hole['id']} ({', '.join(hole['aliases']) or 'no other name'}), mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for package in report["dependencies"]
        for hole in package.get("vulns", ())
    ], None


def main() -> int:
    """Print a line for each lock and a line for each finding."""
    bad = 0
    for lock in LOCKS:
        found = packages(lock)
        known = below(found)
        held = sum(name in found for name in FLOORS)
        print(f"{lock.stem:12} {len(found):3} packages; {held} with a floor of ours: {len(known)} below")
        database, unasked = looked_up(lock)
        print(f"{'':12} osv.dev: {f'not run: {unasked}' if unasked else f'{len(database)} known vulnerabilities'}", flush=True)
        for finding in (*known, *database):
            print(f"{'':14}{finding}")
        bad += len(known) + len(database)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
