"""Weights of a net by layer name: copied, shared and saved as Caffe's Net does it (net.cpp)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Shape
from prototxt.plan import ParamPlan, Plan
from weights import LayerWeights, match_by_name

Blobs = dict[int, list[np.ndarray | None]]


def layers_by_name(plan: Plan, last: bool = False) -> dict[str, int]:
    """Layer name → index of the first layer of that name, or of the last."""
    found: dict[str, int] = {}
    for layer in plan.layers:
        if last or layer.name not in found:
            found[layer.name] = layer.index
    return found


def matched(
    plan: Plan,
    shapes: Sequence[Sequence[Shape]],
    source: Sequence[LayerWeights],
    where: str,
    *,
    hdf5: bool = False,
    keys: Mapping[str, int] | None = None,
) -> tuple[Blobs, list[str]]:
    """What each layer of a net takes from `source`.

    Every source layer of a name goes to the first layer of that name (from an HDF5 file, to the last), the later
    over the earlier.

    Args:
        shapes: of each layer's weight blobs.
        where: the file, for messages.
        hdf5: that is what the file is.
        keys: further names of layers → index, for sources that are named as a state dict is.

    Returns:
        Layer index → its blobs (None: it stays as it is), and the names of the source layers that the net lacks.

    Raises:
        InputError: where a layer has another number of blobs, or a blob another shape.
    """
    target = {**(keys or {}), **layers_by_name(plan, last=hdf5)}
    index = {name: list(shapes[i]) for name, i in target.items()}
    shared = {
        (name, j)
        for name, i in target.items()
        for j, p in enumerate(plan.layers[i].params)
        if p.owner is not None
    }
    adapting = {name for name, i in target.items() if plan.layers[i].type == "DataAugmentation" and not hdf5}
    plain = [layer for layer in source if layer.name not in adapting]
    found, skipped = match_by_name(plain, index, where, shared=shared)
    for layer in source:
        if layer.name in adapting:
            of = plan.layers[target[layer.name]].param.augmentation_param
            found[layer.name] = _adapted_means(layer, index[layer.name], of.mean_per_pixel, where)
    return {target[name]: blobs for name, blobs in found.items()}, skipped


def _adapted_means(
    layer: LayerWeights, shapes: Sequence[Shape], per_pixel: bool, where: str
) -> list[np.ndarray | None]:
    """A DataAugmentation's weights from a file, whose mean image may be of another size (FlowNet2's CustomCopyBlobs).

    Without `mean_per_pixel` the channels' means are taken, and the mean image stays as it is. A mean image of another
    size becomes its channels' means everywhere. Nothing is taken where either side keeps no mean.
    """
    if len(shapes) < 3 or len(layer.present) < 2:
        return [None] * len(shapes)
    channels = shapes[1][1]
    expected = f"{len(shapes)} blobs, of 1, 1×{channels}×height×width and {channels} values"
    sizes = [blob.size for blob in layer.present]
    mean = layer.present[1]
    wrong = len(sizes) < 3 or sizes[0] != 1 or sizes[2] != channels or mean.ndim != 4
    if wrong or mean.shape[:2] != (1, channels):
        raise InputError(
            f'{where}: layer "{layer.name}" must have {expected} for a mean of {channels} channels'
        )
    passes = layer.present[0].reshape(shapes[0])
    if not per_pixel:
        return [passes, None, layer.present[2].reshape(shapes[2])]
    of_channels = mean.mean(axis=(2, 3), keepdims=True, dtype=np.float32)
    image = mean if mean.shape == shapes[1] else np.broadcast_to(of_channels, shapes[1])
    return [passes, image, of_channels.reshape(shapes[2])]


def shared_layers(mine: Plan, other: Plan) -> tuple[list[tuple[int, int]], list[str]]:
    """For `share_with`: pairs (layer here, layer there), and the names there that are missing here."""
    target = layers_by_name(mine)
    pairs = [(target[layer.name], layer.index) for layer in other.layers if layer.name in target]
    return pairs, [layer.name for layer in other.layers if layer.name not in target]


def check_owner(param: ParamPlan, mine: Shape, owner: Shape) -> None:
    """Raises InputError where the owner's shape (with PERMISSIVE sharing, its size) is not the sharer's."""
    same = math.prod(mine) == math.prod(owner) if param.permissive else mine == owner
    if not same:
        raise InputError(
            f'shared param "{param.name}" is {mine} here and {owner} at its owner: make them equal'
        )


def check_shared(mine: Sequence[Shape], theirs: Sequence[Shape]) -> None:
    """Raises InputError where a layer's weight blobs cannot be those of another net's layer."""
    if list(mine) != list(theirs):
        raise InputError(
            f"weights cannot be shared: {list(theirs)} there, {list(mine)} here: make them equal"
        )


def saved(plan: Plan, blobs: Sequence[Sequence[np.ndarray]], owners_only: bool = False) -> list[LayerWeights]:
    """All layers with their weights, for a file.

    Args:
        owners_only: None for a blob that another layer owns, as Caffe's HDF5 files leave it out.
    """
    return [
        LayerWeights(
            layer.name,
            layer.type,
            [
                None if owners_only and param.owner is not None else blob
                for blob, param in zip(own, layer.params, strict=True)
            ],
            param=_as_saved(layer.param),
        )
        for layer, own in zip(plan.layers, blobs, strict=True)
    ]


def _as_saved(layer: LayerParameter) -> LayerParameter:
    """The message without what no schema of Caffe's has: the texts of fields that were set aside."""
    if not layer.unknown:
        return layer
    saved = LayerParameter()
    saved.CopyFrom(layer)
    saved.ClearField("unknown")
    return saved
