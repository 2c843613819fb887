"""Layers that move values about without changing them."""

import torch
from torch import Tensor

from port.layer import Layer, layer
from prototxt.caffe_pb2 import ReductionParameter
from prototxt.layers.reshaping import crop_starts
from prototxt.layers.windows import canonical_axis


@layer("Flatten", "Reshape")
class Reshape(Layer):
    """The same values in another shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.plan.top_shapes(tuple(x.shape))[0])


@layer("Tile")
class Tile(Layer):
    """`tiles` copies, one behind the other along `axis`."""

    def forward(self, x: Tensor) -> Tensor:
        axis = canonical_axis(self.param.tile_param.axis, x.ndim)
        return torch.cat([x] * self.param.tile_param.tiles, axis)


@layer("Crop")
class Crop(Layer):
    """The first bottom cut to the second's sizes from `axis` on, `offset` from its start."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        first = canonical_axis(self.param.crop_param.axis, x.ndim)
        starts = crop_starts(self.param, tuple(x.shape), tuple(like.shape))
        for axis in range(first, x.ndim):
            x = x.narrow(axis, starts[axis], like.shape[axis])
        return x


@layer("Reduction")
class Reduction(Layer):
    """The axes from `axis` on as one number: `coeff` times SUM, MEAN, ASUM (absolutes) or SUMSQ (squares)."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.reduction_param
        rows = x.flatten(canonical_axis(param.axis, x.ndim))
        coeff = param.coeff
        if param.operation == ReductionParameter.ASUM:
            rows = rows.abs()
        elif param.operation == ReductionParameter.SUMSQ:
            rows = rows.square()
        elif param.operation == ReductionParameter.MEAN:
            coeff /= rows.shape[-1]
        return rows.sum(-1) * coeff
