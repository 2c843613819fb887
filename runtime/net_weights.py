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
    found, skipped = match_by_name(source, index, where, shared=shared)
    return {target[name]: blobs for name, blobs in found.items()}, skipped


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
