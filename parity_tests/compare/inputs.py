"""What `seenet parity` fills every engine with alike: float32 weights, given or rebuilt, and inputs; SeeNet's masks."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from port.models.crelu import BackgroundMask, CReLU
from port.net_inputs import complete_inputs, memory_shapes
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.plan import Plan
from runtime import net_weights
from weights import LayerWeights, check_finite, read_weights
from weights.opening import is_hdf5
from weights.rebuilt import held_weights, rebuilt_weights, weighted_layers, write_held

Weights = str | os.PathLike | Sequence[LayerWeights]


def fill_weights(
    net: Any, plan: Plan, weights: Weights | None, seed: int
) -> tuple[dict[int, list[np.ndarray]], list[str]]:
    """Fill a net with the weights of a file, or layers, by Caffe's rule, or else with `rebuilt_weights`.

    Returns:
        What the net then holds, as float32, by layer index; and remarks.

    Raises:
        InputError: an unreadable file, a shape that differs, NaN, or none of the net's layers.
    """
    weighted = weighted_layers(net)
    remarks: list[str] = []
    if weights is None:
        drawn = rebuilt_weights(net, seed)
        write_held(net, {i: layer.blobs for i, layer in zip(weighted, drawn, strict=True)})
        return held_weights(net), remarks
    is_file = isinstance(weights, str | os.PathLike)
    where = os.fspath(weights) if is_file else "weights"
    layers = read_weights(weights, with_empty=True) if is_file else list(weights)
    check_finite(layers, where)
    shapes = [[blob.data.shape for blob in layer.blobs] for layer in net.layers]
    found, _ = net_weights.matched(plan, shapes, layers, where, hdf5=is_file and is_hdf5(weights))
    lacking = [plan.layers[i].name for i in weighted if i not in found]
    if weighted and len(lacking) == len(weighted):
        raise InputError(f"{where}: has weights for none of the net's layers ({', '.join(lacking)})")
    write_held(net, {i: found[i] for i in weighted if i in found})
    if lacking:
        remarks.append(f"{where} has no weights for {', '.join(lacking)}: filled as the prototxt says")
    return held_weights(net), remarks


def fill_inputs(
    net: Any, plan: Plan, given: Mapping[str, np.ndarray], seed: int, where: str
) -> dict[str, np.ndarray]:
    """Arrays for all tops of a net's Input and MemoryData layers, by blob name: those given, the others drawn.

    Raises:
        InputError: as `complete_inputs`; a net with neither kind of layer.
    """
    memory = memory_shapes(plan)
    if not memory:
        return complete_inputs(net, plan, given, seed, where)
    unknown = [name for name in given if name not in {*memory, *net.inputs}]
    if unknown:
        raise InputError(f'{where}: has no input "{unknown[0]}", but {", ".join([*net.inputs, *memory])}')
    inputs: dict[str, np.ndarray] = {}
    if net.inputs:
        own = {name: array for name, array in given.items() if name in net.inputs}
        inputs |= complete_inputs(net, plan, own, seed, where)
    generator = np.random.RandomState(seed)
    for name, shape in memory.items():
        image = len(shape) == 4
        drawn = generator.normal(0, 50, shape) if image else generator.randint(0, 2, shape)
        inputs[name] = np.ascontiguousarray(given.get(name, drawn), np.float32)
    return inputs


def feed_inputs(net: Any, plan: Plan, inputs: Mapping[str, np.ndarray]) -> None:
    """Give a pycaffe net, genuine Caffe's included, what `fill_inputs` found."""
    for i in plan.inputs:
        array = inputs[plan.blobs[i]]
        net.blobs[plan.blobs[i]].reshape(*array.shape)
        net.blobs[plan.blobs[i]].data[...] = array
    for layer in plan.layers:
        if layer.type == "MemoryData":
            data, labels = (inputs[plan.blobs[top]] for top in layer.tops)
            if hasattr(net.layers[layer.index], "reset"):
                net.layers[layer.index].reset(data, labels)
            else:  # genuine Caffe: the first layer
                net.set_input_arrays(data, labels)


FED = ("Input", "MemoryData")
"""The layer types whose tops are given to an engine."""


def fed_blobs(plan: Plan) -> list[int]:
    """The tops of these layers."""
    return [top for layer in plan.layers if layer.type in FED for top in layer.tops]


MASKS: dict[tuple[str, str], type[nn.Module]] = {
    ("crelu_layer", "CReLULayer"): CReLU,
    ("scan_background_layer", "BackgroundMaskLayer"): BackgroundMask,
}
"""(module, layer) → the port's; called with features, scores and labels."""


def is_mask(param: LayerParameter) -> bool:
    return (param.python_param.module, param.python_param.layer) in MASKS
