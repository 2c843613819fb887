"""Messages as text, as the C++ protobuf library of Caffe's programs prints them."""

import re
import struct

from google.protobuf import text_format
from google.protobuf.message import Message

COMMENT = r"#[^\n]*"
QUOTED = r""""[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'"""
"""Patterns of tokens. (`(?:\\\\.|[^"])*` would take a hundred bytes of memory for each character.)"""

_UNKNOWN = re.compile(
    r'^( *)unknown \{\n *path: "([^"]*)"\n(?: *line: \d+\n)?(?: *text: "((?:\\.|[^"\\])*)"\n)? *\}$',
    re.MULTILINE,
)
_FLOAT = re.compile(r"^(\s*\w+: )(-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)$", re.MULTILINE)


def message_text(message: Message) -> str:
    """The message, a field a line. Floats have six significant digits, or nine where six are not exact.

    Fields that were set aside when it was read (prototxt/unknown.py) are as they stood there.
    """
    return _UNKNOWN.sub(_as_it_stood, _FLOAT.sub(_as_in_c, text_format.MessageToString(message)))


def _as_in_c(field: re.Match) -> str:
    name, text = field.groups()
    if "." not in text and "e" not in text:
        return field[0]  # an integer
    value, short = _float32(text), f"{_float32(text):.6g}"
    return name + (short if _float32(short) == value else f"{value:.9g}")


def _as_it_stood(entry: re.Match) -> str:
    indent, path, value = entry.groups(default="")
    *outer, name = path.split(".")
    value = value.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
    return indent + "".join(f"{x} {{ " for x in outer) + f"{name}: {value}" + " }" * len(outer)


def _float32(text: str) -> float:
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", float(text)))[0]
