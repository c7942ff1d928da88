"""What was asked and what was answered, kept for a trace where the settings ask for it: a bounded piece of each, and off by default."""

from contextvars import ContextVar

from pilothouse.messages import ChatRequest, Chunk

MOST = 16_384  # characters of what was asked, and again of what was answered
CUT = " [cut]"


class Content:
    """The texts of one call: messages or prompts in, choices out. Over `MOST` characters they are cut, and say so."""

    __slots__ = ("_answers", "_asked", "_room_in", "_room_out", "_rows")

    def __init__(self) -> None:
        self._asked: list[tuple[str, str]] = []  # role, text
        self._answers: dict[tuple[int, int], list[str]] = {}  # by row and choice
        self._room_in = self._room_out = MOST
        self._rows = 0

    def ask(self, request: ChatRequest) -> int:
        """Keep what `request` says; the number by which its answer's chunks are told."""
        row, self._rows = self._rows, self._rows + 1
        self._answers[row, 0] = []
        texts = [(message.role, message.content) for message in request.messages]
        if isinstance(request.prompt, str):
            texts.append(("user", request.prompt))
        for role, text in texts:
            if self._room_in > 0:
                self._asked.append((role, _cut(text, self._room_in)))
                self._room_in -= len(text)
        return row

    def tell(self, row: int, chunk: Chunk) -> None:
        """Keep a piece of an answer."""
        if chunk.text and self._room_out > 0:
            self._answers.setdefault((row, chunk.index), []).append(_cut(chunk.text, self._room_out))
            self._room_out -= len(chunk.text)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Roles and texts, in order."""
        return self._asked

    @property
    def answered(self) -> list[str]:
        """The text of each choice of each prompt, in order."""
        return ["".join(self._answers[key]) for key in sorted(self._answers)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[:room] + CUT


_content: ContextVar[Content | None] = ContextVar("pilothouse_content", default=None)


def kept() -> Content | None:
    """What is kept of this task's call; None where nothing may be."""
    return _content.get()


def keep(content: Content | None) -> None:
    """From here on, keep the call of this task, and of the tasks it starts, in `content`."""
    _content.set(content)
