"""The number format that is asked for is the one that is computed in, or the server says that it can't."""

from typing import Any

import openvino
import pytest

from pilothouse.engines.paged import PagedStep
from pilothouse.errors import ModelError
from pilothouse.models import pocket
from pilothouse.models.choosing import Choice
from pilothouse.settings import Settings


def choice(**settings: Any) -> Choice:
    return Choice(Settings(context_tokens=64, rows=2, kv_memory_bytes=1 << 24, **settings), "onnx", pocket.FOLDER, 4096)


@pytest.mark.parametrize(
    ("dtype", "engine"), [("float16", "auto"), ("float16", "paged"), ("float16", "slots"), ("bfloat16", "slots"), ("bfloat16", "genai")]
)
def test_a_format_that_an_engine_lacks_is_refused(dtype: str, engine: str) -> None:
    """It is not taken for another one, nor left unread."""
    with pytest.raises(ModelError, match=f"^dtype {dtype} is not for this model: .*; set dtype to auto$"):
        choice(dtype=dtype, engine=engine)()


def test_bfloat16_chooses_the_engine_that_has_it() -> None:
    """Whatever `auto` took else; where the CPU has none the reason is told, and no other engine steps in."""
    chosen = choice(dtype="bfloat16")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ModelError, match=r"this CPU has no bfloat16 .*leave dtype at auto"):
            chosen()
        return
    engine = chosen()
    assert isinstance(engine, PagedStep)
    assert engine.describe()["compute"] == "bf16"
    assert chosen.reasons == ["setting dtype is bfloat16, which only the paged engine computes in"]
    engine.close()
