"""Layers for optical flow (FlowNet2)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import refuse_gradient, refuse_if_forced
from port.layer import Layer, layer
from prototxt.caffe_pb2 import FlowWarpParameter, MeanParameter, ResampleParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.flow import displacements
from runtime.data.flow_files import FlowFiles
from weights.binaryproto import read_binaryproto


@layer("ChannelNorm")
class ChannelNorm(Layer):
    """The root of the channels' summed squares at each place."""

    def forward(self, x: Tensor) -> Tensor:
        return _ChannelNorm.apply(x.reshape(legacy_shape(tuple(x.shape))))


class _ChannelNorm(torch.autograd.Function):
    """The fork's gradient has a guard against a length of 0."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        top = x.square().sum(1, keepdim=True).sqrt()
        ctx.save_for_backward(x, top)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, top = ctx.saved_tensors
        return x * grad / (top + 1e-9)


@layer("FlowWarp")
class FlowWarp(Layer):
    """The image, each place taken from where the flow points, bilinearly; `fill_value` where that is outside."""

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        image, flow = (blob.reshape(legacy_shape(tuple(blob.shape))) for blob in (image, flow))
        zero = self.param.flow_warp_param.fill_value == FlowWarpParameter.ZERO
        return _Warp.apply(image, flow, 0.0 if zero else torch.nan)


@layer("Warp")
class Warp(Layer):
    """PWC-Net's FlowWarp: 0 outside of the outermost pixels' centres, and slopes of both sides at whole positions."""

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        image, flow = (blob.reshape(legacy_shape(tuple(blob.shape))) for blob in (image, flow))
        return _CentredWarp.apply(image, flow)


class _CentredWarp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, flow: Tensor) -> Tensor:
        ctx.save_for_backward(image, flow)
        inside, place, shares, _ = _neighbours(flow, image.shape, centred=True)
        rows = image.flatten(2)
        top = sum(share * _taken(rows, index) for share, index in zip(shares, place, strict=True))
        return top.where(inside, 0).reshape(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        image, flow = ctx.saved_tensors
        inside, place, shares, _ = _neighbours(flow, image.shape, centred=True)
        grad = grad.flatten(2).where(inside, 0)
        d_image = torch.zeros_like(image.flatten(2))
        for share, index in zip(shares, place, strict=True):
            d_image.scatter_add_(2, index.expand_as(d_image), grad * share)
        top_left, top_right, low_left, _ = place
        right = shares[1] + shares[3]  # how far right of the pixel to the left
        down = shares[2] + shares[3]
        across, along = _sided(image, 3), _sided(image, 2)
        by_x = (1 - down) * _side(across, right, top_left) + down * _side(across, right, low_left)
        by_y = (1 - right) * _side(along, down, top_left) + right * _side(along, down, top_right)
        d_flow = torch.stack([(grad * by_x).sum(1), (grad * by_y).sum(1)], 1)
        return d_image.reshape(image.shape), d_flow.reshape(flow.shape)


def _sided(image: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """For each pixel the step to the next one along `axis`, and half of both its steps; 0 at the borders."""
    steps = image.diff(dim=axis)
    border = torch.zeros_like(image.narrow(axis, 0, 1))
    after, before = torch.cat([steps, border], axis), torch.cat([border, steps], axis)
    return after.flatten(2), ((after + before) / 2).flatten(2)


def _side(steps: tuple[Tensor, Tensor], part: Tensor, index: Tensor) -> Tensor:
    after, both = (_taken(step, index) for step in steps)
    return torch.where(part == 0, both, after)


class _Warp(torch.autograd.Function):
    """Bilinear sampling. The flow's gradient is the fork's, which weighs by the distance to the clamped neighbour."""

    @staticmethod
    def forward(ctx, image: Tensor, flow: Tensor, fill: float) -> Tensor:
        ctx.save_for_backward(image, flow)
        inside, place, shares, _ = _neighbours(flow, image.shape)
        rows = image.flatten(2)
        top = sum(share * _taken(rows, index) for share, index in zip(shares, place, strict=True))
        return top.where(inside, fill).reshape(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, flow = ctx.saved_tensors
        inside, place, shares, (right, below) = _neighbours(flow, image.shape)
        grad = grad.flatten(2).where(inside, 0)
        rows = image.flatten(2)
        d_image = torch.zeros_like(rows)
        for share, index in zip(shares, place, strict=True):
            d_image.scatter_add_(2, index.expand_as(rows), grad * share)
        corners = [_taken(rows, index) for index in place]
        top_left, top_right, low_left, low_right = corners
        along_x = below * (top_right - top_left) + (1 - below) * (low_right - low_left)
        along_y = right * (low_left - top_left) + (1 - right) * (low_right - top_right)
        d_flow = torch.stack([(grad * along_x).sum(1), (grad * along_y).sum(1)], 1)
        return d_image.reshape(image.shape), d_flow.reshape(flow.shape), None


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(2, index.expand(*rows.shape[:2], -1))


def _neighbours(
    flow: Tensor, shape: torch.Size, centred: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Where the flow is inside; the four neighbours' places and shares; distances to the right and lower ones.

    Inside means before the last pixel's far side, or (`centred`) not beyond its centre. All are
    (num, 1, height · width). Positions are float32 whatever the blobs are, as in the forks.
    """
    height, width = shape[2:]
    steps = flow.detach().float()
    x = torch.arange(width, dtype=torch.float32, device=flow.device) + steps[:, :1]
    y = torch.arange(height, dtype=torch.float32, device=flow.device)[:, None] + steps[:, 1:]
    inside = (x >= 0) & (y >= 0)
    inside &= (x <= width - 1) & (y <= height - 1) if centred else (x < width) & (y < height)
    x, y = x.where(inside, 0), y.where(inside, 0)
    left, top = x.long(), y.long()
    right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    a, b = ((position - before).to(flow.dtype) for position, before in ((x, left), (y, top)))
    places = [row * width + column for row in (top, low) for column in (left, right)]
    shares = [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b]
    distances = [(after - position).to(flow.dtype) for after, position in ((right, x), (low, y))]
    return inside.flatten(2), *([each.flatten(2) for each in group] for group in (places, shares, distances))


