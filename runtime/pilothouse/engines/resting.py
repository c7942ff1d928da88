"""The piece of a prompt that rests in an engine between two stages."""

from typing import Any, NamedTuple

from pilothouse.engines.base import Work


class _Piece(NamedTuple):
    row: int
    tokens: int
    stage: int  # before which it rests
    hidden: Any


class Resting:
    """At most one: of which row, and what the engine keeps of it meanwhile."""

    def __init__(self) -> None:
        self._piece: _Piece | None = None

    def check(self, item: Work) -> None:
        """Raise `ValueError` unless `item` may come now: a piece that goes on does so where it rests. A row that comes whole rests no more."""
        if item.stages is None:
            self.wake(item.row)
        elif item.stages.begin not in (0, self._before(item)):
            raise ValueError(f"row {item.row}: {len(item.tokens)} tokens do not rest before stage {item.stages.begin}")

    def _before(self, item: Work) -> int:
        piece = self._piece
        same = piece is not None and (piece.row, piece.tokens) == (item.row, len(item.tokens))
        return piece.stage if piece is not None and same else 0

    def rest(self, item: Work, hidden: Any = None) -> None:
        """`item`, a piece, has gone through its stages: it rests before the next one, or is through."""
        stages = item.stages
        assert stages is not None
        self._piece = None if stages.last else _Piece(item.row, len(item.tokens), stages.end, hidden)

    def wake(self, row: int) -> None:
        """Nothing of this row rests any more."""
        if self._piece is not None and self._piece.row == row:
            self._piece = None

    def tokens(self, row: int) -> int:
        """How many tokens of this row rest."""
        return self._piece.tokens if self._piece is not None and self._piece.row == row else 0

    @property
    def hidden(self) -> Any:
        """What the engine keeps of the piece; None where nothing rests."""
        return self._piece.hidden if self._piece is not None else None
