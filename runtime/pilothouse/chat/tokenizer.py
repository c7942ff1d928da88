"""Text to token ids and back, from the model's own tokenizer.json, without transformers."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.decoders import DecodeStream

from pilothouse.errors import ModelError


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads: nothing of it changes after it was made."""

    def __init__(self, source: str, *, config: dict[str, Any] | None = None, end_ids: Iterable[int] = ()) -> None:
        """`source` is the text of tokenizer.json, `config` tokenizer_config.json, `end_ids` the ids that close an answer."""
        self.source = source
        self.config = config or {}
        try:
            self._encoder = Encoder.from_str(source)
        except Exception:  # the library raises plain Exception
            raise ModelError("tokenizer.json can't be read by the tokenizers library; export or fetch the model again") from None
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self.added: dict[str, tuple[int, AddedToken]] = {
            token.content: (number, token) for number, token in self._encoder.get_added_tokens_decoder().items()
        }
        self._named = {number: token.content for number, token in self._encoder.get_added_tokens_decoder().items()}
        self.size: int = max([self._encoder.get_vocab_size(with_added_tokens=True), *(number + 1 for number in self._named)])
        self.end_ids = frozenset(end_ids) or self._own_end()

    @classmethod
    def from_folder(cls, folder: Path, *, end_ids: Iterable[int] = ()) -> Self:
        """Read `folder`'s tokenizer.json and tokenizer_config.json. Raises `ModelError` where the first is missing or broken."""
        path, beside = folder / "tokenizer.json", folder / "tokenizer_config.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json; export or fetch the model again")
        try:
            config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        except ValueError:
            raise ModelError(f"{beside} is not JSON; export or fetch the model again") from None
        return cls(path.read_text(encoding="utf-8"), config=config, end_ids=end_ids)

    def _own_end(self) -> frozenset[int]:
        """The tokenizer's own end token, where nothing else names one."""
        number = self.id_of(self.config.get("eos_token"))
        return frozenset() if number is None else frozenset({number})

    def id_of(self, token: Any) -> int | None:
        """The id of a token as tokenizer_config.json spells it: its text, or a mapping that holds it."""
        content = token.get("content") if isinstance(token, dict) else token
        found = self._encoder.token_to_id(content) if isinstance(content, str) else None
        return int(found) if found is not None else None

    def encode(self, text: str) -> list[int]:
        """A raw prompt: control tokens in it are honoured, those the model wants around a text are added, a leading one never twice."""
        bare: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        full: list[int] = self._encoder.encode(text, add_special_tokens=True).ids
        lead = len(full) - len(bare)
        return bare if lead > 0 and bare[:lead] == full[:lead] else full

    def encode_plain(self, text: str, *, first: bool) -> list[int]:
        """Text that holds no control token, whatever it looks like. `first`: it stands at the very beginning."""
        encoder = self._plain if first else self._plain_inside
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _plain(self) -> Encoder:
        """The same tokenizer with no added tokens: nothing can be one."""
        plain = json.loads(self.source)
        plain["added_tokens"] = []
        plain["post_processor"] = None
        plain["truncation"] = plain["padding"] = None
        return Encoder.from_str(json.dumps(plain))

    @cached_property
    def _plain_inside(self) -> Encoder:
        """The same for text after the first token: a word boundary that is only set "first" is not set again."""
        inside = json.loads(self._plain.to_str())
        for part in _metaspaces(inside.get("pre_tokenizer")):
            if part.get("prepend_scheme") == "first":
                part["prepend_scheme"] = "never"
        return Encoder.from_str(json.dumps(inside))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without control tokens."""
        text: str = self._encoder.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self) -> "TextStream":
        """A fresh incremental decoder."""
        return TextStream(self._encoder)

    def token_text(self, token: int) -> str:
        """One token as text, special tokens by name, U+FFFD for a part of a character."""
        if token in self._named:
            return self._named[token]
        text: str = self._encoder.decode([token], skip_special_tokens=False)
        return text

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes, also where they are only a part of a character."""
        if token in self._named:
            return self._named[token].encode()
        piece = self._encoder.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return bytes(_BYTES[character] for character in piece if character in _BYTES)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("▁", " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self.source).get("decoder"))


class TextStream:
    """Ids of one answer to text, in order; joined, it is what `Tokenizer.decode` gives."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._shown = 0

    def step(self, token: int) -> str:
        """The text that `token` completes, "" while a character is open."""
        self._ids.append(token)
        text = self._stream.step(self._encoder, token) or ""
        self._shown += len(text)
        return text

    def finish(self) -> str:
        """What is still held back, with U+FFFD for a character that never closed."""
        whole: str = self._encoder.decode(self._ids, skip_special_tokens=True)
        rest, self._shown = whole[self._shown :], len(whole)
        return rest


def _metaspaces(part: Any) -> list[dict[str, Any]]:
    """The Metaspace steps of a pre-tokenizer, also inside a sequence."""
    if not isinstance(part, dict):
        return []
    if part.get("type") == "Sequence":
        return [found for inner in part.get("pretokenizers", []) for found in _metaspaces(inner)]
    return [part] if part.get("type") == "Metaspace" else []


def _byte_table() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTES = _byte_table()
