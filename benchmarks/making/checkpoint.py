"""A seeded Phi-3 checkpoint of Phi-3-mini's width with random weights: python checkpoint.py LAYERS FOLDER

What kernels cost does not depend on the numbers, as long as they are numbers: normal, 0.02 wide, norms 1.
"""

import sys
from pathlib import Path

import tokenizer
import torch
import transformers


def make(layers: int, folder: Path) -> None:
    """Write it in bfloat16: 1.3 GB at 4 layers, 7.6 at 32."""
    config = transformers.Phi3Config(
        vocab_size=tokenizer.SIZE, hidden_size=3072, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, original_max_position_embeddings=4096, sliding_window=2047,
        bos_token_id=1, eos_token_id=list(tokenizer.END), pad_token_id=32000, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = transformers.Phi3ForCausalLM(config)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                few = torch.randn(1 << 20, dtype=torch.bfloat16) * 0.02  # repeated: rows differ, for their length is no part of it
                parameter.view(-1).copy_(few.repeat((parameter.numel() >> 20) + 1)[: parameter.numel()])
    model.save_pretrained(folder)
    tokenizer.write(folder)


if __name__ == "__main__":
    make(int(sys.argv[1]), Path(sys.argv[2]))
