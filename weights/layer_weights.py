"""What a file of weights holds: layers, each with its blobs."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError

_CHECK_CHUNK = 1 << 18

# Axes of the first blob; all further blobs of these types are biases of one axis.
_NATURAL_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2, "PReLU": 1}


@dataclass(eq=False)
class LayerWeights:
    """The weights of one layer.

    Attributes:
        name: the layer's name, by which Caffe matches weights to nets.
        type: Caffe's current name of its type ("Convolution"); "" where the file does not say.
        blobs: float32 or float64 arrays, as stored; possibly read-only views of a mapped file. None stands
            for a blob that an HDF5 file leaves out because the net shares it from another layer.
        legacy_shape: the file gave num, channels, (of C3D 1.0 length,) height, width; Caffe then compares shapes
            leniently.
        param: what else a .caffemodel shall say of the layer; its own `blobs` are not looked at.
    """

    name: str
    type: str = ""
    blobs: list[np.ndarray | None] = field(default_factory=list)
    legacy_shape: bool = False
    param: LayerParameter | None = None

    @property
    def present(self) -> list[np.ndarray]:
        """The blobs that the file holds."""
        return [blob for blob in self.blobs if blob is not None]


def has_natural_shape(layer_type: str) -> bool:
    """Whether it is known how many axes the blobs of such a layer have."""
    return layer_type in _NATURAL_AXES


def natural_shape(layer_type: str, index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Today's shape of a blob that legacy numbers describe, or as many numbers where that is not known."""
    if not has_natural_shape(layer_type):
        return shape
    spare = len(shape) - (_NATURAL_AXES[layer_type] if index == 0 else 1)
    return shape[spare:] if all(size == 1 for size in shape[:spare]) else shape


def stored_blobs(layer: LayerWeights, where: object) -> list[np.ndarray]:
    """All blobs of a layer that is to be written, each float32 or float64.

    Raises:
        InputError: for another type of number, or a blob that is left out.
    """
    for index, blob in enumerate(layer.blobs):
        if blob is None:
            raise InputError(
                f'{where}: layer "{layer.name}": blob {index} is shared from another layer and not in the '
                "source: write .h5, or convert the owner's .caffemodel"
            )
        if blob.dtype not in (np.float32, np.float64):
            raise InputError(
                f'{where}: layer "{layer.name}": blob {index} is {blob.dtype}: Caffe has float32 and float64'
            )
    return layer.present


def count_not_finite(blob: np.ndarray) -> int:
    """How many values are NaN or infinite, found without an array of the blob's size."""
    flat, bad = blob.reshape(-1), 0
    for start in range(0, flat.size, _CHECK_CHUNK):
        finite = np.isfinite(flat[start : start + _CHECK_CHUNK])
        if not finite.all():
            bad += finite.size - int(np.count_nonzero(finite))
    return bad


def check_finite(layers: Iterable[LayerWeights], where: object) -> None:
    """Refuse weights with NaN or infinite values.

    Raises:
        InputError: names the first such layer, and how many of its values they are.
    """
    for layer in layers:
        bad = sum(map(count_not_finite, layer.present))
        if bad:
            total = sum(blob.size for blob in layer.present)
            raise InputError(
                f'{where}: layer "{layer.name}": {bad} of {total} values are NaN or infinite: '
                "take an earlier snapshot, or get the file again"
            )


def match_by_name(
    source: Sequence[LayerWeights],
    target: Mapping[str, Sequence[tuple[int, ...]]],
    where: object,
    *,
    shared: Container[tuple[str, int]] = (),
) -> tuple[dict[str, list[np.ndarray | None]], list[str]]:
    """Weights for a net, by layer name, as Net::CopyTrainedLayersFrom takes them (net.cpp).

    Args:
        source: what a file holds. Caffe's rule is about all its layers: read them `with_empty=True`.
        target: layer name → shapes of its blobs, of every layer of the net.
        where: the file, for messages.
        shared: (layer, index) of the net's blobs that belong to another layer. Where `source` is an HDF5
            file these may be missing in it; they are then None in the answer.

    Returns:
        Layer name → its blobs, shaped as the net has them, without copies; and the names of the layers of
        `source` that the net lacks. Of two layers of one name the later counts, as in Caffe.

    Raises:
        InputError: where a layer has another number of blobs, or a blob another shape.
    """
    matched, skipped = {}, []
    for layer in source:
        if layer.name not in target:
            skipped.append(layer.name)
            continue
        shapes = [tuple(shape) for shape in target[layer.name]]
        blobs = layer.blobs + [None] * (len(shapes) - len(layer.blobs))
        missing = [i for i, blob in enumerate(blobs) if blob is None and (layer.name, i) not in shared]
        if missing or len(blobs) > len(shapes):
            raise InputError(
                f'{where}: layer "{layer.name}" has {_listed(layer.present)} in the file '
                f"but {_listed(shapes)} in the net: {_RENAME}"
            )
        matched[layer.name] = [
            None if blob is None else _fitted(layer, index, blob, shape, where)
            for index, (blob, shape) in enumerate(zip(blobs, shapes, strict=True))
        ]
    return matched, skipped


_RENAME = "to learn this layer from scratch, rename it in the prototxt"


def _listed(blobs: Iterable[np.ndarray | tuple[int, ...]]) -> str:
    shapes = [shape_text(blob.shape if isinstance(blob, np.ndarray) else blob) for blob in blobs]
    return f"{len(shapes)} blobs ({', '.join(shapes)})"


def _fitted(
    layer: LayerWeights, index: int, blob: np.ndarray, shape: tuple[int, ...], where: object
) -> np.ndarray:
    # Blob::ShapeEquals: four legacy numbers equal any shape of up to four axes that leading ones make so.
    axes = max(4, blob.ndim)
    if layer.legacy_shape and len(shape) <= axes and _led(blob.shape, axes) == _led(shape, axes):
        return blob.reshape(shape)
    if blob.shape != shape:
        raise InputError(
            f'{where}: layer "{layer.name}": blob {index} is {shape_text(blob.shape)} in the file but '
            f"{shape_text(shape)} in the net: {_RENAME}"
        )
    return blob


def _led(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (1,) * (axes - len(shape)) + shape


def shape_text(shape: Sequence[int]) -> str:
    """A shape for people: "64×3×3×3"; a blob without axes is a "scalar"."""
    return "×".join(map(str, shape)) or "scalar"
