"""Layers that move values about without changing them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import Layer, layer
from prototxt.caffe_pb2 import ReductionParameter
from prototxt.layers.declare import legacy_shape
from prototxt.layers.reshaping import crop_starts, moves_nothing, permuted_axes
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


@layer("Crop", "AutoCrop")
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
            count = rows.shape[-1]
            coeff = coeff / count if count else math.nan  # Caffe: the sum of nothing times infinity
        return rows.sum(-1) * coeff


@layer("ShuffleChannel")
class ShuffleChannel(Layer):
    """The channels, read as `group` rows, column by column."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.param.shuffle_channel_param.group, -1)).transpose(1, 2).flatten(1, 2)


@layer("Reorg")
class Reorg(Layer):
    """Darknet's reorg: the values, read as a blob of stride² times fewer channels, their blocks made channels.

    `reverse` is the inverse. The gradient is the inverse's, where the published code reads an unset buffer.
    """

    def forward(self, x: Tensor) -> Tensor:
        (top_shape,) = self.plan.top_shapes(tuple(x.shape))
        stride, (num, channels, height, width) = self.param.reorg_param.stride, x.shape
        blocks = channels // stride**2
        if self.param.reorg_param.reverse:
            parts = x.reshape(num, stride, stride, blocks, height, width).permute(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(num, blocks, height, stride, width, stride).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(top_shape)


@layer("Padding")
class Padding(Layer):
    """Zeros around the map; less of the map where the numbers are negative."""

    def forward(self, x: Tensor) -> Tensor:
        sides = [self.param.padding_param.pad_beg, self.param.padding_param.pad_end]
        return F.pad(x.reshape(legacy_shape(tuple(x.shape))), sides * 2)


@layer("Transpose")
class Transpose(Layer):
    """Top axis i is bottom axis `dim`[i]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(tuple(self.param.transpose_param.dim))


@layer("Reverse")
class Reverse(Layer):
    """The other way around along `axis`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.param.reverse_param.axis)


@layer("Flip")
class Flip(Layer):
    """Mirrored: left and right, top and bottom, or both."""

    def forward(self, x: Tensor) -> Tensor:
        param = self.param.flip_param
        axes = [axis for axis, chosen in ((2, param.flip_height), (3, param.flip_width)) if chosen]
        return x.reshape(legacy_shape(tuple(x.shape))).flip(axes).reshape(x.shape)


@layer("Permute")
class Permute(Layer):
    """The axes in another order."""

    def forward(self, x: Tensor) -> Tensor:
        # A view where nothing moves: the top is the bottom's memory, in Caffe.
        return x.view_as(x) if moves_nothing(self.param) else x.permute(permuted_axes(self.param, x.ndim))
