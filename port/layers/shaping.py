"""Layers that move values about without changing them."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import refuse_in_place
from prototxt.caffe_pb2 import ConcatParameter, SliceParameter
from prototxt.errors import InputError
from prototxt.geometry import canonical_axis


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


@layer("Concat")
class Concat(Layer):
    """The bottoms, one behind the other along `axis`."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        first = bottoms[0]
        axis = _joining_axis(self.param.concat_param, "concat_dim", first.ndim)
        for bottom in bottoms:
            if _without(bottom.shape, axis) != _without(first.shape, axis) or bottom.ndim != first.ndim:
                shapes = ", ".join(str(tuple(b.shape)) for b in bottoms)
                raise InputError(f"the bottoms may differ along axis {axis} only: {shapes}")
        return torch.cat(bottoms, axis)


@layer("Slice")
class Slice(Layer):
    """The parts of the bottom along `axis`: cut at each `slice_point`, or into equal ones."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        param, tops = self.param.slice_param, len(self.plan.tops)
        axis = _joining_axis(param, "slice_dim", x.ndim)
        size = x.shape[axis]
        if param.slice_point:
            cuts = [0, *param.slice_point, size]
            sizes = [after - before for before, after in pairwise(cuts)]
            if len(sizes) != tops or min(sizes) < 1:
                raise InputError(
                    f"slice_point {list(param.slice_point)} does not cut axis {axis} ({size}) into {tops}: "
                    "give one point less than tops, rising"
                )
            return torch.split(x, sizes, axis)
        if size % tops:
            raise InputError(f"{tops} tops do not divide the size {size} of axis {axis}: give slice_point")
        return torch.split(x, [size // tops] * tops, axis)


def _joining_axis(param: ConcatParameter | SliceParameter, older: str, axes: int) -> int:
    """`axis`, or its older name, which knows no negative numbers."""
    if not param.HasField(older):
        return canonical_axis(param.axis, axes)
    if param.HasField("axis"):
        raise InputError(f"give axis or {older}, not both")
    if getattr(param, older) >= axes:
        raise InputError(f"{older} {getattr(param, older)} is out of range for a blob of {axes} axes")
    return getattr(param, older)


def _without(shape: torch.Size, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


@layer("Split")
class Split(Layer):
    """The bottom, once for each reader."""

    def set_up(self, shape: Shape) -> None:
        refuse_in_place(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.plan.tops)


@layer("Silence")
class Silence(Layer):
    """Nothing: it keeps blobs from being outputs."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        return ()


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
