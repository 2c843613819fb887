"""Protobuf messages that hold weights: read in place, written in pieces.

The protobuf library copies each number into its message and out again. Here a message is only cut into
fields; the library parses what is small, and the numbers stay where they are in the file.
"""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from prototxt.caffe_pb2 import BlobProto, BlobShape
from prototxt.errors import InputError
from weights.files import atomic_path

MAX_FILE_BYTES = 2**31 - 1  # Caffe reads protobuf files up to here
MAX_AXES = 32  # of a Caffe blob
MAX_TAKEN = 1 << 18  # layers of a net, blobs of a layer: more are no net's, and cost memory for nothing
MAX_HEADER = (
    1 << 22
)  # bytes of a net or a layer besides its weights: protobuf makes up to 20 times as many of them

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_CHUNK = 1 << 23

Pieces = list[bytes | memoryview]


class WireError(ValueError):
    """The bytes are no message of this kind."""


def field_number(message: type[Message], name: str) -> int:
    return message.DESCRIPTOR.fields_by_name[name].number


_DATA, _DIFF = field_number(BlobProto, "data"), field_number(BlobProto, "diff")
_DOUBLE_DATA, _DOUBLE_DIFF = field_number(BlobProto, "double_data"), field_number(BlobProto, "double_diff")


def take(
    message: memoryview,
    numbers: Collection[int],
    keep: Collection[int] | None = None,
    most: int = MAX_FILE_BYTES,
) -> tuple[bytes, list[tuple[int, memoryview]]]:
    """Take the length-delimited fields `numbers` out of a message.

    Args:
        keep: the fields that the rest is made of; None: all others.
        most: bytes that the rest may have.

    Returns:
        The rest of the message, serialised, and (field number, contents) of each field taken, as views.

    Raises:
        WireError: where the message ends in the middle of a field or is no protobuf; for too large a rest.
    """
    rest = bytearray()
    taken: list = []
    for number, wire_type, start, content, stop in _fields(message):
        if number in numbers and wire_type == _LENGTH:
            if len(taken) == MAX_TAKEN:
                raise WireError(f"field {number} is there more than {MAX_TAKEN:,} times")
            taken.append((number, message[content:stop]))
        elif keep is None or number in keep:
            rest += message[start:stop]
            if len(rest) > most:
                raise WireError(f"more than {most} bytes besides the weights, which no net of Caffe's has")
    return bytes(rest), taken


def text_of(field: str | bytes) -> str:
    """A text field. Protobuf gives bytes where they are not UTF-8; prototxts are read with the same replacements."""
    return field.decode(errors="replace") if isinstance(field, bytes) else field


def split(message: bytes, number: int) -> tuple[bytes, bytes]:
    """The fields of a message that come before field `number`, and the others."""
    before, after = bytearray(), bytearray()
    for field, _, start, _, stop in _fields(memoryview(message)):
        (before if field < number else after).extend(message[start:stop])
    return bytes(before), bytes(after)


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Number and wire type of each field, and where it starts, its contents start, and it stops."""
    stop = 0
    while stop < len(message):
        start = stop
        key, stop = _read_varint(message, start)
        number, wire_type = key >> 3, key & 7
        content = stop
        if wire_type == _VARINT:
            stop = _read_varint(message, stop)[1]
        elif wire_type == _LENGTH:
            length, content = _read_varint(message, stop)
            stop = content + length
        elif wire_type in (_FIXED32, _FIXED64):
            stop += 4 if wire_type == _FIXED32 else 8
        else:
            raise WireError(f"field {number} is of wire type {wire_type}, which Caffe's files never use")
        if not 1 <= number < 1 << 29:
            raise WireError(f"field number {number} is not possible")
        if stop > len(message):
            raise WireError(f"a field ends {stop - len(message)} bytes after the end")
        yield number, wire_type, start, content, stop


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise WireError("the end comes in the middle of a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number is longer than 10 bytes")


# ---- Blobs


def read_blob(message: memoryview) -> tuple[np.ndarray, bool]:
    """The array of a BlobProto, by the rules of Caffe's Blob::FromProto (blob.cpp).

    Returns:
        A float32 or float64 array, as stored: a read-only view of `message` where the numbers are one
        packed run, as Caffe writes them, a copy otherwise. And whether its shape was given by the older
        num, channels, height and width: it then has four axes; or five, of C3D 1.0, which has a length too.

    Raises:
        WireError: where shape and numbers do not fit together.
        google.protobuf.message.DecodeError: where the rest of the message is broken.
    """
    if any(number == _DATA and wire_type == _VARINT for number, wire_type, *_ in _fields(message)):
        return _read_c3d_blob(message), True
    rest, runs = take(message, (_DATA, _DIFF, _DOUBLE_DATA, _DOUBLE_DIFF))
    header = BlobProto.FromString(rest)
    legacy = any(header.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (header.num, header.channels, header.height, header.width) if legacy else tuple(header.shape.dim)
    if len(shape) > MAX_AXES or min(shape, default=0) < 0:
        raise WireError(f"a blob cannot have the shape {shape}")
    flat = _numbers(message, header, runs)
    if flat.size != math.prod(shape):
        raise WireError(f"a blob of shape {shape} holds {flat.size} numbers")
    try:
        return flat.reshape(shape), legacy
    except ValueError as error:  # no numbers, but axes too long for NumPy
        raise WireError(f"a blob cannot have the shape {shape}") from error


def _read_c3d_blob(message: memoryview) -> np.ndarray:
    """A blob of C3D 1.0, whose field 5 is the width, not the data: num, channels, length, height, width, data."""
    shape = [0] * 5
    for number, wire_type, _, content, _ in _fields(message):
        if wire_type == _VARINT and 1 <= number <= 5:
            shape[number - 1], _ = _read_varint(message, content)
    _, runs = take(message, (6,))
    if len(runs) > 1 or any(len(run) % 4 for _, run in runs):
        raise WireError("a blob of C3D 1.0 holds its numbers in one run of float32")
    flat = np.frombuffer(runs[0][1], "<f4") if runs else np.empty(0, "<f4")
    if flat.size != math.prod(shape):
        raise WireError(f"a blob of shape {tuple(shape)} holds {flat.size} numbers")
    return flat.reshape(shape)


def _numbers(message: memoryview, header: BlobProto, runs: list[tuple[int, memoryview]]) -> np.ndarray:
    doubles = [run for number, run in runs if number == _DOUBLE_DATA and len(run)]
    floats = [run for number, run in runs if number == _DATA and len(run)]
    unpacked = len(header.data) + len(header.double_data)
    if unpacked or len(doubles) > 1 or (len(floats) > 1 and not doubles):
        blob = BlobProto.FromString(bytes(message))
        if blob.double_data:
            return np.array(blob.double_data, np.float64)
        return np.array(blob.data, np.float32)
    dtype = np.dtype("<f8" if doubles else "<f4")
    found = doubles or floats
    if not found:
        return np.empty(0, dtype)
    if len(found[0]) % dtype.itemsize:
        raise WireError(f"{len(found[0])} bytes are no whole number of {dtype.name} numbers")
    return np.frombuffer(found[0], dtype)


def blob_pieces(blob: np.ndarray, four_numbers: bool = False) -> Pieces:
    """A BlobProto in pieces, with the bytes that Caffe's Blob::ToProto gives; the numbers are not copied.

    Args:
        blob: float32 (stored as `data`) or float64 (`double_data`), any shape.
        four_numbers: write the older num, channels, height and width; `blob` then has four axes.
    """
    if four_numbers:
        num, channels, height, width = blob.shape
        shape = BlobProto(num=num, channels=channels, height=height, width=width).SerializeToString()
    elif blob.ndim:
        shape = BlobProto(shape=BlobShape(dim=blob.shape)).SerializeToString()
    else:
        shape = b""
    double = blob.dtype.itemsize == 8
    numbers = length_delimited(_DOUBLE_DATA if double else _DATA, [raw_bytes(blob)]) if blob.size else []
    # Fields go in the order of their numbers: num, …, width; data; shape; double_data.
    return [shape, *numbers] if four_numbers or double else [*numbers, shape]


def raw_bytes(blob: np.ndarray) -> memoryview:
    """The numbers of an array, little-endian and in C order; a view wherever they lie so already."""
    little = np.ascontiguousarray(blob, blob.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


# ---- Writing


def length_delimited(number: int, pieces: Pieces) -> Pieces:
    """A field whose contents are `pieces`."""
    return [_varint(number << 3 | _LENGTH) + _varint(sum(map(len, pieces))), *pieces]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_message(
    path: str | os.PathLike,
    pieces: Pieces,
    progress: Callable[[int], None] | None = None,
    *,
    sync: bool = False,
) -> None:
    """Write a file that is one message.

    Raises:
        InputError: where it cannot be written or is larger than 2 GB, which Caffe refuses to read.
    """
    size = sum(map(len, pieces))
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: {size} bytes are more than the 2 GB that Caffe reads: write .h5")
    with atomic_path(path, sync=sync) as beside:
        write_pieces(beside, pieces, progress)


def write_pieces(
    path: Path, pieces: Iterable[bytes | memoryview], progress: Callable[[int], None] | None
) -> None:
    """Write one piece after the other into an empty file; `progress` is told of each run of weight bytes."""
    # Not "wb": a file that was truncated, even from nothing, ext4 writes out to disk when it is closed.
    with path.open("r+b") as file:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
                continue
            for start in range(0, len(piece), _CHUNK):
                written = file.write(piece[start : start + _CHUNK])
                if progress:
                    progress(written)
