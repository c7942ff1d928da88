"""One line of a report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: wrong says in `text` what to change, note is worth knowing, ok is as it should be."""

    level: Literal["ok", "note", "wrong"]
    subject: str
    text: str
