"""The reference's layers. Importing this package registers them all."""

from reference.layers import (
    combining,
    convolution,
    erasing,
    inner_product,
    interp,
    losses,
    metrics,
    neuron,
    normalisation,
    pooling,
    recurrent,
    reshaping,
    scaling,
    selecting,
    softmax,
    source,
)

__all__ = [
    "combining",
    "convolution",
    "erasing",
    "inner_product",
    "interp",
    "losses",
    "metrics",
    "neuron",
    "normalisation",
    "pooling",
    "recurrent",
    "reshaping",
    "scaling",
    "selecting",
    "softmax",
    "source",
]
