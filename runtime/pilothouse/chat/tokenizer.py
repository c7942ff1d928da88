"""Text to token ids and back, from the model's own tokenizer.json, without transformers."""

import json
import secrets
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder

from pilothouse.chat.pieces import Pieces, steps_of
from pilothouse.errors import InvalidRequest, ModelError

_AGAIN = "export or fetch the model again"


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads: nothing that it says changes after it was made."""

    def __init__(self, source: str, *, config: dict[str, Any] | None = None, end_ids: Iterable[int] = ()) -> None:
        """`source` is the text of tokenizer.json, `config` tokenizer_config.json, `end_ids` the ids that close an answer.

        Raises `ModelError` where the source can't be read or its decoder is of an unknown kind.
        """
        self.source = source
        self.config = config or {}
        try:
            self._json: dict[str, Any] = json.loads(source)
            self._encoder = Encoder.from_str(source)
        except Exception:  # the library raises plain Exception
            raise ModelError(f"tokenizer.json can't be read by the tokenizers library; {_AGAIN}") from None
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self.added: dict[str, tuple[int, AddedToken]] = {
            token.content: (number, token) for number, token in self._encoder.get_added_tokens_decoder().items()
        }
        """Every added token by its text."""
        self.control: dict[str, tuple[int, AddedToken]] = {text: found for text, found in self.added.items() if _controls(found[1])}
        """Those that steer the model, which no client's text may become."""
        self._special = {number: text for text, (number, token) in self.added.items() if token.special}
        self.size: int = max([self._encoder.get_vocab_size(with_added_tokens=True), *(number + 1 for number, _ in self.added.values())])
        self.end_ids = frozenset(end_ids) or self._own_end()
        self._before, self._after = self._around()
        self._pieces = Pieces(self._json.get("decoder"))
        self._raw: dict[int, bytes] = {}  # of ids that were asked for: at most as many as there are
        self.whole: dict[int, str] = {}
        """The texts of those of them whose bytes are whole characters."""

    @classmethod
    def from_folder(cls, folder: Path, *, end_ids: Iterable[int] = ()) -> Self:
        """Read `folder`'s tokenizer.json and tokenizer_config.json; `end_ids` go before those of generation_config.json and
        genai_config.json there. Raises `ModelError` where a file is missing or broken."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json; {_AGAIN}")
        try:
            source = path.read_text(encoding="utf-8")
        except ValueError:
            raise ModelError(f"{path} is not UTF-8; {_AGAIN}") from None
        return cls(source, config=_read(folder / "tokenizer_config.json"), end_ids=frozenset(end_ids) or _end_ids(folder))

    def _own_end(self) -> frozenset[int]:
        """The tokenizer's own end token, where nothing else names one."""
        number = self._id_of("eos_token")
        return frozenset() if number is None else frozenset({number})

    def _id_of(self, name: str) -> int | None:
        """The id of a token that tokenizer_config.json names: as its text, or as a mapping that holds it."""
        token = self.config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return self._encoder.token_to_id(content) if isinstance(content, str) else None

    def _around(self) -> tuple[list[int], list[int]]:
        """The ids that the model wants before and after a raw text: tokenizer_config.json's word, else the post-processor's."""
        if "add_bos_token" in self.config or "add_eos_token" in self.config:
            sides = [self._id_of(f"{name}_token") if self.config.get(f"add_{name}_token") is True else None for name in ("bos", "eos")]
            return [i for i in sides[:1] if i is not None], [i for i in sides[1:] if i is not None]
        bare, full = self._encoder.encode("a", add_special_tokens=False).ids, self._encoder.encode("a").ids
        place = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[:place], full[place + len(bare) :]

    # -- text to ids -----------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """A raw prompt: control tokens in it are honoured, those the model wants around a text are added, but not one that is there.

        Raises `InvalidRequest` for text that is no Unicode.
        """
        bare = _ids(self._encoder, text)
        before = [] if bare[: len(self._before)] == self._before else self._before
        after = [] if self._after and bare[-len(self._after) :] == self._after else self._after
        return [*before, *bare, *after]

    def encode_plain(self, text: str, *, first: bool) -> list[int]:
        """Text that can't hold a control token, whatever it looks like. `first`: it stands at the very beginning of what the model reads."""
        return _ids(self._plain if first else self._plain_inside, text)

    @cached_property
    def _plain(self) -> Encoder:
        """The same tokenizer, with every control token renamed to what nobody can guess: its id is out of reach of any text."""
        nonce = secrets.token_hex(16)
        names = {text: f"{nonce}{number}" for text, (number, _) in self.control.items()}
        made = dict(self._json, post_processor=None, truncation=None, padding=None)
        made["added_tokens"] = [
            {**token, "content": names.get(token["content"], token["content"])} for token in self._json.get("added_tokens", [])
        ]
        model = made["model"] = dict(self._json["model"])
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
        else:  # Unigram: pieces with their scores
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
        if isinstance(model.get("unk_token"), str):
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
        return Encoder.from_str(json.dumps(made))

    @cached_property
    def _plain_inside(self) -> Encoder:
        """The same for text after the first token: a word boundary that is only set "first" is not set again."""
        inside = json.loads(self._plain.to_str())
        firsts = [part for part in steps_of(inside.get("pre_tokenizer"), "pretokenizers") if part.get("prepend_scheme") == "first"]
        if not firsts:
            return self._plain
        for part in firsts:
            part["prepend_scheme"] = "never"
        return Encoder.from_str(json.dumps(inside))

    # -- ids to text -----------------------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens: what a stream of them joins to."""
        stream = self.stream()
        return "".join([*(stream.step(number) for number in ids), stream.finish()])

    def stream(self) -> "TextStream":
        """A fresh incremental decoder, for one answer."""
        return TextStream(self)

    def is_special(self, token: int) -> bool:
        """Whether `token` is never shown."""
        return token in self._special

    def token_text(self, token: int) -> str:
        """One token as text, its leading space kept; special tokens by name, U+FFFD for a part of a character."""
        return self.token_bytes(token).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes, also where they are only a part of a character; none for an id without a token."""
        raw = self._raw.get(token)
        if raw is None:
            special, piece = self._special.get(token), self._encoder.id_to_token(token)
            raw = special.encode() if special is not None else b"" if piece is None else self._pieces.raw(piece)
            if piece is not None:
                self._raw[token] = raw
                if special is None:
                    with suppress(UnicodeDecodeError):
                        self.whole[token] = raw.decode()
        return raw

    @property
    def strips_first_space(self) -> bool:
        """Whether an answer's first space only marks its first word."""
        return self._pieces.strips_first_space


