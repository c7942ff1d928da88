"""How a tokenizer writes its pieces, and the bytes each of them stands for: byte-level's alphabet, or sentencepiece's marks."""

from typing import Any

from pilothouse.errors import ModelError

_SENTENCEPIECE = {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
_WORD = "▁"  # how sentencepiece writes a space


class Pieces:
    """Reads pieces of one tokenizer. `strips_first_space`: an answer's first space only marks its first word."""

    def __init__(self, decoder: Any) -> None:
        """`decoder` is that of tokenizer.json. Raises `ModelError` for a kind that is not served."""
        steps = steps_of(decoder, "decoders")
        kinds = {step.get("type") for step in steps}
        self._byte_level = kinds == {"ByteLevel"}
        if not self._byte_level and not (kinds and kinds <= _SENTENCEPIECE):
            shown = ", ".join(sorted(map(str, kinds))) or "none"
            raise ModelError(f"tokenizer.json has a decoder of a kind that is not served ({shown}): ByteLevel and sentencepiece's are")
        self.strips_first_space = any(
            (step["type"] == "Strip" and step.get("content") == " " and step.get("start", 0) > 0)
            or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in steps
        )

    def raw(self, piece: str) -> bytes:
        """The bytes of a piece, also where they are only a part of a character."""
        if self._byte_level:
            return bytes(_BYTES[character] for character in piece) if all(c in _BYTES for c in piece) else piece.encode()
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_WORD, " ").encode()


def steps_of(part: Any, inside: str) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or decoder, those of sequences (which keep them under `inside`) one by one."""
    if not isinstance(part, dict):
        return []
    if part.get("type") == "Sequence":
        return [found for inner in part.get(inside, []) for found in steps_of(inner, inside)]
    return [part]


def _byte_table() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTES = _byte_table()
