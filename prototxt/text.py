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

    Fields that were set aside when it was read (prototxt/unknown.py) are as they stood there. One that stood in a
    message of which there are several, such as the second `include`, is a comment: where it stood is not known.
    """
    text = _FLOAT.sub(_as_in_c, text_format.MessageToString(message))
    lines: list[str] = []
    place = 0
    for entry in _UNKNOWN.finditer(text):
        lines += text[place : entry.start()].splitlines()
        place = entry.end() + 1
        _put(lines, *entry.groups(default=""))
    return "".join(f"{line}\n" for line in lines) + text[place:]


def _as_in_c(field: re.Match) -> str:
    name, text = field.groups()
    if "." not in text and "e" not in text:
        return field[0]  # an integer
    value, short = _float32(text), f"{_float32(text):.6g}"
    return name + (short if _float32(short) == value else f"{value:.9g}")


def _put(lines: list[str], indent: str, path: str, value: str) -> None:
    """Put a field that was set aside into the message whose lines these are, up to its end."""
    *outer, name = path.split(".")
    value = value.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
    start, stop, inner = len(lines), len(lines), indent
    while start and lines[start - 1].startswith(indent):
        start -= 1
    for field in outer:
        blocks = [i for i in range(start, stop) if lines[i] == f"{inner}{field} {{"]
        if len(blocks) != 1:
            lines.append(f"{indent}# {path}: {value}")
            return
        start = blocks[0] + 1
        stop = lines.index(f"{inner}}}", start)
        inner += "  "
    lines.insert(stop, f"{inner}{name}: {value}")


def _float32(text: str) -> float:
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", float(text)))[0]
