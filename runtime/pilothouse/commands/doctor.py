"""`pilothouse doctor`: what this machine can run, or a release on a cluster: what is wrong, and what to change."""

import argparse
import json
import os
import platform
from importlib import metadata
from importlib.util import find_spec

from pilothouse import __version__
from pilothouse.commands import flags
from pilothouse.diagnosis.finding import Finding


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("doctor", help="what this machine can run, and what is wrong", description=__doc__)
    command.add_argument("model", nargs="?", help="a model's folder or address to examine as well")
    command.add_argument(
        "--engines", action="store_true", help="time every engine on the model (default: the embedded one), some seconds each"
    )
    command.add_argument("--release", help="examine this Helm release instead of this machine, with the kubectl of the PATH")
    command.add_argument("-n", "--namespace", help="its namespace (default: the context's)")
    command.add_argument("--context", help="the cluster's context (default: the current one)")
    flags.store(command)
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when something is wrong, else 0."""
    findings = _release(args) if args.release else _here(args)
    if args.json:
        print(json.dumps([{"level": f.level, "subject": f.subject, "text": f.text} for f in findings], indent=2))
    else:
        width = max(12, *(len(finding.subject) for finding in findings))
        for finding in findings:
            print(f"{finding.level:<6}{finding.subject:<{width}}  {finding.text}")
    return 1 if any(finding.level == "wrong" for finding in findings) else 0


def _here(args: argparse.Namespace) -> list[Finding]:
    return [
        *_machine(),
        *_packages(),
        *_settings(),
        *(_model(args.model, args.tracking_uri) if args.model else []),
        *(_engines(args.model, args.tracking_uri) if args.engines else []),
    ]


def _release(args: argparse.Namespace) -> list[Finding]:
    """The release; whether its memory holds the model, where that is named."""
    from pilothouse.diagnosis import kubectl, release

    weights = least = None
    if args.model:
        from pilothouse.models import registry, sizing, source

        size = sizing.size(source.describe(registry.resolve(args.model, tracking_uri=args.tracking_uri).folder))
        weights, least = size.weights, size.limit(1, 512)
    return release.findings(kubectl.release(args.release, args.namespace, args.context, weights=weights, least=least))


def _machine() -> list[Finding]:
    from pilothouse.engines import cpu

    features = cpu.features()
    engine, why = cpu.choose(features)
    return [
        Finding("ok", "pilothouse", f"{__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("ok", "cpu", f"{os.cpu_count()} cores here, {cpu.threads()} threads by the container's quota"),
        Finding("ok", "engine", f"auto means {engine} for ONNX models: {why}"),
        Finding("ok", "memory", f"{cpu.kv_memory() / (1 << 30):.1f} GiB of keys and values by default, {cpu.rows()} rows at once"),
    ]


def _packages() -> list[Finding]:
    found = []
    for extra, modules in {
        "onnx": ("mlserver", "openvino", "onnxruntime_genai"),
        "transformers": ("torch", "transformers"),
        "mlflow": ("mlflow",),
    }.items():
        missing = [name for name in modules if find_spec(name) is None]
        if missing:
            found.append(Finding("note", extra, f"not installed ({', '.join(missing)}): pip install 'pilothouse[{extra}]'"))
        else:
            found.append(Finding("ok", extra, "installed"))
    try:
        starlette = metadata.version("starlette")
    except metadata.PackageNotFoundError:
        return found
    if tuple(int(part) for part in starlette.split(".")[:2]) < (1, 3):
        found.append(
            Finding(
                "wrong",
                "starlette",
                f"{starlette} has known holes, and plain pip can't lift it past MLServer's pin: pip install --no-deps 'fastapi>=0.165' 'starlette>=1.3.1'",
            )
        )
    else:
        found.append(Finding("ok", "starlette", starlette))
    return found


def _settings() -> list[Finding]:
    from pilothouse import settings
    from pilothouse.errors import StartError

    try:
        known = settings.load()
    except StartError as error:
        return [Finding("wrong", "settings", str(error))]
    from pilothouse.server import ports

    findings = [Finding("ok", "settings", ", ".join(sorted(known.model_fields_set)) or "all at their defaults")]
    unknown = sorted(
        n for n in os.environ if n.startswith("PILOTHOUSE_") and n.removeprefix("PILOTHOUSE_").lower() not in type(known).model_fields
    )
    if unknown:
        findings.append(Finding("note", "settings", f"no such setting: {', '.join(unknown)} (see `pilothouse serve --help`)"))
    try:
        ports.demand_free(known)
        findings.append(Finding("ok", "ports", f"{known.rest_port}, {known.grpc_port} and {known.metrics_port} are free"))
    except StartError as error:
        findings.append(Finding("wrong", "ports", str(error)))
    return findings


def _model(uri: str, tracking_uri: str | None) -> list[Finding]:
    from pilothouse.errors import StartError
    from pilothouse.models import manifest, registry, source

    try:
        resolved = registry.resolve(uri, tracking_uri=tracking_uri)
        described = source.describe(resolved.folder)
        findings = [
            Finding("ok", "model", f"{described.model_name}: {described.architecture}, {described.kind}, window {described.context}")
        ]
        if (resolved.folder / manifest.NAME).is_file():
            manifest.verify(resolved.folder, expected=resolved.digest)
            findings.append(Finding("ok", "digests", "every file is as it was packaged"))
    except StartError as error:
        return [Finding("wrong", "model", str(error))]
    return findings


def _engines(uri: str | None, tracking_uri: str | None) -> list[Finding]:
    from pilothouse import settings
    from pilothouse.models import comparing

    asked = {"model": uri, "tracking_uri": tracking_uri}
    findings, rates = [], {}
    for chosen, outcome in comparing.engines(settings.load(**{name: value for name, value in asked.items() if value})):
        name = ", ".join(chosen.values())
        if isinstance(outcome, str):
            findings.append(Finding("note", name, outcome))
            continue
        rates[" ".join(f"PILOTHOUSE_{setting.upper()}={value}" for setting, value in chosen.items())] = outcome.best
        answers = ", ".join(f"{rate:.0f} at {rows}" for rows, rate in outcome.decode.items())
        findings.append(Finding("ok", name, f"prompts {outcome.prefill:.0f} tokens/s; answers {answers} rows"))
    if rates:
        best = max(rates, key=lambda words: rates[words])
        findings.append(Finding("ok", "engines", f"the fastest answers to many users come with {best}"))
    return findings
