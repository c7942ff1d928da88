"""What an ONNX file reads and holds, without the onnx package: a few lines of protobuf's wire format over a memory map.

An ONNX file may name any file of the machine as the place of its weights (`external_data`), and the runtimes open what it names.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ModelError

# Message types and the fields in which another message stands: ONNX's onnx.proto.
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
_DIMS, _DATA_TYPE, _NAME, _RAW, _EXTERNAL = 1, 2, 8, 9, 13  # of Tensor
_TYPES: dict[int, type[np.generic]] = {1: np.float32, 2: np.uint8, 7: np.int64, 10: np.float16}
_DEEPEST = 64  # graphs in graphs


def check(file: Path) -> None:
    """Every file that `file` reads lies beside or below it. Raises `ModelError` that names the file and the escaping location."""
    for location in sorted(external_files(file)):
        parts = PurePosixPath(location).parts
        if PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or "\\" in location or ".." in parts or not parts:
            raise ModelError(f"{file.name}: its external data {location!r} lies outside the model's folder; export the model again")
        if not (file.parent / location).is_file():
            raise ModelError(f"{file.name}: its external data {location!r} is missing; copy the whole folder")


def external_files(file: Path) -> set[str]:
    """The locations of external data that `file` names, as they stand there. Raises `ModelError` when it is no ONNX file."""
    with _opened(file) as data:
        return {_external(data, at)["location"] for at in _tensors(data, (0, len(data)), "Model", 0) if _external(data, at)}


def weights(file: Path) -> dict[str, NDArray[Any]]:
    """The named weights of `file` and of the external data beside it. Raises `ModelError` as `check` and `external_files` do."""
    check(file)
    found: dict[str, NDArray[Any]] = {}
    with _opened(file) as data:
        for at in _tensors(data, (0, len(data)), "Model", 0):
            fields = list(_fields(data, *at))
            name = next((bytes(data[a:b]).decode() for n, a, b in fields if n == _NAME), "")
            kind = next((a for n, a, b in fields if n == _DATA_TYPE and b < 0), 0)
            if not name or kind not in _TYPES:
                continue
            raw = next((bytes(data[a:b]) for n, a, b in fields if n == _RAW), b"")
            if place := _external(data, at):
                with (file.parent / place["location"]).open("rb") as beside:
                    beside.seek(int(place.get("offset", 0)))
                    raw = beside.read(int(place["length"]))
            found[name] = np.frombuffer(raw, _TYPES[kind]).reshape([a for n, a, b in fields if n == _DIMS and b < 0])
    return found


@contextmanager
def _opened(file: Path) -> Iterator[memoryview]:
    if file.stat().st_size == 0:
        raise ModelError(f"{file.name} is empty; copy the model again")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        try:
            yield data
        except (IndexError, ValueError, KeyError, RecursionError):
            raise ModelError(f"{file.name} is not a whole ONNX file; copy the model again") from None


def _tensors(data: memoryview, span: tuple[int, int], kind: str, depth: int) -> Iterator[tuple[int, int]]:
    """Where the tensors of the message of type `kind` at `span` stand; the weights themselves are stepped over."""
    if kind == "Tensor":
        yield span
        return
    if depth > _DEEPEST:
        raise RecursionError
    for number, first, last in _fields(data, *span):
        if last >= 0 and (inside := _INSIDE[kind].get(number)):
            yield from _tensors(data, (first, last), inside, depth + 1)


def _external(data: memoryview, tensor: tuple[int, int]) -> dict[str, str]:
    """The external data of a tensor: location, offset, length; empty when it carries its own."""
    found = {}
    for number, first, last in _fields(data, *tensor):
        if number == _EXTERNAL and last >= 0:
            entry = {n: bytes(data[a:b]).decode() for n, a, b in _fields(data, first, last) if b >= 0}
            found[entry.get(1, "")] = entry.get(2, "")
    return found | {"location": found.get("location", "")} if found else {}


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first, last) of each length-delimited field, (field number, value, -1) of each integer; other numbers are stepped over."""
    at = start
    while at < end:
        key, at = _varint(data, at, end)
        match key & 7:
            case 0:
                value, at = _varint(data, at, end)
                yield key >> 3, value, -1
            case 1:
                at += 8
            case 2:
                length, at = _varint(data, at, end)
                if at + length > end:
                    raise IndexError
                yield key >> 3, at, at + length
                at += length
            case 5:
                at += 4
            case _:
                raise ValueError("groups are not part of ONNX")
    if at != end:
        raise IndexError


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError
