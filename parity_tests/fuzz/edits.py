"""Breaking a file: a case is a list of edits, plain numbers, so that it can be kept, drawn anew and cut down."""

import random
import re
from collections.abc import Sequence

from hypothesis import strategies as st

Edit = tuple[int, int, int]
"""(kind, place, value), each from 0 to 2³² - 1 and taken modulo what there is."""

LARGEST = (1 << 32) - 1
_NUMBERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    (1 << 31) - 1,
    1 << 31,
    LARGEST,
    1 << 40,
    (1 << 63) - 1,
)
_WORDS = (
    "0", "1", "-1", "2147483647", "4294967295", "-2147483648", "1e38", "nan", "inf", "{", "}", "[", "]", ":", '"', "''",
    '"\\n"', '"\\000"', '"\\033[2J"', '"/dev/zero"', '"."', "true", "TEST", "TRAIN", "dim", "group", "stride", "axis",
    "kernel_size", "num_output", "top", "bottom", "name", "type", "layer", "param", "..", "\0", "\xff", " ", "\n",
)  # fmt: skip


def draw_edits(source: random.Random) -> list[Edit]:
    return [
        tuple(source.randrange(1 << 32) for _ in range(3))
        for _ in range(source.choice((1, 1, 1, 2, 3, 5, 10)))
    ]


EDITS = st.lists(st.tuples(*[st.integers(0, LARGEST)] * 3), min_size=1, max_size=8)
"""The same, as hypothesis draws and shrinks them."""


def broken(data: bytes, edits: Sequence[Edit], is_text: bool) -> bytes:
    """`data` with the edits made one after the other."""
    for kind, place, value in edits:
        data = (
            _edit_text(data, kind, place, value)
            if is_text and kind % 4
            else _edit_bytes(data, kind, place, value)
        )
    return data


def _edit_bytes(data: bytes, kind: int, place: int, value: int) -> bytes:
    size = len(data)
    if not size:
        return bytes([value & 255])
    # Every second edit near the start, where headers are.
    at = place % (min(size, 600) if kind & 1 else size)
    length = 1 + value % 64
    number = _NUMBERS[value % len(_NUMBERS)]
    width = (1, 2, 4, 8)[(value >> 8) % 4]
    edits = (
        lambda: data[:at] + bytes([data[at] ^ 1 << value % 8]) + data[at + 1 :],
        lambda: data[:at] + bytes([value & 255]) + data[at + 1 :],
        lambda: data[:at] + (number & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :],
        lambda: data[:at] + (number & (1 << 8 * width) - 1).to_bytes(width, "big") + data[at + width :],
        lambda: data[:at],
        lambda: data[:at] + data[at + length :],
        lambda: data[: at + length] + data[at:],
        lambda: data[:at] + bytes([value & 255]) * length + data[at:],
        lambda: data[:at] + data[value % size : value % size + length] + data[at + length :],
    )
    return edits[(kind >> 1) % len(edits)]()


_TOKEN = re.compile(rb'"[^"\n]*"|\'[^\'\n]*\'|[\w.+-]+|\s+|[^\w\s]')


def _edit_text(data: bytes, kind: int, place: int, value: int) -> bytes:
    tokens = _TOKEN.findall(data)
    if not tokens:
        return _WORDS[value % len(_WORDS)].encode()
    at, other = place % len(tokens), value % len(tokens)
    word = _WORDS[value % len(_WORDS)].encode("latin-1")
    edits = (
        lambda: [*tokens[:at], word, *tokens[at + 1 :]],
        lambda: [*tokens[:at], tokens[other], *tokens[at + 1 :]],
        lambda: [*tokens[:at], *tokens[at + 1 :]],
        lambda: [*tokens[:at], *tokens[at + value % 40 :]],
        lambda: [*tokens[: at + value % 40], *tokens[at:]],
        lambda: [*tokens[:at], b" ", word, b" ", *tokens[at:]],
        lambda: [token if token != tokens[at] else word for token in tokens],
    )
    return b"".join(edits[(kind >> 2) % len(edits)]())
