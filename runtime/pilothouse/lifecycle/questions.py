"""Questions with the answers that a model must give word for word: a JSON Lines file in the shape of MLflow's evaluation datasets.

A line is `{"inputs": {"messages": [...], "max_tokens": 64}, "expectations": {"expected_response": "..."}}`; `inputs` is a chat request of OpenAI's
form, asked at temperature 0 where it does not say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import runs
from pilothouse.models.pocket.answers import PAIRS

POCKET = Path(__file__).parent / "data" / "pocket-answers-v1.jsonl"
"""What the embedded model knows. A changed table gets a new version of the file."""
INPUTS, EXPECTED = "inputs", "expected_response"


@dataclass(frozen=True, slots=True)
class Questions:
    """`asked` are chat requests, `expected` their answers, in order; `file` is where they were read."""

    file: Path
    asked: tuple[Mapping[str, Any], ...]
    expected: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.file.stem

    def records(self) -> list[dict[str, Any]]:
        """As MLflow's evaluation takes them."""
        return [{INPUTS: dict(asked), "expectations": {EXPECTED: answer}} for asked, answer in zip(self.asked, self.expected, strict=True)]

    def dataset(self) -> Any:
        """MLflow's dataset: a row a question, named as the file, its digest over what it holds."""
        import pandas as pd

        rows = {INPUTS: [json.dumps(asked, ensure_ascii=False) for asked in self.asked], EXPECTED: list(self.expected)}
        return runs.table(pd.DataFrame(rows), self.file.absolute(), self.name, EXPECTED)


def read(file: Path) -> Questions:
    """The questions in `file`. Raises `ModelError` that names the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"--data {file} can't be read ({type(error).__name__}); give a JSON Lines file") from None
    asked, expected = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            inputs, answer = row["inputs"], row["expectations"]["expected_response"]
            if not inputs["messages"] or not isinstance(answer, str):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            form = '{"inputs": {"messages": [...]}, "expectations": {"expected_response": "..."}}'
            raise ModelError(f"{file}, line {number}: not of the form {form}") from None
        asked.append(inputs)
        expected.append(answer)
    if not asked:
        raise ModelError(f"{file} holds no question; give one a line")
    return Questions(file, tuple(asked), tuple(expected))


def pocket_lines() -> str:
    """The embedded model's table as such a file."""
    rows = (
        {"inputs": {"messages": [{"role": "user", "content": question}], "max_tokens": 512}, "expectations": {"expected_response": answer}}
        for question, answer in PAIRS
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