class TextStream:
    """Ids of one answer to text, in order, without ever showing half a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._whole = tokenizer.whole
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.strips_first_space
        self._plain = not self._strip  # nothing is open, and nothing is to be stripped

    def step(self, token: int) -> str:
        """The text that `token` completes, "" while a character is open."""
        if self._plain and (text := self._whole.get(token)):
            return text
        if self._tokenizer.is_special(token):
            return ""
        raw = self._tokenizer.token_bytes(token)
        if self._strip and raw:
            raw, self._strip = raw.removeprefix(b" "), False
        text = self._utf8.decode(raw)
        self._plain = not self._strip and not self._utf8.getstate()[0]
        return text

    def finish(self) -> str:
        """What is still held back, with U+FFFD for a character that never closed."""
        return self._utf8.decode(b"", final=True)


def _controls(token: AddedToken) -> bool:
    """Special tokens, and others that look like a tag (`<tool_call>`, `[INST]`). A word, a byte or a run of spaces steers nothing."""
    text = token.content.strip()
    return bool(token.special) or (len(text) > 2 and text[0] + text[-1] in ("<>", "[]") and not text.startswith("<0x"))


def _ids(encoder: Encoder, text: str) -> list[int]:
    try:
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
    except (TypeError, UnicodeEncodeError):  # the library's word for it differs by version
        raise InvalidRequest("the text has half a surrogate pair, which is no Unicode; send whole characters") from None
    return ids


def _read(path: Path) -> dict[str, Any]:
    """A JSON object in a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ModelError(f"{path} is not JSON; {_AGAIN}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object; {_AGAIN}")
    return value


def _end_ids(folder: Path) -> frozenset[int]:
    """The ids that close an answer, as the files beside the tokenizer say."""
    for holder in (_read(folder / "generation_config.json"), _read(folder / "genai_config.json").get("model")):
        found = holder.get("eos_token_id") if isinstance(holder, dict) else None
        ids = [number for number in (found if isinstance(found, list) else [found]) if type(number) is int]
        if ids:
            return frozenset(ids)
    return frozenset()
