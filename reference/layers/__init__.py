"""The reference's layers. Importing this package registers them all."""

from reference.layers import convolution, erasing, neuron, pooling, source

__all__ = ["convolution", "erasing", "neuron", "pooling", "source"]
