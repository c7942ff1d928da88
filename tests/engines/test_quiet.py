"""Libraries report nothing of a user: no client id is written, nothing is sent."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
gone = []
sys.addaudithook(lambda event, args: gone.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
from pilothouse.engines.paged import PagedStep
from pilothouse.models import pocket
engine = PagedStep(pocket.FOLDER, threads=1, rows=1, context=64, kv_memory_bytes=1 << 20)
engine.warm_up()
engine.close()
print(gone, sys.modules["openvino_telemetry"], [m for m in sys.modules if m.startswith("openvino_telemetry.")])
"""


def test_openvino_writes_no_client_id_and_sends_nothing(tmp_path: Path) -> None:
    """Importing it would leave $HOME/intel behind, and an event with that id would be on its way."""
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=100, check=True)

    assert done.stdout == "[] None []\n"
    assert list(tmp_path.iterdir()) == []
