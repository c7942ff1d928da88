"""A tokenizer for random weights: every id is a printable word, so that N words are N tokens and no token is silent.

The layout is that of Phi-3's sentencepiece vocabulary: three special ids, the 256 bytes, words, and the chat's special tokens at their places.
"""

import json
from pathlib import Path

SIZE = 32064
FIRST_WORD = 259
SPECIAL = {
    0: "<unk>", 1: "<s>", 2: "</s>",
    32000: "<|endoftext|>", 32001: "<|assistant|>", 32002: "<|placeholder1|>", 32003: "<|placeholder2|>", 32004: "<|placeholder3|>",
    32005: "<|placeholder4|>", 32006: "<|system|>", 32007: "<|end|>", 32008: "<|placeholder5|>", 32009: "<|placeholder6|>",
    32010: "<|user|>",
}  # fmt: skip
END = (32000, 32001, 32007)
TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def pieces() -> list[str]:
    """The text of every id, in sentencepiece's writing."""
    found = [f"▁w{number:05}" for number in range(SIZE)]
    found[3:FIRST_WORD] = [f"<0x{byte:02X}>" for byte in range(256)]
    for number, text in SPECIAL.items():
        found[number] = text
    return found


def write(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template."""
    added = [
        {"id": number, "content": text, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, text in SPECIAL.items()
    ]  # fmt: skip
    strip = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*strip, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": True,
            "vocab": {text: number for number, text in enumerate(pieces())}, "merges": [],
        },
    }  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "unk_token": "<unk>", "add_bos_token": False, "model_max_length": 4096, "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
