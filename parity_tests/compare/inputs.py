"""What `seenet parity` fills every engine with alike: float32 weights, given or rebuilt; and SeeNet's masks."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from port.models.crelu import BackgroundMask, CReLU
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.plan import Plan
from weights import LayerWeights, check_finite, match_by_name, read_weights
from weights.rebuilt import layer_types, rebuilt_weights

Weights = str | os.PathLike | Sequence[LayerWeights]


def fill_weights(
    net: Any, plan: Plan, weights: Weights | None, seed: int
) -> tuple[list[LayerWeights], list[str]]:
    """Fill a net with the weights of a file, or layers, by name, or else with `rebuilt_weights`.

    Returns:
        What the net then holds, as float32; and remarks.

    Raises:
        InputError: an unreadable file, a shape that differs, NaN, or none of the net's layers.
    """
    remarks = []
    if weights is None:
        write_weights(net, rebuilt_weights(net, seed))
    else:
        where = os.fspath(weights) if isinstance(weights, str | os.PathLike) else "weights"
        found = _matched(net, plan, weights, where)
        lacking = [name for name in net.params if name not in found]
        if lacking and not set(found) & set(net.params):
            raise InputError(f"{where}: has weights for none of the net's layers ({', '.join(lacking)})")
        write_weights(net, [LayerWeights(name, blobs=blobs) for name, blobs in found.items() if blobs])
        if lacking:
            remarks.append(f"{where} has no weights for {', '.join(lacking)}: filled as the prototxt says")
    held = [
        LayerWeights(name, layer_type, [blob.data.astype(np.float32) for blob in net.params[name]])
        for name, layer_type in layer_types(net).items()
    ]
    return held, remarks


def _matched(net: Any, plan: Plan, weights: Weights, where: str) -> dict[str, list[np.ndarray | None]]:
    is_file = isinstance(weights, str | os.PathLike)
    layers = read_weights(weights, with_empty=True) if is_file else list(weights)
    check_finite(layers, where)
    shapes = {name: [blob.shape for blob in layer.blobs] for name, layer in net.layer_dict.items()}
    shared = {(x.name, i) for x in plan.layers for i, param in enumerate(x.params) if param.owner is not None}
    return match_by_name(layers, shapes, where, shared=shared)[0]


def write_weights(net: Any, layers: Sequence[LayerWeights]) -> None:
    """Write weights, shaped as the net has them, into a net."""
    for layer in layers:
        for blob, array in zip(net.params[layer.name], layer.blobs, strict=True):
            if array is not None:
                blob.data[...] = array


MASKS: dict[tuple[str, str], type[nn.Module]] = {
    ("crelu_layer", "CReLULayer"): CReLU,
    ("scan_background_layer", "BackgroundMaskLayer"): BackgroundMask,
}
"""(module, layer) → the port's; called with features, scores and labels."""


def is_mask(param: LayerParameter) -> bool:
    return (param.python_param.module, param.python_param.layer) in MASKS
