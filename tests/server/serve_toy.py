"""A process that serves the toy model, for tests of its life: `python serve_toy.py MODE`, settings in the environment.

It writes its addresses to standard output, one JSON object a line: where it listens, then, once more, where it is ready.
"""

import asyncio
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

from pilothouse import settings
from pilothouse.errors import ModelError
from pilothouse.server import logs, serving


def tell(addresses: serving.Addresses) -> None:
    sys.stdout.buffer.write(orjson.dumps(addresses.as_dict()) + b"\n")
    sys.stdout.buffer.flush()


async def models() -> Sequence[Any]:
    match sys.argv[1]:
        case "missing":
            raise ModelError("model 'x' is not there\n(setting model); name another")
        case "broken":
            raise ValueError("no such shape")
        case "stuck":
            await asyncio.to_thread(threading.Event().wait)
    from server.toy import toy_settings

    return [toy_settings()]


if sys.argv[1] == "early":
    configure = logs.configure

    def interrupted(*args: Any) -> None:
        configure(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    logs.configure = interrupted

if __name__ == "__main__":
    warnings.simplefilter("error", ResourceWarning)
    code = serving.host(settings.load(), models, on_listening=tell, on_ready=tell)
    print("left", flush=True)
    sys.exit(code)
