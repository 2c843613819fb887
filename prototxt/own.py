"""Layer types of the user's own: which fields of a layer they claim, and how these are read.

A class registered with `port.layers.register` claims fields, `swish_param`. In the text of a layer of its type those
are set aside whole, by name (prototxt/unknown.py), whatever this suite's schema has under that name, and are read by
one of two schemas: the fork's own (`use_proto`, `--proto their_caffe.proto`), or the defaults that the class gives.
"""

import enum
import os
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.proto_file import read_proto

OWN_FIELDS: dict[str, Collection[str]] = {}
"""A registered type → the fields of its layers that it claims: the names only, for which `--proto` is needed, or a
mapping of each to its default, which also tells its kind.

A default is a bool, an int, a float, a str or a member of an `IntEnum`; a mapping is a message of such fields; a
type (`int`, `FillerParameter`) a field without a default of its own; `[float]` a repeated field."""

_schema: tuple[str, type[Message]] | None = None
_plain: dict[str, type[Message]] = {}


def use_proto(path: str | os.PathLike) -> None:
    """Read the claimed fields of registered types by the LayerParameter of a fork's `caffe.proto`.

    Raises:
        InputError: `path:line: what`, for a file that is missing, is not a `.proto`, or has no LayerParameter.
    """
    global _schema
    messages = read_proto(path)
    if "LayerParameter" not in messages:
        raise InputError(
            f"{os.fspath(path)}: has no message LayerParameter: give the fork's caffe.proto, with all its messages"
        )
    _schema = os.fspath(path), messages["LayerParameter"]


class OwnParam:
    """A layer's message as its own class reads it: the claimed fields by their schema, all others as ever.

    `param.swish_param.beta`, `param.HasField("swish_param")`, `param.convolution_param.kernel_size`, …
    """

    def __init__(self, layer: LayerParameter):
        self._layer, self._own = layer, _read(layer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own if name in OWN_FIELDS[self._layer.type] else self._layer, name)

    def HasField(self, name: str) -> bool:
        """Whether the layer has an entry for it, as protobuf's messages tell."""
        return (self._own if name in OWN_FIELDS[self._layer.type] else self._layer).HasField(name)

    def __reduce__(self) -> tuple:
        return OwnParam, (self._layer,)  # the class behind `_own` cannot be pickled


def own_param(layer: LayerParameter) -> Any:
    """The message as the layer's class reads it: an `OwnParam` for a registered type.

    Raises:
        InputError: claimed fields that their schema does not have or cannot read.
    """
    return OwnParam(layer) if layer.type in OWN_FIELDS else layer


def as_filler(filler: Message | None) -> FillerParameter | None:
    """A filler of whichever schema as this suite's.

    Raises:
        InputError: a setting that no filler here has.
    """
    if filler is None or isinstance(filler, FillerParameter):
        return filler
    try:
        return text_format.Parse(text_format.MessageToString(filler), FillerParameter())
    except text_format.ParseError as error:
        raise InputError(f"the filler {_message(error)}") from error


def _read(layer: LayerParameter) -> Message:
    claimed = OWN_FIELDS[layer.type]
    schema, cls = _schema_of(layer.type, claimed)
    message = cls()
    for name in claimed:
        if name not in message.DESCRIPTOR.fields_by_name:
            raise InputError(f"{schema}: LayerParameter has no field {name}")
        if _read_before(layer, name):
            raise InputError(
                f"{name} was read before {layer.type} was registered: import its module before the net is read"
            )
    for found in layer.unknown:
        if found.path in claimed:
            try:
                text_format.Merge(f"{found.path}: {found.text}", message)
            except text_format.ParseError as error:
                raise InputError(f"{found.path} (line {found.line}): {_message(error)}") from error
    return message


