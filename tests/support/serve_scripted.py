"""Serves the scripted engine behind the pocket model's tokenizer and template: every protocol, and no computing.

`python serve_scripted.py READY_FILE`, with the server's settings in the environment. The engine breaks under an answer whose prompt begins with
`BREAKS`, after a few tokens of it, and hangs under one that begins with `HANGS` for as long as the file SCRIPTED_HOLD is there; its steps take
SCRIPTED_STEP_SECONDS, to be made it takes SCRIPTED_LOAD_SECONDS, and it is not made before the file SCRIPTED_LOAD_HOLD is gone.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

sys.path.insert(0, str(Path(__file__).parents[1]))

from pilothouse import settings as settings_room
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.faults import Faults
from pilothouse.engines.guidance import LLGuidance
from pilothouse.engines.scripted import following
from pilothouse.models import pocket, source
from pilothouse.models.loading import Loaded
from pilothouse.models.registry import Resolved
from pilothouse.server import serving
from support.scripted_loop import engine

BREAKS = "Break, break, break"
HANGS = "Hang, hang, hang"
NOWHERE = "/no such file"
HELD = 12  # tokens after which it breaks
ROWS = 8


def loaded(settings: settings_room.Settings) -> Loaded:
    """What `models.loading.load` would make of such a model."""
    tokenizer = Tokenizer.from_folder(pocket.FOLDER)
    breaks, hangs = tokenizer.encode(BREAKS), tokenizer.encode(HANGS)
    hold = Path(os.environ.get("SCRIPTED_HOLD", NOWHERE))

    def formula(tokens: Sequence[int], size: int) -> int:
        if len(tokens) % HELD == 0:
            if _begins(tokens, breaks):
                raise RuntimeError("told to break")
            while _begins(tokens, hangs) and hold.exists():
                time.sleep(0.02)
        return following(tokens, size)

    loop = engine(
        tokenizer,  # type: ignore[arg-type]  # a vocabulary like the scripted one
        faults=Faults(delay_seconds=_seconds("SCRIPTED_STEP_SECONDS"), load_seconds=_seconds("SCRIPTED_LOAD_SECONDS")),
        guidance=lambda: LLGuidance(
            tokenizer.source,
            tokenizer.end_ids,
            tokenizer.size,
            max_schema_bytes=settings.max_schema_bytes,
            max_schema_depth=settings.max_schema_depth,
        ),
        queue=settings.queue,
        queue_tokens=settings.queue_tokens,
        queue_seconds=settings.queue_seconds,
        request_seconds=settings.request_seconds,
        rows=settings.rows or ROWS,
        context=settings.context_tokens or 4096,
        tokens_per_step=512,
        formula=formula,
    )
    while Path(os.environ.get("SCRIPTED_LOAD_HOLD", NOWHERE)).exists():
        time.sleep(0.02)
    loop.start()
    described = source.describe(pocket.FOLDER, name="scripted", version=None)
    resolved = Resolved(folder=pocket.FOLDER, uri=str(pocket.FOLDER))
    return Loaded(
        settings=settings,
        name="scripted",
        version="1",
        described=described,
        resolved=resolved,
        defaults=described.defaults,
        engine=loop,
        tokenizer=tokenizer,
        template=ChatTemplate.from_folder(pocket.FOLDER, tokenizer),
    )


def _seconds(name: str) -> float:
    return float(os.environ.get(name, "0"))


def _begins(tokens: Sequence[int], sign: Sequence[int]) -> bool:
    """Whether `sign` stands at the start, after a template's few tokens."""
    return any(list(tokens[i : i + len(sign)]) == sign for i in range(4))


def main(ready: Path) -> int:
    settings = settings_room.load()
    model: Future[Loaded] = Future()
    Thread(target=lambda: model.set_result(loaded(settings)), daemon=True).start()
    return serving.serve(settings, model, on_ready=lambda at: told(ready, at))


def told(ready: Path, addresses: serving.Addresses) -> None:
    ready.write_text(json.dumps(addresses.as_dict()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
