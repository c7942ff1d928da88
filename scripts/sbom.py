"""What is in an image, as a CycloneDX 1.6 document: Python's packages as the image itself finds them, and Debian's.

`scripts/sbom.py pilothouse:onnx > dist/pilothouse-onnx.cdx.json`. Standard library only: it runs before anything is installed.
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import Any

# Runs inside the image, without a network: only what is there can be listed.
LIST = """
import importlib.metadata as metadata, json, pathlib
python = [(p.metadata["Name"], p.version, p.metadata.get("License-Expression")) for p in metadata.distributions()]
debian = []
for block in pathlib.Path("/var/lib/dpkg/status").read_text().split("\\n\\n"):
    fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
    if fields.get("Status", "").endswith(" installed"):
        debian.append((fields["Package"], fields["Version"], fields["Architecture"]))
print(json.dumps({"python": sorted(python), "debian": sorted(debian)}))
"""


def document(image: str, inspected: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """The document of `image` from `docker image inspect` of it and from what LIST printed inside it. The same image gives the same text."""
    digest = inspected["Id"].removeprefix("sha256:")
    components = []
    for name, version, license_ in listed["python"]:
        key = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        component: dict[str, Any] = {"type": "library", "bom-ref": key, "name": name, "version": version, "purl": key}
        if license_:
            component["licenses"] = [{"expression": license_}]
        components.append(component)
    for name, version, architecture in listed["debian"]:
        key = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}&distro=debian-12"
        components.append({"type": "library", "bom-ref": key, "name": name, "version": version, "purl": key})
    labels = inspected["Config"].get("Labels") or {}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": image,
                "version": labels.get("org.opencontainers.image.version", "0"),
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        },
        "components": components,
    }


def main(image: str) -> None:
    """Print the document of an image that the engine holds."""
    inspected = subprocess.run(["docker", "image", "inspect", image], check=True, capture_output=True, text=True).stdout
    command = ["docker", "run", "--rm", "-i", "--network", "none", "--read-only", "--entrypoint", "python3", image, "-"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, input=LIST).stdout
    json.dump(document(image, json.loads(inspected)[0], json.loads(listed)), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
