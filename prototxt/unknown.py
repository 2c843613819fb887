"""What a net asks for that is not here: found when it is read, told when a layer that needs it is planned.

Two kinds of fields: those that the schema lacks (the reader sets them aside, with their lines, in the message's
own `unknown`), and those of a fork that the schema has but no layer here obeys (prototxt/forks.py).
"""

import re
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from prototxt.caffe_pb2 import LayerParameter, NetParameter, NetState, UnknownField
from prototxt.errors import InputError, close_names
from prototxt.forks import HARMLESS, SUPPORTED_FIELDS, UNREAD_FIELDS, known_from
from prototxt.own import OWN_FIELDS
from prototxt.rules import layer_included
from prototxt.text import COMMENT, QUOTED

FIRST_FORK_NUMBER, OWN_NUMBER = 5001, 6000
"""caffe.proto: the numbers of fork fields and enum values start here; `unknown` has this one."""

_TOLD = 8
"""Fields that one message names."""

_HOW = "see register() in port.layers"
"""Tells how a user adds a layer type."""


@dataclass(frozen=True)
class Unknown:
    """A field of a layer (or of the net) that nothing here obeys.

    Attributes:
        what: in words: 'no field named "pooling_param.shape"'.
        path: as in "pooling_param.shape".
        line: where it stands in its file; 0 if that is not known.
        text: its value, as it stood there.
    """

    what: str
    path: str
    line: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.what} (line {self.line})" if self.line else self.what


def unknown_fields(message: LayerParameter | NetParameter) -> list[Unknown]:
    """The fields of one layer, or of the net outside of its layers, that nothing here obeys."""
    layer_type = message.type if isinstance(message, LayerParameter) else ""
    claimed = OWN_FIELDS.get(layer_type, ())
    left = [x for x in message.unknown if x.path.split(".")[0] not in claimed]
    found = [_told(descriptor_of(message), x, claimed, search=i < _TOLD) for i, x in enumerate(left)]
    for path, text in _not_obeyed(message, layer_type):
        found.append(Unknown(f"{path}, a fork's setting that is not supported here", path, text=text))
    return found


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """A message's descriptor. Its attribute is declared as either of two classes that do the same."""
    return cast(Descriptor, message.DESCRIPTOR)


def _told(message: Descriptor, found: UnknownField, claimed: Collection[str], search: bool) -> Unknown:
    """In words; with the name that it is near to where such a one is to be searched for, which takes time."""
    *outer, last = found.path.split(".")
    fields = message.fields_by_name
    for name in outer:
        inner = fields[name].message_type if name in fields else None
        fields = inner.fields_by_name if inner is not None else {}
    if last in fields:
        what = f"{found.path} cannot be {found.text}"
    else:
        near = close_names(last, [*fields, *claimed], 1, 0.85) if search else []
        what = f'no field named "{found.path}"{f", but {near[0]}" if near else ""}'
    return Unknown(what, found.path, found.line, found.text)


@dataclass(frozen=True)
class Missing:
    """A layer that cannot be planned.

    Attributes:
        index: its place among the net's layers.
        type_known: whether its type is declared; else `fields` are those that the schema lacks.
        what: in one line.
    """

    index: int
    name: str
    type: str
    type_known: bool
    fields: tuple[Unknown, ...]
    what: str


def missing(net: NetParameter, state: NetState, declared: Collection[str]) -> list[Missing]:
    """All layers of a net, among those that `state` selects, that ask for what is not here."""
    found = []
    for index, layer in enumerate(net.layer):
        if not layer_included(layer, state):
            continue
        try:
            refuse_unknown(layer, declared)
        except InputError as error:
            known = layer.type in declared
            fields = tuple(field for field in unknown_fields(layer) if known or field.line)
            found.append(Missing(index, layer.name, layer.type, known, fields, str(error)))
    return found


