"""Weights that are drawn instead of learned, the same on every machine; and weights by layer index."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weights.layer_weights import LayerWeights

Held = Mapping[int, Sequence[np.ndarray | None]]
"""Layer index → its weight blobs (None: it stays as it is). Not by name: names may repeat or be empty."""


def rebuilt_weights(net: Any, seed: int) -> list[LayerWeights]:
    """Weights of He's uniform distribution for a pycaffe net, the same for every engine and machine.

    As the recordings rebuild them: for each layer in order, each blob uniform in ±bound, with √(6 / fan-in)
    for blob 0 (fan-in: the product of its shape after the first axis) and 0.1 for the others, drawn by
    NumPy's `RandomState(seed)`. BatchNorm's blobs are statistics instead: means within ±0.1, variances
    within 1 ± 0.1, and a factor of 1.

    Returns:
        The layers that have weights, in the net's order: two layers of one name are two entries.
    """
    generator = np.random.RandomState(seed)
    layers = []
    for index in weighted_layers(net):
        layer_type, arrays = net.layers[index].type, []
        for i, blob in enumerate(net.layers[index].blobs):
            shape = blob.data.shape
            statistics = layer_type == "BatchNorm"
            bound = 0.1 if i or statistics else math.sqrt(6 / math.prod(shape[1:]))
            array = ((2 * generator.random_sample(shape) - 1) * bound).astype(np.float32)
            arrays.append((array, 1 + array, np.ones_like(array))[i] if statistics else array)
        layers.append(LayerWeights(net._layer_names[index], layer_type, arrays))
    return layers


def weighted_layers(net: Any) -> list[int]:
    """The indices of the layers of a pycaffe net that have weights."""
    return [i for i, layer in enumerate(net.layers) if len(layer.blobs)]


def held_weights(net: Any) -> dict[int, list[np.ndarray]]:
    """What a pycaffe net holds: float32 copies."""
    return {i: [blob.data.astype(np.float32) for blob in net.layers[i].blobs] for i in weighted_layers(net)}


def write_held(net: Any, weights: Held) -> None:
    """Write weights, shaped as the net has them, into a pycaffe net, genuine Caffe's included."""
    for index, arrays in weights.items():
        for blob, array in zip(net.layers[index].blobs, arrays, strict=True):
            if array is not None:
                blob.data[...] = array