@layer("Correlation", "Correlation1D")
class Correlation(Layer):
    """FlowNet2's cost volume: for each displacement, the mean product of the patches of both images.

    Correlation1D displaces along the row alone. What lies beyond the padding (`single_direction: -1`) is taken as 0:
    the published code reads the row above there, whose padding is 0, and for the first row whatever lies in memory.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        param = self.param.correlation_param
        downs, rights = displacements(self.param)
        furthest = max(param.max_displacement, -min(rights))
        flat = self.plan.type == "Correlation1D"
        beside, above = param.pad + furthest - param.max_displacement, 0 if flat else param.pad
        first, second = (
            F.pad(x.reshape(legacy_shape(tuple(x.shape))), [beside, beside, above, above])
            for x in (first, second)
        )
        start = 0 if flat else param.max_displacement
        height, width = first.shape[2] - 2 * start, first.shape[3] - 2 * furthest
        here = _block(first, start, furthest, height, width)
        volumes = [
            (here * _block(second, start + down, furthest + right, height, width)).mean(1, keepdim=True)
            for down in downs
            for right in rights
        ]
        patches = F.avg_pool2d(torch.cat(volumes, 1), param.kernel_size, 1)
        return patches[:, :, :: param.stride_1, :: param.stride_1]


def _block(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return x[:, :, top : top + height, left : left + width]


@layer("Resample")
class Resample(Layer):
    """FlowNet2's resizing: NEAREST, LINEAR or CUBIC, with wider kernels where it shrinks. It has no gradient."""

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        blobs = (x,) if like is None else (x, like)
        (shape,) = self.plan.top_shapes(*(tuple(blob.shape) for blob in blobs))
        maps = x.detach().reshape(legacy_shape(tuple(x.shape)))
        sizes, out = maps.shape[2:], shape[2:]
        fy, fx = (float(np.float32(size) / np.float32(n)) for size, n in zip(sizes, out, strict=True))
        shrinks = max(fx, fy) > 1
        # As published, the offset of the x positions comes from the y ratio, and the other way around.
        rows = self._kernel(fy, fx / 2 - 0.5, sizes[0], out[0], shrinks).to(maps)
        columns = self._kernel(fx, fy / 2 - 0.5, sizes[1], out[1], shrinks).to(maps)
        return refuse_if_forced(self, rows @ maps @ columns.T, x)

    def _kernel(self, ratio: float, offset: float, size: int, out: int, shrinks: bool) -> Tensor:
        """(out, size): rows of weights whose sum is 1."""
        param = self.param.resample_param
        position = torch.arange(out, dtype=torch.float32) * ratio + offset
        nearest = (position.abs() + 0.5).floor() * position.sign()
        each = torch.arange(size, dtype=torch.float32)
        if param.type == ResampleParameter.NEAREST:
            return (nearest.clamp(0, size - 1)[:, None] == each).float()
        cubic = param.type == ResampleParameter.CUBIC
        stretch = ratio if param.antialias and shrinks else 1.0
        reach = 2 if ratio < 1 else math.ceil((4 if cubic else 2) * stretch)
        d = ((position[:, None] - each) / stretch).abs()
        if cubic:
            weights = torch.where(d <= 1, (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2)
            weights = weights.where(d < 2, 0)
        else:
            weights = (1 - d).clamp(min=0)
        weights = weights.where((nearest[:, None] - each).abs() <= reach, 0)
        total = weights.sum(1, keepdim=True)
        return torch.where(total != 0, weights / total, 0)


@layer("Downsample")
class Downsample(Layer):
    """FlowNet2's shrinking by tents, corner on corner, that leaves out what is not a number. It has no gradient."""

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        blobs = (x,) if like is None else (x, like)
        (shape,) = self.plan.top_shapes(*(tuple(blob.shape) for blob in blobs))
        maps = x.detach().reshape(legacy_shape(tuple(x.shape)))
        if maps.shape == shape:
            return refuse_if_forced(self, maps.clone(), x)
        rows, columns = (_tents(maps.shape[axis], shape[axis]).to(maps) for axis in (2, 3))
        odd = maps.isnan()
        seen, unseen = (rows @ part.to(maps.dtype) @ columns.T for part in (~odd, odd))
        top = (rows @ maps.where(~odd, 0) @ columns.T) / seen
        return refuse_if_forced(self, top.where(unseen / seen <= 0.5, torch.nan), x)


def _tents(size: int, out: int) -> Tensor:
    """(out, size), in single precision"""
    step = np.float32(size - 1) / np.float32(out - 1)
    position = torch.arange(out, dtype=torch.float32) / (out - 1) * (size - 1)
    return (1 - (torch.arange(size) - position[:, None]).abs() / float(step)).clamp(min=0)


@layer("Accum")
class Accum(Layer):
    """FlowNet2's: maps stretched to one size, bilinearly, corner on corner, and put one behind the other."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        (top,) = self.plan.top_shapes(*(tuple(bottom.shape) for bottom in bottoms))
        count = len(bottoms) - self.param.accum_param.have_reference
        return torch.cat([_stretched(bottom, top[2:]) for bottom in bottoms[:count]], 1)


def _stretched(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    x = x.reshape(legacy_shape(tuple(x.shape)))
    for axis, out in zip((2, 3), sizes, strict=True):
        place = torch.arange(out, dtype=torch.float32, device=x.device) / (out - 1) * (x.shape[axis] - 1)
        before = place.floor().long()
        after = (before + 1).clamp(max=x.shape[axis] - 1)
        part = (place - before).to(x.dtype).reshape(-1, *(1,) * (3 - axis))
        x = (1 - part) * x.index_select(axis, before) + part * x.index_select(axis, after)
    return x


@layer("Mean")
class Mean(Layer):
    """FlowNet2's: adds or subtracts a mean, of a file or of a value for each channel. It has no gradient."""

    def set_up(self) -> None:
        param = self.param.mean_param
        if param.HasField("file"):
            mean = read_binaryproto(param.file).astype(np.float32)
        else:
            mean = np.array(param.value, np.float32).reshape(1, -1, 1, 1)
        if mean.ndim != 4:
            raise InputError(f"{param.file}: a mean of shape {mean.shape}: it must have 4 axes")
        self.channels = mean.shape[1]
        self.register_buffer("mean", torch.from_numpy(mean.reshape(-1, *mean.shape[2:])), persistent=False)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        param = self.param.mean_param
        sign = -1 if param.operation == MeanParameter.SUBTRACT else 1
        tops = []
        for x in bottoms:
            maps = x.detach().reshape(legacy_shape(tuple(x.shape)))
            if param.HasField("file") and (
                self.mean.shape[1:] != maps.shape[2:] or maps.shape[1] % self.channels
            ):
                shape = (len(self.mean) // self.channels, self.channels, *self.mean.shape[1:])
                raise InputError(f"{param.file}: a mean of {shape} does not fit {tuple(maps.shape)}")
            times = -(-maps.shape[1] // len(self.mean))
            mean = self.mean.to(maps).repeat(times, 1, 1)[: maps.shape[1]]
            tops.append(param.output_scale * (param.input_scale * maps + sign * param.mean_scale * mean))
        return tuple(
            refuse_gradient(self, top, x, i, "input")
            for i, (top, x) in enumerate(zip(tops, bottoms, strict=True))
        )


@layer("FLOWriter")
class FLOWriter(Layer):
    """Writes the flow of each image into a .flo file."""

    def set_up(self) -> None:
        self.files = FlowFiles(self.param.writer_param)

    def forward(self, flow: Tensor) -> tuple[()]:
        self.files.write(flow.detach().cpu().numpy())
        return ()
