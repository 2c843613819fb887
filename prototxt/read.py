"""Reading Caffe's text files, with errors that name the file and the line."""

import os
import re

from google.protobuf import text_format
from google.protobuf.message import Message

from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.files import read_ordinary, read_text
from prototxt.upgrade import upgrade_net, upgrade_solver


def read_net(path: str | os.PathLike) -> NetParameter:
    """Read a net's `.prototxt`, of any age, as the current form (`layer` entries only).

    Accepts what Caffe's reader accepts: comments, both quotes with escapes, `{` with and without `:`,
    enums by name or number, V0 and V1 `layers`, and `input` fields, upgraded as Caffe's
    `upgrade_proto.cpp` does. Rules (`include`, `exclude`) are kept: `plan_net` applies them.

    Raises:
        InputError: `path:line: what`, for a missing file, a syntax error, or an unknown field.
    """
    return parse_net(_text(path), where=os.fspath(path))


def parse_net(text: str, where: str = "prototxt") -> NetParameter:
    """As `read_net`, from text; `where` names it in errors."""
    net = NetParameter()
    _parse(text, net, where)
    return upgrade_net(net, where)


def read_solver(path: str | os.PathLike) -> SolverParameter:
    """Read a solver's `.prototxt`; `solver_type` becomes `type`, and `snapshot_prefix` is filled in.

    As in Caffe, a missing prefix is the solver's own path without its extension, and a prefix that is a
    folder gets the solver file's stem.

    Raises:
        InputError: `path:line: what`, for a missing file, a syntax error, or an unknown field.
    """
    solver = SolverParameter()
    _parse(_text(path), solver, os.fspath(path))
    return upgrade_solver(solver, os.fspath(path))


def layer_line(where: str, name: str, occurrence: int = 0) -> str:
    """`where:line` of the layer called `name` (its `occurrence`-th), or `where` if that cannot be told."""
    try:
        text = read_text(where, errors="replace")
    except OSError:
        return where
    lines = _lines_of_layers(text).get(name, [])
    return f"{where}:{lines[min(occurrence, len(lines) - 1)]}" if lines else where


def _text(path: str | os.PathLike) -> str:
    try:
        data = read_ordinary(path)
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror}): check the path") from error
    if b"\0" in data:
        raise InputError(f"{os.fspath(path)}: not a text file: a .prototxt is expected here, not weights")
    return data.decode(errors="replace")  # Caffe passes any bytes in comments and strings


def _parse(text: str, message: Message, where: str) -> None:
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        line = error.GetLine()
        place = f"{where}:{line}" if line else where
        what = (
            re.sub(r"^\d+:\d+ : ", "", str(error)).strip().replace("\n", " ").replace("caffe_prototxt.", "")
        )
        raise InputError(f"{place}: {what}") from error


_TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[{}<>]|[\w.+-]+|\n|\S')


def _lines_of_layers(text: str) -> dict[str, list[int]]:
    """The lines at which top-level `layer` and `layers` entries start, by layer name."""
    starts: dict[str, list[int]] = {}
    line, start = 1, 0
    key, path = "", []  # the last field name seen; the fields whose braces are open
    for token in _TOKEN.findall(text):
        if token == "\n":
            line += 1
        elif token in "{<":
            start = line if not path else start
            path.append(key)
        elif token in "}>":
            del path[-1:]
        elif token[0] in "\"'":
            if key == "name" and path in (["layer"], ["layers"], ["layers", "layer"]):
                starts.setdefault(token[1:-1], []).append(start)
        elif token[0].isalpha():
            key = token
    return starts
