"""Engines turn token ids into token ids. Nothing here knows a wire, a chat template or MLflow.

What must hold before a library of theirs is imported stands here: this runs first.
"""

import sys

# Importing openvino imports this, which writes a client id into the home folder and sends an event with it. Taken for "not there", it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say that there is no such module
