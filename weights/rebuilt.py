"""Weights that are drawn instead of learned, the same on every machine."""

import math
from typing import Any

import numpy as np

from weights.layer_weights import LayerWeights


def rebuilt_weights(net: Any, seed: int) -> list[LayerWeights]:
    """Weights of He's uniform distribution for a pycaffe net, the same for every engine and machine.

    As the recordings rebuild them: for each layer in order, each blob uniform in ±bound, with √(6 / fan-in)
    for blob 0 (fan-in: the product of its shape after the first axis) and 0.1 for the others, drawn by
    NumPy's `RandomState(seed)`. BatchNorm's blobs are statistics instead: means within ±0.1, variances
    within 1 ± 0.1, and a factor of 1.
    """
    generator = np.random.RandomState(seed)
    layers = []
    for name, layer_type in layer_types(net).items():
        arrays = []
        for i, blob in enumerate(net.params[name]):
            shape = blob.data.shape
            statistics = layer_type == "BatchNorm"
            bound = 0.1 if i or statistics else math.sqrt(6 / math.prod(shape[1:]))
            array = ((2 * generator.random_sample(shape) - 1) * bound).astype(np.float32)
            arrays.append((array, 1 + array, np.ones_like(array))[i] if statistics else array)
        layers.append(LayerWeights(name, layer_type, arrays))
    return layers


def layer_types(net: Any) -> dict[str, str]:
    """Layer name → type, of the layers of a pycaffe net that have weights."""
    types = dict(zip(net._layer_names, (layer.type for layer in net.layers), strict=True))
    return {name: types[name] for name in net.params}
