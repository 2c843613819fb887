"""Reading Caffe's text files, with errors that name the file and the line."""

import os
import re

from google.protobuf import text_format
from google.protobuf.message import Message

from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.files import read_ordinary, read_text
from prototxt.text import COMMENT, QUOTED
from prototxt.unknown import SetAside, descriptor_of, set_aside
from prototxt.upgrade import upgrade_net, upgrade_solver

MAX_LAYERS = 1 << 16
"""Layers of a net's text: each takes some kilobytes, where eight characters ask for one."""


def read_net(path: str | os.PathLike) -> NetParameter:
    """Read a net's `.prototxt`, of any age, as the current form (`layer` entries only).

    Accepts what Caffe's reader accepts: comments, both quotes with escapes, `{` with and without `:`,
    enums by name or number, V0 and V1 `layers`, and `input` fields, upgraded as Caffe's
    `upgrade_proto.cpp` does. Rules (`include`, `exclude`) are kept: `plan_net` applies them.
    A field or an enum value that the schema lacks is set aside in its layer's (its net's) `unknown`: it
    stops only who needs that layer (prototxt/unknown.py).

    Raises:
        InputError: `path:line: what`, for a missing file, a syntax error, or a solver in a net's place.
    """
    return parse_net(_text(path), where=os.fspath(path))


def read_net_as_it_is(path: str | os.PathLike) -> NetParameter:
    """As `read_net`, but not upgraded."""
    return _net_as_it_is(_text(path), os.fspath(path))


def parse_net(text: str, where: str = "prototxt") -> NetParameter:
    """As `read_net`, from text; `where` names it in errors."""
    return upgrade_net(_net_as_it_is(text, where), where)


def _net_as_it_is(text: str, where: str) -> NetParameter:
    text, aside, entries = set_aside(text, descriptor_of(NetParameter))
    if sum(entries.get(name, 0) for name in ("layer", "layers")) > MAX_LAYERS:
        raise InputError(f"{where}: has more than {MAX_LAYERS} layers: that is no net of Caffe's")
    if not any(key in text for key in ("layer", "input")):
        _refuse_solver(aside, where)
    net = NetParameter()
    _parse(text, net, where)
    for found in aside:
        _remember(net, found)
    return net


def read_solver(path: str | os.PathLike) -> SolverParameter:
    """Read a solver's `.prototxt`; `solver_type` becomes `type`, and `snapshot_prefix` is filled in.

    As in Caffe, a missing prefix is the solver's own path without its extension, and a prefix that is a
    folder gets the solver file's stem.

    Raises:
        InputError: `path:line: what`, for a missing file, a syntax error, or an unknown field.
    """
    return upgrade_solver(read_solver_as_it_is(path), os.fspath(path))


def read_solver_as_it_is(path: str | os.PathLike) -> SolverParameter:
    """As `read_solver`, but not upgraded, and with the snapshot prefix that is written there, if any."""
    text = _text(path)
    _refuse_net(text, os.fspath(path))
    solver = SolverParameter()
    _parse(text, solver, os.fspath(path))
    return solver


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


_SPACES = re.compile(rf"({COMMENT}|{QUOTED})|[^\S\n]{{2,}}")


def _parse(text: str, message: Message, where: str) -> None:
    text = _SPACES.sub(r"\1 ", text)  # protobuf's own pattern takes a hundred bytes for each space of a run
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        line = error.GetLine()
        place = f"{where}:{line}" if line else where
        what = (
            re.sub(r"^\d+:\d+ : ", "", str(error)).strip().replace("\n", " ").replace("caffe_prototxt.", "")
        )
        lines = text.split("\n")  # as protobuf counts them; it may tell one behind the last
        blank = re.search(r"\$\{?\w+[}$]?", lines[line - 1]) if line and line <= len(lines) else None
        if blank:
            what = f"{blank[0]} stands for a value: this is a template, put the value there"
        raise InputError(f"{place}: {what}") from error


def _remember(net: NetParameter, found: SetAside) -> None:
    """Keep what was set aside with the layer that it stood in, or with the net."""
    top, *inner = found.path
    owner = getattr(net, top)[found.entry] if top in ("layer", "layers") and inner else net
    path = inner if owner is not net else found.path
    owner.unknown.add(path=".".join(path), line=found.line, text=found.value)


def _refuse_solver(aside: list[SetAside], where: str) -> None:
    """Say so where a file without layers holds a solver's fields."""
    known = [x for x in aside if x.path[0] in SolverParameter.DESCRIPTOR.fields_by_name]
    if known:
        nets = [x.value.strip("\"'") for x in known if x.path[0] in ("net", "train_net", "test_net")]
        named = f": its net is {nets[0]}" if nets else ""
        raise InputError(f"{where}:{known[0].line}: this is a solver, a net is expected here{named}")


def _refuse_net(text: str, where: str) -> None:
    """Say so where a solver is expected and layers are found."""
    _, aside, _ = set_aside(text, descriptor_of(SolverParameter))
    layers = [x for x in aside if x.path in (("layer",), ("layers",))]
    if layers:
        raise InputError(f"{where}:{layers[0].line}: this is a net, a solver is expected here")


_TOKEN = re.compile(rf"{COMMENT}|{QUOTED}|[{{}}<>]|[\w.+-]+|\n|\S")


def _lines_of_layers(text: str) -> dict[str, list[int]]:
    """The lines at which top-level `layer` and `layers` entries start, by layer name."""
    starts: dict[str, list[int]] = {}
    line, start = 1, 0
    path: list[str] = []
    key, named = "", False  # the last field name seen; the fields whose braces are open
    for token in (match[0] for match in _TOKEN.finditer(text)):
        if token == "\n":
            line += 1
        elif token in "{<":
            if not path:
                start, named = line, False
            path.append(key)
        elif token in "}>":
            if path in (["layer"], ["layers"]) and not named:
                starts.setdefault("", []).append(start)
            del path[-1:]
        elif token[0] in "\"'":
            if key == "name" and path in (["layer"], ["layers"], ["layers", "layer"]):
                starts.setdefault(token[1:-1], []).append(start)
                named = True
        elif token[0].isalpha():
            key = token
    return starts
