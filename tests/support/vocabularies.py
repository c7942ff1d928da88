"""Small tokenizers of every kind that is served, trained in a moment, and the chat templates of the families they stand for."""

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Encoder

from pilothouse.models.pocket.answers import PAIRS

SPECIAL = (
    "<unk>",
    "<s>",
    "<|endoftext|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
    "<|tool|>",
    "<|/tool|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
)
TAGS = ("<tool_call>", "</tool_call>", "[INST]")  # added, but not special, as Qwen's are
KINDS = ("byte level", "sentencepiece with a normalizer", "metaspace", "metaspace first", "unigram")
CONFIG = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}

PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI35 = PHI3.replace("message['role'] == 'system' %}", "message['role'] == 'system' and message['content'] %}")
PHI4_MINI = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "tool" and message.name %}
        {{- '<|im_start|>tool ' + message.name + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- for tool_call in message.tool_calls %}
            {%- set tool_call = tool_call.function %}
            {{- '<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
"""Qwen's and Hermes' form, with tools and their calls."""
TEMPLATES = {"Phi-3": PHI3, "Phi-3.5": PHI35, "Phi-4-mini": PHI4_MINI, "Llama 3": LLAMA3, "ChatML": CHATML}


@cache
def source(kind: str) -> str:
    """The text of a tokenizer.json of this kind: 600 pieces, with all of `SPECIAL` and `TAGS`."""
    corpus = [text for pair in PAIRS for text in pair]
    swallowing = {"<|assistant|>", "<|system|>", "<|end|>", "<|user|>"}
    special = [AddedToken(text, special=True, normalized=False, rstrip=text in swallowing) for text in SPECIAL]
    encoder = Encoder(models.Unigram() if kind == "unigram" else models.BPE(unk_token=None if kind == "byte level" else "<unk>"))
    if kind == "byte level":
        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        encoder.decoder = decoders.ByteLevel()
        encoder.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    elif kind == "sentencepiece with a normalizer":
        encoder.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        encoder.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        scheme = "first" if kind == "metaspace first" else "always"
        encoder.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
        encoder.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if kind == "unigram":
        trainer: Any = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False)
    else:
        letters = pre_tokenizers.ByteLevel.alphabet() if kind == "byte level" else []
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=letters, show_progress=False)
    encoder.train_from_iterator(corpus, trainer)
    encoder.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS])
    if kind in ("byte level", "unigram"):
        return str(encoder.to_str())
    return _with_bytes(json.loads(encoder.to_str()), ignore_merges=kind.startswith("metaspace"))


def _with_bytes(made: dict[str, Any], *, ignore_merges: bool) -> str:
    """The same with a piece for every byte, as sentencepiece models have, and control tokens that a whole word could hit."""
    vocabulary = made["model"]["vocab"]
    moved = {token["content"]: token for token in made["added_tokens"] if token["content"] not in vocabulary}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for token in moved.values():
        token["id"] = vocabulary[token["content"]] = len(vocabulary)
    made["model"] |= {"byte_fallback": True, "fuse_unk": True, "ignore_merges": ignore_merges}
    made["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return json.dumps(made)
