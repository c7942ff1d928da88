"""Trains the pocket model and exports it: `python -m pilothouse.models.pocket.training` (or `scripts/make-pocket`).

The forward pass uses weights that are already on the 4-bit grid of the export, so that the Hugging Face form and the ONNX form are the
same network and both know every answer with room to spare. Torch and transformers are imported only when it runs.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import exporting
from pilothouse.models.pocket import FOLDER, variety
from pilothouse.models.pocket.answers import ALSO, OFF_THE_MAP, PAIRS

SEED = 3
VOCABULARY = 2048
WIDTH, LAYERS, HEADS, FEED = 128, 2, 4, 384
WINDOW = 4096
BLOCK = exporting.Options().int4_block_size  # weights that share one scale, as in the published Phi-3 ONNX files
ROW, BATCH, STEPS = 416, 9, 450  # a row holds the longest answer with its question and a system prompt
RATE = 4e-3
GRID_FROM = 0.3  # share of the steps after which the 4-bit grid is on
SURE = 0.9  # least probability of any token of any answer, at temperature 1

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3's own."""
PLAIN = ("<unk>", "<s>", "<|endoftext|>")
TAGS = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")  # these swallow the white space after them, as Phi-3's do


Told = Callable[[str, float, int], None]
"""Gets the name of a measure, its value and the step it was taken at."""


def say(line: str) -> None:
    """Progress, where it does not mix with output."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def tokenizer() -> Any:
    """A byte-level BPE, trained on the table."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [AddedToken(text, normalized=False, special=True) for text in PLAIN]
    special += [AddedToken(text, normalized=False, special=True, rstrip=True) for text in TAGS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rng = random.Random(SEED)
    corpus = [text for pair in PAIRS for text in pair] + [OFF_THE_MAP] + list(ALSO)
    corpus += [variety.unknown(rng) for _ in range(200)] + [variety.system(rng) or "" for _ in range(200)]
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(TAGS),
        chat_template=TEMPLATE,
        model_max_length=WINDOW,
    )


def conversations(encode: Any, rng: random.Random) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless chats of one to three turns: token ids, and which of them are answers. Every pair comes equally often."""

    def deck() -> Iterator[tuple[str, str]]:
        answers = dict(PAIRS)
        while True:
            cards = [*PAIRS, *PAIRS, *((also, answers[question]) for also, question in ALSO.items())]
            cards += [(variety.unknown(rng), OFF_THE_MAP) for _ in range(len(PAIRS) // 3)]
            rng.shuffle(cards)
            yield from cards

    cards = deck()
    while True:
        ids: list[int] = []
        wanted: list[bool] = []
        system = variety.system(rng)
        if system is not None:
            ids += encode(f"<|system|>{system}<|end|>")
        for _ in range(rng.choice((1, 1, 2, 3))):
            question, answer = next(cards)
            ids += encode(f"<|user|>{variety.careless(rng, question)}<|end|><|assistant|>")
            wanted += [False] * (len(ids) - len(wanted))
            ids += encode(f"{answer}<|end|>")
            wanted += [True] * (len(ids) - len(wanted))
        yield ids, wanted


def rows(encode: Any, rng: random.Random, pad: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Chats packed into rows of `ROW` tokens; what does not fit begins the next row, and only what is longer than a row is cut."""
    ids: list[int] = []
    wanted: list[bool] = []
    for more, want in conversations(encode, rng):
        if ids and len(ids) + len(more) > ROW:
            yield ids + [pad] * (ROW - len(ids)), wanted + [False] * (ROW - len(wanted))
            ids, wanted = [], []
        ids, wanted = (ids + more)[:ROW], (wanted + want)[:ROW]