def refuse_unknown(message: LayerParameter | NetParameter, declared: Collection[str] = ()) -> None:
    """Raise InputError if the layer (the net) asks for what is not here, naming it.

    The planner calls it for the net, and for each layer that the selected phase has. The message does not
    name the file and the layer's line, which the planner adds.

    Args:
        declared: the layer types that there are.
    """
    found = unknown_fields(message)
    if isinstance(message, NetParameter):
        if found:
            raise InputError(f"{_listed(found)}: take out what the net can do without")
        return
    if message.type not in declared:
        found = [field for field in found if field.line]  # a fork's settings are the missing layer's own
        fields = f"; its fields too: {_listed(found)}" if found else ""
        raise InputError(f"{unknown_type(message.type, declared)}{fields}")
    if found:
        raise InputError(
            f"{_listed(found)}: take out what the layer can do without, or write it yourself ({_HOW})"
        )


def refuse_unread(layer: LayerParameter) -> None:
    """Raise InputError for fields of a data layer that change what it reads, and that its reading does not obey."""
    found = [
        f"{message.name}.{field.name}"
        for message, value in layer.ListFields()
        if message.message_type is not None and not message.is_repeated
        for field, _ in value.ListFields()
        if layer.type in UNREAD_FIELDS.get(f"{message.message_type.name}.{field.name}", ())
    ]
    if found:
        raise InputError(
            f"{', '.join(found)}: not supported where data is read: take out what can be done without"
        )


def _listed(found: list[Unknown]) -> str:
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return "; ".join(map(str, found[:_TOLD])) + more


def unknown_type(layer_type: str, declared: Collection[str]) -> str:
    """What to say of a layer type that is not among the `declared` ones: what it may be, and the way on."""
    if not layer_type:
        return "type is missing"
    fork = known_from(layer_type)
    same = [name for name in declared if name.lower() == layer_type.lower()]
    near = same or close_names(layer_type, declared, 2, 0.5)
    if fork:
        hint = f"known from {fork}, and not supported: write it yourself ({_HOW})"
    elif near:
        hint = f"did you mean {' or '.join(near)}? Else write it yourself ({_HOW})"
    else:
        hint = f"no Caffe known here has it: write it yourself ({_HOW})"
    return f'unknown layer type "{layer_type}": {hint}'


def _not_obeyed(message: Message, layer_type: str) -> Iterator[tuple[str, str]]:
    """Paths and texts of the fork fields in BVLC's messages that are set, and not to their defaults."""
    for field, value in message.ListFields():
        if field.name in ("unknown", "layer", "layers") or field.name in HARMLESS:
            continue
        fork_field = FIRST_FORK_NUMBER <= field.number < OWN_NUMBER
        if fork_field and isinstance(message, LayerParameter):
            continue  # the parameters of a fork's layer type: for the type's own declaration to judge
        if fork_field and not _supported(field, layer_type) and _differs(field, value):
            yield field.name, f"{field.name}: {value}"
        elif not fork_field and field.enum_type is not None and not field.is_repeated:
            if value >= FIRST_FORK_NUMBER and not _supported(field, layer_type):
                yield field.name, f"{field.name}: {field.enum_type.values_by_number[value].name}"
        elif not fork_field and field.message_type is not None and not field.is_repeated:
            yield from ((f"{field.name}.{path}", text) for path, text in _not_obeyed(value, layer_type))


def _supported(field: FieldDescriptor, layer_type: str) -> bool:
    owner = field.containing_type
    name = f"{owner.name}.{field.name}" if owner else ""
    types = SUPPORTED_FIELDS.get(name)
    known = types is not None and (not types or layer_type in types)
    return known or layer_type in UNREAD_FIELDS.get(name, ())


def _differs(field: FieldDescriptor, value: object) -> bool:
    return field.is_repeated or field.message_type is not None or value != field.default_value


# ---- Setting aside what the schema lacks

_TOKEN = re.compile(rf"{COMMENT}|{QUOTED}|\$\{{?\w+[}}$]?|[\w.+-]+|\S")
_CLOSING = {"{": "}", "<": ">", "[": "]"}


@dataclass(frozen=True)
class SetAside:
    """A field, or an enum value, of a text that a message's schema does not have.

    Attributes:
        path: names of the fields from the top down to it.
        entry: which entry of the top-level field it stands in (0 for the first `layer`).
        line: counted from 1.
        value: what stood there as the field's value, its comments left out, its white space as single spaces.
    """

    path: tuple[str, ...]
    entry: int
    line: int
    value: str


