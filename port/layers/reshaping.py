"""Layers that move values about without changing them."""

import math

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import refuse_in_place
from prototxt.caffe_pb2 import ReductionParameter
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis


@layer("Flatten")
class Flatten(Layer):
    """Axes `axis` to `end_axis` as one."""

    def set_up(self, shape: Shape) -> None:
        refuse_in_place(self)

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.flatten_param
        start, end = canonical_axis(param.axis, len(shape)), canonical_axis(param.end_axis, len(shape)) + 1
        if start > end:
            raise InputError(f"flatten_param: axis {param.axis} comes behind end_axis {param.end_axis}")
        return [(*shape[:start], math.prod(shape[start:end]), *shape[end:])]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.top_shapes(tuple(x.shape))[0])


@layer("Reshape")
class Reshape(Layer):
    """Axes from `axis` on, `num_axes` of them, become `shape`: 0 copies a size, -1 takes the rest."""

    def set_up(self, shape: Shape) -> None:
        refuse_in_place(self)
        if list(self.param.reshape_param.shape.dim).count(-1) > 1:
            raise InputError("reshape_param: only one dim may be -1")

    def top_shapes(self, shape: Shape) -> list[Shape]:
        param = self.param.reshape_param
        # A negative axis counts places between axes: -1 is behind the last.
        start = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
        end = len(shape) if param.num_axes == -1 else start + param.num_axes
        if not 0 <= start <= end <= len(shape):
            raise InputError(
                f"reshape_param: axis {param.axis} and num_axes {param.num_axes} do not fit a bottom {shape}"
            )
        middle = list(param.shape.dim)
        for i, size in enumerate(middle):
            if size == 0:
                if start + i >= len(shape):
                    raise InputError(
                        f"reshape_param: dim {i} is 0, but the bottom {tuple(shape)} has no such axis"
                    )
                middle[i] = shape[start + i]
        count = math.prod(shape)
        if -1 in middle:
            rest = math.prod(shape[:start]) * math.prod(shape[end:]) * math.prod(d for d in middle if d != -1)
            middle[middle.index(-1)] = count // rest if rest > 0 else 0
        top = (*shape[:start], *middle, *shape[end:])
        if math.prod(top) != count or any(size < 0 for size in top):
            raise InputError(f"reshape_param: shape {list(param.shape.dim)} does not fit a bottom {shape}")
        return [top]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.top_shapes(tuple(x.shape))[0])


@layer("Tile")
class Tile(Layer):
    """`tiles` copies, one behind the other along `axis`."""

    def set_up(self, shape: Shape) -> None:
        if self.param.tile_param.tiles < 1:
            raise InputError("tile_param: give tiles, at least 1")

    def forward(self, x: Tensor) -> Tensor:
        axis = canonical_axis(self.param.tile_param.axis, x.ndim)
        return torch.cat([x] * self.param.tile_param.tiles, axis)


@layer("Crop")
class Crop(Layer):
    """The first bottom cut to the second's sizes from `axis` on, `offset` from its start."""

    def top_shapes(self, shape: Shape, like: Shape) -> list[Shape]:
        axis = canonical_axis(self.param.crop_param.axis, len(shape))
        self._offsets(shape, like)
        return [(*shape[:axis], *like[axis : len(shape)])]

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        first = canonical_axis(self.param.crop_param.axis, x.ndim)
        for axis, offset in enumerate(self._offsets(tuple(x.shape), tuple(like.shape)), first):
            x = x.narrow(axis, offset, like.shape[axis])
        return x

    def _offsets(self, shape: Shape, like: Shape) -> list[int]:
        """One offset for each axis that is cut."""
        axis, offsets = (
            canonical_axis(self.param.crop_param.axis, len(shape)),
            list(self.param.crop_param.offset),
        )
        cut = len(shape) - axis
        if len(offsets) not in (0, 1, cut):
            raise InputError(
                f"crop_param: {len(offsets)} offsets for {cut} axes from axis {axis} on: give 1 or one each"
            )
        if len(like) < len(shape):
            raise InputError(f"the bottom to crop has {len(shape)} axes, the one to crop it to {len(like)}")
        offsets = offsets if len(offsets) == cut else (offsets or [0]) * cut
        for size, due, offset in zip(shape[axis:], like[axis:], offsets, strict=False):
            if offset + due > size:
                raise InputError(f"{tuple(shape)} from {offset} on cannot be cropped to {tuple(like)}")
        return offsets


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
