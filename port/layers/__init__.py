"""The port's layers. Importing this package registers them all."""

from port.layers import convolution, erasing, neuron, pooling, source

__all__ = ["convolution", "erasing", "neuron", "pooling", "source"]
