"""The pocket model: a real Phi-3 of two layers, small enough for the wheel, with answers that tests can rely on word for word.

`training` makes it from the table in `answers`; nothing here imports torch until that is asked for.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "onnx"
"""The exported model: genai_config.json, model.onnx, tokenizer and chat template."""
