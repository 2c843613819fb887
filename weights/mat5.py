"""MATLAB's files of version 5 (`save -v6`, `-v7`), read by our own reader: SciPy's ends its process on damaged ones."""

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from weights.opening import check_unpacked, map_file

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELLS, _STRUCTS, _TEXT = 1, 2, 4
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Class of an array → its dtype."""
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element → its dtype. Whole numbers are often stored in fewer bytes than their array has."""
_CODES = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_ENDS = {"<": "-le", ">": "-be"}
_COMPLEX = 1 << 11
_MOST_AXES = 32
_DEEPEST = 20  # arrays within arrays
_STEP = 1 << 20

Elements = Iterator[tuple[int, memoryview]]
"""(type, data) of elements, one after the other."""


def read_mat5(path: str | os.PathLike, names: Collection[str] | None = None) -> dict[str, Any]:
    """The arrays of a MATLAB file, those called `names` or all.

    An array of numbers is a NumPy array of its shape and type; text is a str, column after column; a cell array is an
    object array of such; a struct array is an object array of dicts.

    Raises:
        InputError: as `weights.opening.map_file`.
        ValueError: a file of another version, damaged, or with what is not supported (complex numbers, sparse
            arrays, objects); one that would unpack to far more than it has.
    """
    data = map_file(path)
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]), "")
    if not order or data[125 if order == "<" else 124] != 1:
        raise ValueError("not of MATLAB's version 5: save it with -v6 or -v7")
    found: dict[str, Any] = {}
    try:
        for element in _matrices(path, data, order):
            parts = _elements(element, order)
            kind, shape, name = _head(parts, order)
            if names is None or name in names:
                found[name] = _value(kind, shape, parts, len(element), order, 0)
    except (struct.error, zlib.error, StopIteration, LookupError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    return found


def _matrices(path: str | os.PathLike, data: memoryview, order: str) -> Iterator[memoryview]:
    unpacked = 0
    for kind, element in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            element = _unpack(path, element, unpacked)
            unpacked += len(element)
            for inner, found in _elements(element, order):
                if inner == _MATRIX:
                    yield found
        elif kind == _MATRIX:
            yield element


def _elements(data: memoryview, order: str) -> Elements:
    """Type, size, data, filled up to the next 8 bytes; or all of that in 8 bytes."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + size > len(data):
            raise ValueError("it is cut off")
        yield kind, data[start : start + size]
        place = start + size if kind == _COMPRESSED else (start + size + 7) // 8 * 8


def _unpack(path: str | os.PathLike, data: memoryview, before: int) -> memoryview:
    unpacker, parts = zlib.decompressobj(), bytearray()
    rest: bytes | memoryview = data
    while rest and not unpacker.eof:
        parts += unpacker.decompress(rest, _STEP)
        rest = unpacker.unconsumed_tail
        check_unpacked(path, before + len(parts))
    return memoryview(parts)


def _head(parts: Elements, order: str) -> tuple[int, tuple[int, ...], str]:
    """An array's class, shape and name."""
    (_, flags), (_, sizes), (_, name) = next(parts), next(parts), next(parts)
    flag = struct.unpack_from(f"{order}I", flags)[0]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape[:_MOST_AXES]}")
    return -1 if flag & _COMPLEX else flag & 0xFF, shape, bytes(name).decode(errors="replace")


def _value(
    kind: int, shape: tuple[int, ...], parts: Elements, room: int, order: str, depth: int
) -> np.ndarray | str:
    """An array's value. `room`: the bytes that it has, in which its cells must lie."""
    if kind in _NUMBERS:
        stored, data = next(parts)
        numbers = np.frombuffer(data, f"{order}{_STORED[stored]}")
        return numbers.astype(_NUMBERS[kind], copy=False).reshape(shape, order="F")
    if kind == _TEXT:
        stored, data = next(parts, (1, memoryview(b"")))
        return bytes(data).decode(_CODES[stored] + (_ENDS[order] if _CODES[stored] != "utf-8" else ""))
    if kind not in (_CELLS, _STRUCTS) or depth == _DEEPEST:
        raise ValueError("an array of a kind that is not supported")
    count = math.prod(shape)
    if count > room // 8:
        raise ValueError(f"{count} cells in {room} bytes")
    fields = _fields(parts, order) if kind == _STRUCTS else []
    cells = np.empty(count, object)
    for i in range(count):
        if kind == _CELLS:
            cells[i] = _cell(parts, order, depth)
        else:
            cells[i] = {field: _cell(parts, order, depth) for field in fields}
    return cells.reshape(shape, order="F")


def _fields(parts: Elements, order: str) -> list[str]:
    (_, length), (_, names) = next(parts), next(parts)
    step = struct.unpack_from(f"{order}i", length)[0]
    if step < 1:
        raise ValueError(f"field names of {step} bytes")
    return [
        bytes(names[i : i + step]).split(b"\0")[0].decode(errors="replace")
        for i in range(0, len(names), step)
    ]


def _cell(parts: Elements, order: str, depth: int) -> np.ndarray | str:
    stored, data = next(parts)
    if stored != _MATRIX:
        raise ValueError(f"an element of type {stored} for a cell")
    if not data:
        return np.empty((0, 0))
    inner = _elements(data, order)
    kind, shape, _ = _head(inner, order)
    return _value(kind, shape, inner, len(data), order, depth + 1)
