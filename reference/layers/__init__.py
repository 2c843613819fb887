"""The reference's layers. Importing this package registers them all."""

from reference.layers import (
    activations,
    combining,
    convolution,
    data,
    erasing,
    inner_product,
    inputs,
    interp,
    losses,
    metrics,
    normalisation,
    pooling,
    recurrent,
    reshaping,
    scaling,
    selecting,
)

__all__ = [
    "activations",
    "combining",
    "convolution",
    "data",
    "erasing",
    "inner_product",
    "inputs",
    "interp",
    "losses",
    "metrics",
    "normalisation",
    "pooling",
    "recurrent",
    "reshaping",
    "scaling",
    "selecting",
]
