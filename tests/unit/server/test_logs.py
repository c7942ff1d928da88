"""The logs: one handler, JSON for machines and short lines for people, libraries kept quiet."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from pilothouse.server import logs
from pilothouse.settings import load


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The logging of this process as it was."""
    root, names = logging.getLogger(), ("pilothouse", "uvicorn")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name, of in levels.items():
        logging.getLogger(name).setLevel(of)


def written(stream: io.StringIO, **settings: str) -> list[str]:
    """What three loggers have to say under these settings."""
    logs.configure(load(**settings), stream)
    logging.getLogger("pilothouse.some").info("hello %s", "you", extra={"fields": {"n": 1}})
    logging.getLogger("pilothouse.some").debug("details")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("mlserver").info("Loaded model")
    logging.getLogger("elsewhere").warning("careful")
    return stream.getvalue().splitlines()


def test_machines_get_json() -> None:
    """One object a line where nobody watches, with a record's fields beside its message."""
    lines = [orjson.loads(line) for line in written(io.StringIO())]
    assert [(line["logger"], line["level"], line["message"], line.get("n")) for line in lines] == [
        ("pilothouse.some", "info", "hello you", 1),
        ("elsewhere", "warning", "careful", None),
    ]


def test_a_terminal_gets_text() -> None:
    """The same for people; either form can be asked for."""
    assert [line.partition(" ")[2] for line in written(Terminal())] == ["info    hello you n=1", "warning careful"]
    assert written(Terminal(), log_format="json")[0].startswith("{")
    assert not written(io.StringIO(), log_format="text")[0].startswith("{")


def test_the_level_is_ours_alone() -> None:
    """Debug shows our details, error hides our news; what libraries warn of is shown either way."""
    assert "details" in written(io.StringIO(), log_level="debug", log_format="text")[1]
    assert [line.split()[-1] for line in written(io.StringIO(), log_level="error", log_format="text")] == ["careful"]
