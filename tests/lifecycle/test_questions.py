"""The questions' file: what it must be, and that the shipped one is what the pocket model knows."""

from pathlib import Path

import pytest

from pilothouse.errors import ModelError
from pilothouse.lifecycle import questions
from pilothouse.models.pocket.answers import PAIRS

ROW = '{"inputs": {"messages": [{"role": "user", "content": "a"}]}, "expectations": {"expected_response": "b"}}\n'


def test_the_shipped_file_is_the_pocket_s_table() -> None:
    """A changed table needs a new version of the file: `questions.pocket_lines()` writes it."""
    assert questions.POCKET.read_text() == questions.pocket_lines()
    assert questions.read(questions.POCKET).expected == tuple(answer for _, answer in PAIRS)


def test_the_dataset_is_named_and_its_digest_is_of_what_it_holds(tmp_path: Path) -> None:
    """Two copies of a file are one dataset, a changed answer is another."""
    first, copy, other = (tmp_path / folder / "set-v1.jsonl" for folder in "abc")
    for file, text in ((first, ROW), (copy, ROW), (other, ROW.replace('"b"', '"c"'))):
        file.parent.mkdir()
        file.write_text(text)
    sets = [questions.read(file).dataset() for file in (first, copy, other)]

    assert [one.name for one in sets] == ["set-v1"] * 3
    assert sets[0].digest == sets[1].digest != sets[2].digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no question; give one a line"),
        (ROW + "{", "line 2: not of the form"),
        ('{"inputs": {"messages": []}, "expectations": {"expected_response": "b"}}', "line 1: not of the form"),
        ('{"inputs": {"messages": [{}]}, "expectations": {}}', "line 1: not of the form"),
        ('{"inputs": {"messages": [{}]}, "expectations": {"expected_response": 3}}', "line 1: not of the form"),
    ],
)
def test_a_wrong_file_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    """One sentence with the way out."""
    file = tmp_path / "set.jsonl"
    file.write_text(text)
    with pytest.raises(ModelError, match=said):
        questions.read(file)
    with pytest.raises(ModelError, match=r"^--data nowhere can't be read \(FileNotFoundError\); give a JSON Lines file$"):
        questions.read(Path("nowhere"))