def set_aside(text: str, message: Descriptor) -> tuple[str, list[SetAside], dict[str, int]]:
    """Take out what `message` has no field or enum value for; lines stay where they are.

    A text that is wrong in another way is left as it is from there on: the parser reports it.

    Returns:
        The text, what was taken out, and how often each field of the top level stands there.
    """
    walk = _Walk(text)
    walk.fields(message, ())
    pieces, aside, stop, line = [], [], 0, 1
    for path, entry, start, value, end in walk.found:
        line += text.count("\n", stop, start)
        pieces += [text[stop:start], "\n" * text.count("\n", start, end) or " "]
        aside.append(SetAside(path, entry, line, value))
        line += text.count("\n", start, end)
        stop = end
    return "".join([*pieces, text[stop:]]), aside, walk.entries


class _Walk:
    """One pass over a text's tokens, in step with the descriptors of the messages that they fill.

    A token is kept as its two places in the text: as an object it would take a hundred times its length.
    """

    def __init__(self, text: str):
        self.text = text
        self.starts, self.ends = array("I"), array("I")
        for match in _TOKEN.finditer(text):
            if text[match.start()] != "#":
                self.starts.append(match.start())
                self.ends.append(match.end())
        self.at = 0
        self.entries: dict[str, int] = {}
        self.entry = 0
        self.claimed: Collection[str] = ()
        self.found: list[tuple[tuple[str, ...], int, int, str, int]] = []

    def fields(self, message: Descriptor, path: tuple[str, ...]) -> None:
        """Go through one message's fields, up to its closing brace or the end of the text."""
        if OWN_FIELDS and path == ("layer",):
            self.claimed = OWN_FIELDS.get(self._type_ahead(), ())
        while self._token() and self._token() not in "}>":
            first, name = self.at, self._token()
            if not re.match(r"[A-Za-z_]", name):
                self.at = len(self.starts)
                return
            self.at += 1
            if self._token() == ":":
                self.at += 1
            if not path:
                self.entry = self.entries.get(name, 0)
                self.entries[name] = self.entry + 1
            claimed = path == ("layer",) and name in self.claimed
            field = None if claimed else message.fields_by_name.get(name)
            value = self.at
            if field is not None and field.message_type is not None and self._token() in ("{", "<"):
                self.at += 1
                self.fields(field.message_type, (*path, name))
                self.at += 1
            else:
                unknown = field is None or self._is_odd(field)
                self._skip_value()
                if unknown:
                    self._note((*path, name), first, value)
            if self._token() in (";", ","):
                self.at += 1

    def _is_odd(self, field: FieldDescriptor) -> bool:
        """Whether the value that comes is a name that the field's enum does not have."""
        value = self._token()
        return (
            field.enum_type is not None
            and bool(re.match(r"[A-Za-z_]", value))
            and value not in field.enum_type.values_by_name
        )

    def _skip_value(self) -> None:
        token = self._token()
        self.at += 1
        if token in _CLOSING:
            open_ = [_CLOSING[token]]
            while open_ and self._token():
                token = self._token()
                self.at += 1
                if token in _CLOSING:
                    open_.append(_CLOSING[token])
                elif token == open_[-1]:
                    open_.pop()
        elif token[:1] in ('"', "'"):
            while self._token()[:1] in ('"', "'"):
                self.at += 1
        elif token == "-":
            self.at += 1

    def _type_ahead(self) -> str:
        """The `type` of the layer whose fields come next."""
        start, found = self.at, ""
        while not found and self._token() and self._token() not in "}>":
            name = self._token()
            self.at += 1
            if self._token() == ":":
                self.at += 1
            if name == "type":
                found = self._token()[1:-1]
            self._skip_value()
        self.at = start
        return found

    def _note(self, path: tuple[str, ...], first: int, value: int) -> None:
        last = min(self.at, len(self.starts)) - 1
        value = min(value, last)
        pieces = [self.text[self.starts[value] : self.ends[value]]]
        for i in range(value + 1, last + 1):
            pieces += [" " * (self.ends[i - 1] < self.starts[i]), self.text[self.starts[i] : self.ends[i]]]
        self.found.append((path, self.entry, self.starts[first], "".join(pieces), self.ends[last]))

    def _token(self) -> str:
        return self.text[self.starts[self.at] : self.ends[self.at]] if self.at < len(self.starts) else ""
