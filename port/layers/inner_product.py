"""InnerProduct, and its sparse relative Embed."""

import math

import torch.nn.functional as F
from torch import Tensor

from port.gradient import refuse_gradient
from port.layer import Layer, Shape, layer
from port.layers.checks import class_numbers
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


@layer("InnerProduct")
class InnerProduct(Layer):
    """A matrix product over the axes from `axis` on, flattened."""

    def set_up(self, shape: Shape) -> None:
        param = self.param.inner_product_param
        self.axis = canonical_axis(param.axis, len(shape))
        self.inputs = math.prod(shape[self.axis :])
        sizes = (param.num_output, self.inputs)
        self.add_weight(sizes[::-1] if param.transpose else sizes, param.weight_filler)
        if param.bias_term:
            self.add_weight((param.num_output,), param.bias_filler)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        if math.prod(shape[self.axis :]) != self.inputs:
            raise InputError(
                f"the weights are for {self.inputs} inputs, the bottom {tuple(shape)} gives "
                f"{math.prod(shape[self.axis :])} from axis {self.axis} on"
            )
        return [(*shape[: self.axis], self.param.inner_product_param.num_output)]

    def forward(self, x: Tensor) -> Tensor:
        self.top_shapes(tuple(x.shape))
        weight, bias = (*self.blobs, None)[:2]
        if self.param.inner_product_param.transpose:
            weight = weight.T
        return F.linear(x.flatten(self.axis), weight, bias)


@layer("Embed")
class Embed(Layer):
    """A row of the weights for each index: InnerProduct on one-hot vectors. The indices get no gradient."""

    def set_up(self, shape: Shape) -> None:
        param = self.param.embed_param
        if not param.num_output or not param.input_dim:
            raise InputError("embed_param: num_output and input_dim must be at least 1")
        self.add_weight((param.input_dim, param.num_output), param.weight_filler)
        if param.bias_term:
            self.add_weight((param.num_output,), param.bias_filler)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        return [(*shape, self.param.embed_param.num_output)]

    def forward(self, indices: Tensor) -> Tensor:
        weight, *bias = self.blobs
        top = F.embedding(class_numbers(indices, weight.shape[0]), weight)
        top = top + bias[0] if bias else top
        return refuse_gradient(self, top, indices, 0, "indices")
