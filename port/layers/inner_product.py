"""InnerProduct, and its sparse relative Embed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from port.gradient import refuse_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.layers.windows import canonical_axis


@layer("InnerProduct")
class InnerProduct(Layer):
    """A matrix product over the axes from `axis` on, flattened."""

    def set_up(self) -> None:
        self.axis = canonical_axis(self.param.inner_product_param.axis, len(self.plan.bottom_shapes[0]))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (*self.blobs, None)[:2]
        if self.param.inner_product_param.transpose:
            weight = weight.T
        return F.linear(x.flatten(self.axis), weight, bias)


@layer("Embed")
class Embed(Layer):
    """A row of the weights for each index: InnerProduct on one-hot vectors. The indices get no gradient."""

    def forward(self, indices: Tensor) -> Tensor:
        weight, *bias = self.blobs
        top = F.embedding(class_numbers(indices, weight.shape[0], what="index"), weight)
        top = top + bias[0] if bias else top
        return refuse_gradient(self, top, indices, 0, "indices")


@layer("InnerDistance")
class InnerDistance(Layer):
    """Each item's squared (or L1) distance to each centre: the weight's rows, or the items of bottom 1."""

    def forward(self, x: Tensor, centers: Tensor | None = None) -> Tensor:
        param = self.param.inner_distance_param
        bottoms = (x,) if centers is None else (x, centers)
        (shape,) = self.plan.top_shapes(*(tuple(bottom.shape) for bottom in bottoms))
        if centers is None:
            centers = self.blobs[0]
            if param.normalize:  # for good, as published
                with torch.no_grad():
                    centers /= (centers.square().sum(1, keepdim=True) + 1e-6).sqrt()
        rows = centers.flatten(1)
        difference = x.reshape(math.prod(shape[:-1]), 1, rows.shape[1]) - rows
        return (
            (difference.abs() if param.distance_type == "L1" else difference.square()).sum(2).reshape(shape)
        )
