""".caffemodel: a NetParameter with weights, read of any age (V0, V1, V2) and written as Caffe 1.0 does."""

import os
from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import LayerParameter, NetParameter, V0LayerParameter, V1LayerParameter
from prototxt.errors import InputError
from prototxt.upgrade import V0_TYPES, V1_TYPES
from weights.layer_weights import LayerWeights, has_natural_shape, natural_shape, stored_blobs
from weights.opening import map_file, not_a
from weights.wire import (
    MAX_HEADER,
    Pieces,
    WireError,
    blob_pieces,
    field_number,
    length_delimited,
    read_blob,
    split,
    take,
    text_of,
    write_message,
)

_LAYERS, _LAYER = field_number(NetParameter, "layers"), field_number(NetParameter, "layer")
_V2_BLOBS = field_number(LayerParameter, "blobs")
_V1_BLOBS, _V0 = field_number(V1LayerParameter, "blobs"), field_number(V1LayerParameter, "layer")
_V0_BLOBS = field_number(V0LayerParameter, "blobs")

# Of a layer nothing but its blobs and these is read: the rest of a fork's message may clash with our schema,
# as SSD's resize_param does, and it changes nothing.
_V2_HEADER, _V1_HEADER, _V0_HEADER = (
    [field_number(message, "name"), field_number(message, "type")]
    for message in (LayerParameter, V1LayerParameter, V0LayerParameter)
)


def read_caffemodel(path: str | os.PathLike, *, with_empty: bool = False) -> list[LayerWeights]:
    """The layers of a .caffemodel with their weights, which are views of the mapped file where possible.

    Args:
        with_empty: also the layers that have no blobs.

    Raises:
        InputError: where the file is missing, cut short, or not a caffemodel.
    """
    message = map_file(path)
    try:
        _, entries = take(message, (_LAYERS, _LAYER), keep=())
        layers = [layer for number, entry in entries if (layer := _read_layer(number, entry, with_empty))]
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        raise not_a("caffemodel", path, error) from error
    if not entries:
        raise not_a("caffemodel", path, "it has no layers")
    if len({number for number, _ in entries}) == 2:
        raise InputError(f"{path}: has old and new layers mixed, which Caffe refuses: get it again")
    return layers


def parameter_names(path: str | os.PathLike) -> dict[str, list[str]]:
    """The names that serve to share parameters, by layer, as a .caffemodel keeps them; of other formats nothing."""
    try:
        _, entries = take(map_file(path), (_LAYERS, _LAYER))
        return {
            name: names
            for number, entry in entries
            for name, names in [_parameter_names(number, entry)]
            if names
        }
    except (WireError, DecodeError, UnicodeDecodeError):
        return {}


def _parameter_names(number: int, entry: memoryview) -> tuple[str, list[str]]:
    if number == _LAYER:
        header = LayerParameter.FromString(take(entry, (_V2_BLOBS,))[0])
        return header.name, [param.name for param in header.param if param.name]
    older = V1LayerParameter.FromString(take(entry, (_V1_BLOBS, _V0))[0])
    return older.name, [name for name in older.param if name]


def _read_layer(number: int, entry: memoryview, with_empty: bool) -> LayerWeights | None:
    """The layer, or None for one without blobs where those are not asked for."""
    if number == _LAYER:
        rest, blobs = take(entry, (_V2_BLOBS,), _V2_HEADER, MAX_HEADER)
        header = LayerParameter.FromString(rest)
        return _layer(text_of(header.name), text_of(header.type), blobs) if blobs or with_empty else None
    rest, parts = take(entry, (_V1_BLOBS, _V0), _V1_HEADER, MAX_HEADER)
    v0 = [part for field, part in parts if field == _V0]
    if v0:
        # Caffe reads nothing but the inner layer's name, type and blobs of such an entry.
        rest, blobs = take(
            v0[0] if len(v0) == 1 else memoryview(b"".join(v0)), (_V0_BLOBS,), _V0_HEADER, MAX_HEADER
        )
        oldest = V0LayerParameter.FromString(rest)
        layer_type = V0_TYPES.get(text_of(oldest.type), "")
        return _layer(text_of(oldest.name), layer_type, blobs) if blobs or with_empty else None
    older = V1LayerParameter.FromString(rest)
    layer_type = V1_TYPES.get(older.type, "")
    return _layer(text_of(older.name), layer_type, parts) if parts or with_empty else None


def _layer(name: str, layer_type: str, messages: list[tuple[int, memoryview]]) -> LayerWeights:
    layer = LayerWeights(name, layer_type)
    for index, (_, message) in enumerate(messages):
        try:
            blob, legacy = read_blob(message)
        except WireError as error:
            raise WireError(f'layer "{name}": blob {index}: {error}') from error
        if legacy:
            layer.legacy_shape = True
            blob = blob.reshape(natural_shape(layer_type, index, blob.shape))
        layer.blobs.append(blob)
    return layer


def write_caffemodel(
    path: str | os.PathLike,
    layers: Iterable[LayerWeights],
    *,
    net_name: str = "",
    progress: Callable[[int], None] | None = None,
    sync: bool = False,
) -> None:
    """Write a .caffemodel as Caffe does, byte for byte where each layer carries its `param`.

    The message is never put together in memory: each blob goes out from where it lies.

    Args:
        layers: those without blobs are written where they carry a `param`.
        progress: told each number of bytes of weights written.
        sync: see `weights.files.atomic_path`.

    Raises:
        InputError: where the file cannot be written, a blob is no float32 or float64, or 2 GB are passed.
    """
    pieces: Pieces = [NetParameter(name=net_name).SerializeToString()]
    for layer in layers:
        if layer.blobs or layer.param is not None:
            pieces += length_delimited(_LAYER, _layer_pieces(layer, path))
    write_message(path, pieces, progress, sync=sync)


def _layer_pieces(layer: LayerWeights, path: str | os.PathLike) -> Pieces:
    header = LayerParameter(name=layer.name)
    if layer.param is not None:
        header.CopyFrom(layer.param)
        header.ClearField("blobs")
    elif layer.type:
        header.type = layer.type
    before, after = split(header.SerializeToString(), _V2_BLOBS)
    # Where the natural shape is not known, only the four numbers let Caffe match a blob to its net.
    keeps_four = layer.legacy_shape and not has_natural_shape(layer.type)
    pieces: Pieces = [before]
    for blob in stored_blobs(layer, path):
        pieces += length_delimited(_V2_BLOBS, blob_pieces(blob, keeps_four and blob.ndim == 4))
    return [*pieces, after]
