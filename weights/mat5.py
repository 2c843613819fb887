"""How much a MATLAB file of version 5 would unpack, before anything of it is read."""

import os
import struct
import zlib

from weights.opening import check_unpacked, map_file

_HEADER = 128
_COMPRESSED = 15
_STEP = 1 << 20


def check_mat(path: str | os.PathLike) -> None:
    """Look at the compressed parts of the file, of which each array may be one.

    Raises:
        InputError: as `weights.opening.map_file`.
        ValueError: a file that would unpack to far more than it has; damaged compressed data.
    """
    data = map_file(path)
    order = ">" if bytes(data[126:128]) == b"MI" else "<"
    place, size = _HEADER, 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        place += 8
        if kind == _COMPRESSED:
            size += _unpacked(path, data[place : place + length], size)
        place += length


def _unpacked(path: str | os.PathLike, data: memoryview, before: int) -> int:
    """The bytes that these unpack to; they are thrown away."""
    try:
        unpacker, size = zlib.decompressobj(), 0
        rest: bytes | memoryview = data
        while rest and not unpacker.eof:
            size += len(unpacker.decompress(rest, _STEP))
            rest = unpacker.unconsumed_tail
            check_unpacked(path, before + size)
        return size
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error
