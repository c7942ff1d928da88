"""The memory that `pilothouse size` tells is the memory that the server finds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli import main
from pilothouse.engines import cpu
from pilothouse.engines.paged import PagedStep
from pilothouse.errors import ModelError
from pilothouse.models import pocket, sizing, source

MIB = 1 << 20


@given(weights=st.integers(1, 64 << 30), chats=st.integers(1, 256), tokens=st.integers(1, 131072), each=st.integers(64, 1 << 20))
def test_under_the_told_limit_the_chats_fit(weights: int, chats: int, tokens: int, each: int) -> None:
    """What the server sets aside by itself under that limit holds them, and no more than the rounding to a MiB is on top."""
    found = sizing.Size(weights=weights, window=0, token=each, token_u8=None)
    limit = found.limit(chats, tokens)
    assert cpu.kv_memory_of(limit, weights) >= chats * tokens * each
    assert limit - cpu.limit_for(chats * tokens * each, weights) < MIB


@pytest.mark.parametrize(("precision", "field"), [("fp16", "token"), ("u8", "token_u8")])
def test_a_tokens_bytes_are_the_engines(precision: str, field: str) -> None:
    """The files say what the loaded engine says."""
    step = PagedStep(
        pocket.FOLDER,
        threads=1,
        rows=2,
        context=128,
        kv_memory_bytes=MIB,
        kv_precision=precision,
        step_tokens=0,
        prefix_cache=True,
        prefix_isolation=True,
    )
    assert getattr(sizing.size(source.describe(pocket.FOLDER)), field) == step.describe()["kv_bytes_per_token"]
    step.close()


def test_a_hugging_face_folder_is_sized_by_its_config(tmp_path: Path) -> None:
    """Phi-3-mini's own numbers: 32 layers, 32 heads of 96, bfloat16 are 384 KiB a token."""
    config = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 3072, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    described = source.Described("transformers", tmp_path, tmp_path, tmp_path, "phi3", "Phi3ForCausalLM", context=4096)
    assert sizing.size(described).token == 384 * 1024


def test_a_config_without_its_numbers_is_refused(tmp_path: Path) -> None:
    """A line, not a trace."""
    (tmp_path / "config.json").write_text("{}")
    described = source.Described("transformers", tmp_path, tmp_path, tmp_path, "phi3", "Phi3ForCausalLM")
    with pytest.raises(ModelError, match="layers, heads or hidden size"):
        sizing.size(described)


def test_a_generic_pyfunc_has_no_chats(tmp_path: Path) -> None:
    """Refused by name."""
    with pytest.raises(ModelError, match="generic pyfunc"):
        sizing.size(source.Described("pyfunc", tmp_path, tmp_path, tmp_path, "iris", "sklearn"))


def test_the_command_prints_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people with lines for the chart, bytes for scripts, and never more tokens than the window."""
    assert main(["size", "--chats", "4", "--tokens", "512", "999999", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["window"], told["token"], told["token_u8"]) == ("pocket", 4096, 1024, 640)
    assert list(told["limits"]["fp16"]["4"]) == ["512"]
    assert main(["size", "--chats", "4", "--tokens", "512"]) == 0
    limit = told["limits"]["fp16"]["4"]["512"] // MIB
    assert f"--set settings.rows=4\n  --set profiles.cpu.resources.requests.memory={limit}Mi" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["0", "-3", "many"])
def test_a_wrong_count_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the flag's name and what it takes."""
    with pytest.raises(SystemExit):
        main(["size", "--chats", wrong])
    assert "--chats" in capsys.readouterr().err