def _read_before(layer: LayerParameter, name: str) -> bool:
    known = LayerParameter.DESCRIPTOR.fields_by_name.get(name)
    if known is None:
        return False
    there = len(getattr(layer, name)) if known.is_repeated else layer.HasField(name)
    return bool(there) or any(found.path.startswith(f"{name}.") for found in layer.unknown)


def _message(error: text_format.ParseError) -> str:
    text = str(error).partition(" : ")[2] or str(error)
    return text.strip().replace("\n", " ").replace("caffe_prototxt.", "")


def _schema_of(layer_type: str, claimed: Collection[str]) -> tuple[str, type[Message]]:
    if isinstance(claimed, Mapping):
        if layer_type not in _plain:
            _plain[layer_type] = _plain_schema(layer_type, claimed)
        return layer_type, _plain[layer_type]
    if not claimed:
        return layer_type, LayerParameter
    if _schema is None:
        raise InputError(
            f"{layer_type} reads {', '.join(claimed)} by its fork's schema: give it (--proto caffe.proto, or "
            "port.layers.use_proto in Python)"
        )
    return _schema


def claim(layer_type: str, fields: Collection[str]) -> None:
    """Let layers of the type claim these fields.

    Raises:
        InputError: a default that is of no kind that a field has.
    """
    _plain.pop(layer_type, None)
    if isinstance(fields, Mapping):
        _plain[layer_type] = _plain_schema(layer_type, fields)
    OWN_FIELDS[layer_type] = fields


# ---- A schema from defaults


def _plain_schema(layer_type: str, fields: Mapping[str, Any]) -> type[Message]:
    from prototxt import caffe_pb2

    pool = DescriptorPool()
    ours, own = FileDescriptorProto(), FileDescriptorProto(name="own.proto", package="own")
    caffe_pb2.DESCRIPTOR.CopyToProto(ours)
    pool.Add(ours)
    own.dependency.append(ours.name)
    message = own.message_type.add(name="LayerParameter")
    _add_fields(message, fields, ".own.LayerParameter", layer_type)
    pool.Add(own)
    return GetMessageClass(pool.FindMessageTypeByName("own.LayerParameter"))


_KINDS = {
    bool: FieldDescriptorProto.TYPE_BOOL,
    int: FieldDescriptorProto.TYPE_INT64,
    float: FieldDescriptorProto.TYPE_FLOAT,
    str: FieldDescriptorProto.TYPE_STRING,
}


def _add_fields(message: DescriptorProto, fields: Mapping[str, Any], path: str, layer_type: str) -> None:
    for number, (name, default) in enumerate(fields.items(), 1):
        new = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if isinstance(default, list) and len(default) == 1:
            new.label, (default,) = FieldDescriptorProto.LABEL_REPEATED, default
        kind = default if isinstance(default, type) else type(default)
        if isinstance(default, Mapping):
            new.type, new.type_name = FieldDescriptorProto.TYPE_MESSAGE, f"{path}.Of_{name}"
            _add_fields(message.nested_type.add(name=f"Of_{name}"), default, new.type_name, layer_type)
        elif kind is FillerParameter:
            new.type, new.type_name = FieldDescriptorProto.TYPE_MESSAGE, ".caffe_prototxt.FillerParameter"
        elif issubclass(kind, enum.IntEnum):
            new.type, new.type_name = FieldDescriptorProto.TYPE_ENUM, f"{path}.Of_{name}.Values"
            values = message.nested_type.add(name=f"Of_{name}").enum_type.add(name="Values")
            for value in kind:
                values.value.add(name=value.name, number=value)
        elif kind in _KINDS:
            new.type = _KINDS[kind]
        else:
            raise InputError(
                f"{layer_type}: the default of {name} is a {kind.__name__}, which no field can be"
            )
        if isinstance(default, enum.IntEnum):
            new.default_value = default.name
        elif isinstance(default, bool):
            new.default_value = "true" if default else "false"
        elif isinstance(default, int | float | str):
            new.default_value = str(default)