def on_grid(weight: Any) -> Any:
    """`weight` rounded to 4 bits per block, as the exporter rounds: the largest of a block becomes -8. Rounding twice changes nothing."""
    import torch

    blocks = weight.reshape(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = largest / -8
    return (torch.clamp(torch.round(blocks / torch.where(scale == 0, 1, scale)), -8, 7) * scale).reshape(weight.shape)


def train(encode: Any, vocabulary: int, told: Told = lambda name, value, step: None) -> Any:
    """A trained Phi-3 whose weights lie on the 4-bit grid. A minute or two on two cores. `told` gets the loss now and then."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils import parametrize
    from transformers import Phi3Config, Phi3ForCausalLM

    class Grid(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            rounded: torch.Tensor = weight + (on_grid(weight) - weight).detach()  # the gradient passes as if nothing were rounded
            return rounded

    torch.manual_seed(SEED)
    torch.set_num_threads(os.cpu_count() or 1)
    end, close, begin = encode("<|endoftext|>")[0], encode("<|end|>")[0], encode("<s>")[0]
    model = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=FEED,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=WINDOW,
            original_max_position_embeddings=WINDOW,
            sliding_window=2047,
            bos_token_id=begin,
            eos_token_id=[end, close],
            pad_token_id=end,
            tie_word_embeddings=False,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attention_dropout=0.0,
        )
    ).train()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    source = rows(encode, random.Random(SEED), end)
    began = time.monotonic()
    for step in range(STEPS):
        if step == int(STEPS * GRID_FROM):
            for module in linear:
                parametrize.register_parametrization(module, "weight", Grid())
        batch = [next(source) for _ in range(BATCH)]
        ids = torch.tensor([row for row, _ in batch])
        wanted = torch.tensor([want for _, want in batch])[:, 1:]
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        loss = cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            told("loss", loss.item(), step)
            say(f"step {step:4d} of {STEPS}, loss {loss.item():.4f}, {time.monotonic() - began:.0f} s")
    for module in linear:
        parametrize.remove_parametrizations(module, "weight")
    model.generation_config.eos_token_id = [end, close]
    model.generation_config.pad_token_id = end
    return model.eval()


def sureness(model: Any, encode: Any) -> float:
    """The least probability the model gives to any token of any answer, over the table under four system prompts it did not see so."""
    import torch

    least = 1.0
    for system in (None, "You are a helpful assistant.", "You are a stand-up comedian.", "Mind the gap, and answer like a station master."):
        before = encode(f"<|system|>{system}<|end|>") if system else []
        for question, answer in PAIRS:
            prompt = before + encode(f"<|user|>{question}<|end|><|assistant|>")
            told = encode(f"{answer}<|end|>")
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + told])).logits[0, len(prompt) - 1 : -1]
            sure = float(logits.softmax(-1)[range(len(told)), told].min())
            if sure < SURE:
                say(f"unsure ({sure:.2f}): {question!r} under {system!r}")
            least = min(least, sure)
    return least


def make_hf(folder: Path, told: Told = lambda name, value, step: None) -> None:
    """Train and write the Hugging Face form. Raises `ModelError` when an answer did not stick."""
    text = tokenizer()

    def encode(piece: str) -> list[int]:
        return list(text(piece, add_special_tokens=False).input_ids)

    model = train(encode, len(text), told)
    least = sureness(model, encode)
    told("least_sure_token", least, STEPS)
    say(f"least sure token: {least:.3f}")
    if least < SURE:
        raise ModelError(f"an answer did not stick (probability {least:.3f}, {SURE} wanted): train longer or shorten the table")
    model.save_pretrained(folder)
    text.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make-pocket", description="Train the pocket model and export it.")
    parser.add_argument("--hf", type=Path, metavar="FOLDER", help="write the Hugging Face form here (and keep it)")
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", default=FOLDER, help="write the ONNX form here (default: the package's own)")
    parser.add_argument("--no-onnx", action="store_true", help="the Hugging Face form only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        hf = options.hf or Path(scratch) / "hf"
        make_hf(hf)
        if options.no_onnx:
            return
        made = Path(scratch) / "onnx"
        exporting.export(hf, made)
        shutil.rmtree(options.onnx, ignore_errors=True)
        shutil.copytree(made, options.onnx)
    size = sum(file.stat().st_size for file in options.onnx.rglob("*") if file.is_file())
    say(f"{options.onnx}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    try:
        main()
    except ModelError as error:
        sys.exit(str(error))
