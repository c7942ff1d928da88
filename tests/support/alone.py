"""Serve a model where every way out is watched: `unshare --map-root-user --net python alone.py FOLDER [SETTING=VALUE ...]`.

In a network namespace of its own, with a default route to an interface whose other end nobody reads. One packet to anywhere, a name's look-up
among them, is counted by the kernel, whoever sends it. Prints one JSON object: the answer, and the packets that left while nothing was asked
to leave, and after one was sent on purpose.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.server import served

OUT = "out0"
COMMANDS = (
    "link set lo up",
    f"link add {OUT} type veth peer name nowhere",
    f"link set {OUT} addrgenmode none arp off",  # else the kernel speaks by itself
    "link set nowhere addrgenmode none up",
    f"addr add 198.18.0.1/24 dev {OUT}",
    f"link set {OUT} up",
    f"route add default dev {OUT}",
)


def packets() -> int:
    """Packets that went out."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith(f"{OUT}:")]
    return int(line.partition(":")[2].split()[9])


def main(folder: str, *settings: str) -> None:
    for command in COMMANDS:
        subprocess.run(["ip", *command.split()], check=True)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
        os.environ.pop(name, None)  # the server's own doing
    question = [{"role": "user", "content": "What is the capital of Spain?"}]
    with served(*([folder] if folder else []), **dict(setting.split("=", 1) for setting in settings)) as server:
        answer = server.client.post("/v1/chat/completions", {"model": server.model, "messages": question, "temperature": 0}).json
        if "error" in answer:  # a generic pyfunc has no chat
            answer = server.client.post("/invocations", {"dataframe_split": {"columns": ["prompt"], "data": [["x"]]}}).json
    left = packets()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as leak:
        leak.sendto(b"x", ("192.0.2.1", 53))
    print(json.dumps({"answer": answer, "packets": left, "after_one": packets()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
