"""Layers for optical flow (FlowNet2)."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from prototxt.caffe_pb2 import FlowWarpParameter, MeanParameter, ResampleParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.flow import displacements
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, layer
from runtime.data.flow_files import FlowFiles
from weights.binaryproto import read_binaryproto


@layer("ChannelNorm")
class ChannelNorm(Layer):
    """The length of each place's vector of channels."""

    def run(self, x: np.ndarray) -> np.ndarray:
        x = x.reshape(legacy_shape(x.shape))
        return np.sqrt((x * x).sum(axis=1, keepdims=True))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (y,), (dy,) = bottoms, tops, top_diffs
        dx = x.reshape(legacy_shape(x.shape)) * (dy / (y + self.dtype.type(1e-9)))  # the guard is the fork's
        return dx.reshape(x.shape)


class _Warping(Layer):
    """What FlowWarp and Warp share: the image at each place plus the flow there, bilinearly."""

    fill = 0.0

    def run(self, image: np.ndarray, flow: np.ndarray) -> np.ndarray:
        image = image.reshape(legacy_shape(image.shape))
        self._locate(image, flow.reshape(legacy_shape(flow.shape)))
        value = sum(share * self._at(image, *corner) for corner, share in self._shares().items())
        return np.where(self.inside[:, None], value, self.dtype.type(self.fill))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        shapes = [bottom.shape for bottom in bottoms]
        image, flow = (bottom.reshape(legacy_shape(bottom.shape)) for bottom in bottoms)
        self._locate(image, flow)
        dy = np.where(self.inside[:, None], top_diffs[0], self.dtype.type(0))
        d_image = np.zeros_like(image)
        for corner, share in self._shares().items():
            np.add.at(d_image, self._index(*corner), dy * share)
        d_flow = np.stack([(dy * slope).sum(axis=1) for slope in self.slopes(image)], axis=1)
        return [d_image.reshape(shapes[0]), d_flow.reshape(shapes[1])]

    def slopes(self, image: np.ndarray) -> list[np.ndarray]:
        """The top's slopes by the flow's x and y."""
        raise NotImplementedError

    def within(self, height: int, width: int) -> np.ndarray:
        """Where a position counts as inside."""
        raise NotImplementedError

    def _shares(self) -> dict[tuple[int, int], np.ndarray]:
        a, b = self.alpha, self.beta
        return {(0, 0): (1 - a) * (1 - b), (0, 1): a * (1 - b), (1, 0): (1 - a) * b, (1, 1): a * b}

    def _locate(self, image: np.ndarray, flow: np.ndarray) -> None:
        """Where each top value is taken from: in float32, whatever the net's dtype, as in the forks."""
        height, width = image.shape[2:]
        flow = flow.astype(np.float32)
        self.x = np.arange(width, dtype=np.float32) + flow[:, 0]
        self.y = np.arange(height, dtype=np.float32)[:, None] + flow[:, 1]
        self.inside = self.within(height, width)
        left, top = (np.where(self.inside, position, 0).astype(np.int64) for position in (self.x, self.y))
        self.columns = (left, np.minimum(left + 1, width - 1))
        self.rows = (top, np.minimum(top + 1, height - 1))
        self.alpha = np.where(self.inside, self.x - left, 0).astype(self.dtype)[:, None]
        self.beta = np.where(self.inside, self.y - top, 0).astype(self.dtype)[:, None]

    def _index(self, low: int, right: int) -> tuple:
        num = np.arange(len(self.x))[:, None, None, None]
        channels = np.arange(self.channels)[:, None, None]
        return num, channels, self.rows[low][:, None], self.columns[right][:, None]

    def _at(self, image: np.ndarray, low: int, right: int) -> np.ndarray:
        self.channels = image.shape[1]
        return image[self._index(low, right)]


@layer("FlowWarp")
class FlowWarp(_Warping):
    """The image at each place plus the flow there, bilinearly; outside of the image `fill_value`.

    The four neighbours are kept inside. The flow's gradient takes the clamped lower row less the position as a
    weight, which in the last row is not positive; so too with columns.
    """

    def set_up(self) -> None:
        if self.param.flow_warp_param.fill_value == FlowWarpParameter.NOT_A_NUMBER:
            self.fill = np.nan

    def within(self, height: int, width: int) -> np.ndarray:
        return (self.x >= 0) & (self.y >= 0) & (self.x < width) & (self.y < height)

    def slopes(self, image: np.ndarray) -> list[np.ndarray]:
        corners = {(i, j): self._at(image, i, j) for i in (0, 1) for j in (0, 1)}
        above, left = (
            (near - position).astype(self.dtype)[:, None]
            for near, position in ((self.rows[1], self.y), (self.columns[1], self.x))
        )
        return [
            above * (corners[0, 1] - corners[0, 0]) + (1 - above) * (corners[1, 1] - corners[1, 0]),
            left * (corners[1, 0] - corners[0, 0]) + (1 - left) * (corners[1, 1] - corners[0, 1]),
        ]


@layer("Warp")
class Warp(_Warping):
    """PWC-Net's: 0 for what is not between the outermost pixels' centres.

    Where a position is a whole number, the slope is the mean of both sides', a side outside of the image being 0.
    """

    def within(self, height: int, width: int) -> np.ndarray:
        return (self.x >= 0) & (self.y >= 0) & (self.x <= width - 1) & (self.y <= height - 1)

    def slopes(self, image: np.ndarray) -> list[np.ndarray]:
        self.channels = image.shape[1]
        return [self._slope(image, 3, self.alpha, self.beta), self._slope(image, 2, self.beta, self.alpha)]

    def _slope(self, image: np.ndarray, axis: int, part: np.ndarray, across: np.ndarray) -> np.ndarray:
        """The slope along `axis`, `part` being how far the position is from the pixel before it."""
        steps = np.diff(image, axis=axis)
        edge = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        steps = np.pad(steps, edge)  # step i leads to pixel i; those from and to the outside are 0
        found = []
        for side in (0, 1):
            num, channels, row, column = self._index(side if axis == 3 else 0, side if axis == 2 else 0)
            after = (num, channels, row + (axis == 2), column + (axis == 3))
            both = (steps[num, channels, row, column] + steps[after]) / self.dtype.type(2)
            found.append(np.where(part == 0, both, steps[after]))
        return (1 - across) * found[0] + across * found[1]


@layer("Correlation", "Correlation1D")
class Correlation(Layer):
    """Means over patches of image 0 times patches of image 1 that are displaced, one channel each displacement.

    Correlation1D's are displaced and padded along the row only. With `single_direction: -1` the furthest lie beyond the
    padding: the published code reads the padding of the row above there, and before the first row what happens to lie
    in memory; here both are 0. Its backward reads padded copies that forward kept.
    """

    def run(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(first.shape, second.shape)
        a, b = self.kept = self._padded(first), self._padded(second)
        y = np.zeros(top, self.dtype)
        for channel, place, other in self._places(top):
            y[:, channel] += (a[place] * b[other]).sum(axis=1)
        return y / self.dtype.type(self.size)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        (first, second), dy = bottoms, top_diffs[0] / self.dtype.type(self.size)
        a, b = self.kept
        da, db = np.zeros_like(a), np.zeros_like(b)
        for channel, place, other in self._places(dy.shape):
            da[place] += dy[:, channel, None] * b[other]
            db[other] += dy[:, channel, None] * a[place]
        inner = (
            ...,
            *(
                slice(pad, pad + size)
                for pad, size in zip(self.pads, legacy_shape(first.shape)[2:], strict=True)
            ),
        )
        return [da[inner].reshape(first.shape), db[inner].reshape(second.shape)]

    def _padded(self, x: np.ndarray) -> np.ndarray:
        """As far as the furthest displacement reaches; `self.starts` is where the first patch of image 0 begins."""
        x = x.reshape(legacy_shape(x.shape))
        param = self.param.correlation_param
        self.size = x.shape[1] * param.kernel_size**2
        beyond = max(0, -min(displacements(self.param)[1]) - param.max_displacement)
        flat = self.type == "Correlation1D"
        self.pads = (0 if flat else param.pad, param.pad + beyond)
        self.starts = (0 if flat else param.max_displacement, param.max_displacement + beyond)
        return np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in self.pads)])

    def _places(self, top: tuple[int, ...]) -> Iterator[tuple[int, tuple, tuple]]:
        """For each top channel and place in the kernel: what of both images is multiplied there."""
        kernel = self.param.correlation_param.kernel_size
        for channel, (down, right) in enumerate(product(*displacements(self.param))):
            for row, column in product(range(kernel), repeat=2):
                yield channel, self._cut(top, row, column), self._cut(top, row + down, column + right)

    def _cut(self, top: tuple[int, ...], row: int, column: int) -> tuple:
        stride = self.param.correlation_param.stride_1
        firsts = (start + step for start, step in zip(self.starts, (row, column), strict=True))
        return (
            ...,
            *(
                slice(first, first + (n - 1) * stride + 1, stride)
                for first, n in zip(firsts, top[2:], strict=True)
            ),
        )


def _tent(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = x * x * (np.float32(1.5) * x - np.float32(2.5)) + 1
    far = x * (x * (np.float32(-0.5) * x + np.float32(2.5)) - 4) + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


@layer("Resample")
class Resample(Layer):
    """NEAREST, LINEAR or CUBIC resizing, smoothed where it shrinks (`antialias`). FlowNet2's has no gradient.

    The offset of the x positions is half of the y ratio, and the other way around, as published.
    """

    def run(self, x: np.ndarray, *like: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape, *(blob.shape for blob in like))
        x = x.reshape(legacy_shape(x.shape))
        ratios = [np.float32(size) / np.float32(to) for size, to in zip(x.shape[2:], top[2:], strict=True)]
        rows, columns = (
            self._weights(ratios[i], ratios[1 - i], x.shape[2 + i], top[2 + i], max(ratios) > 1)
            for i in (0, 1)
        )
        return rows @ x @ columns.T

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "input")

    def _weights(
        self, ratio: np.float32, other: np.float32, size: int, out: int, shrinks: bool
    ) -> np.ndarray:
        """(out, size)"""
        param = self.param.resample_param
        position = np.arange(out, dtype=np.float32) * ratio + other / np.float32(2) - np.float32(0.5)
        nearest = np.trunc(position + np.copysign(np.float32(0.5), position)).astype(np.int64)
        each = np.arange(size)
        if param.type == ResampleParameter.NEAREST:
            return (np.clip(nearest, 0, size - 1)[:, None] == each).astype(self.dtype)
        cubic = param.type == ResampleParameter.CUBIC
        sharpness = 1 / ratio if param.antialias and shrinks else np.float32(1)
        reach = 2 if ratio < 1 else math.ceil(np.float32(4 if cubic else 2) / sharpness)
        distance = (position[:, None] - each).astype(np.float32) * sharpness
        weights = (_cubic if cubic else _tent)(distance) * (np.abs(nearest[:, None] - each) <= reach)
        total = weights.sum(axis=1, keepdims=True)
        return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0).astype(self.dtype)


@layer("Downsample")
class Downsample(Layer):
    """Shrinks by tents of one output pixel's width around each position; corners lie on corners.

    What is not a number is left out; where it weighs more than half of the rest, the result is not one. No gradient.
    """

    def run(self, x: np.ndarray, *like: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape, *(blob.shape for blob in like))
        x = x.reshape(legacy_shape(x.shape))
        if x.shape == top:
            return x
        rows, columns = (self._weights(size, to) for size, to in zip(x.shape[2:], top[2:], strict=True))
        odd = np.isnan(x)
        known = rows @ (~odd).astype(self.dtype) @ columns.T
        unknown = rows @ odd.astype(self.dtype) @ columns.T
        with np.errstate(all="ignore"):
            value = (rows @ np.where(odd, 0, x) @ columns.T) / known
            return np.where(unknown / known > 0.5, self.dtype.type(np.nan), value)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "input")

    def _weights(self, size: int, out: int) -> np.ndarray:
        position = np.arange(out, dtype=np.float32) / np.float32(out - 1) * np.float32(size - 1)
        width = np.float32(size - 1) / np.float32(out - 1)
        return _tent((np.arange(size, dtype=np.float32) - position[:, None]) / width).astype(self.dtype)


@layer("Accum")
class Accum(Layer):
    """Each bottom made as large as the top, bilinearly, corner on corner; their channels one after the other."""

    def run(self, *bottoms: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(*(bottom.shape for bottom in bottoms))
        return np.concatenate(
            [
                sum(share * x[..., rows, columns] for rows, columns, share in self._corners(x.shape, top))
                for x in self._maps(bottoms)
            ],
            axis=1,
        )

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        (dy,) = top_diffs
        found: list[np.ndarray | None] = [None] * len(bottoms)
        first = 0
        for i, x in enumerate(self._maps(bottoms)):
            part = dy[:, first : first + x.shape[1]]
            first += x.shape[1]
            dx = np.zeros_like(x)
            for rows, columns, share in self._corners(x.shape, dy.shape):
                np.add.at(dx, (..., rows, columns), share * part)
            found[i] = dx.reshape(bottoms[i].shape)
        return found

    def _maps(self, bottoms: Arrays) -> list[np.ndarray]:
        count = len(bottoms) - self.param.accum_param.have_reference
        return [bottom.reshape(legacy_shape(bottom.shape)) for bottom in bottoms[:count]]

    def _corners(
        self, shape: tuple[int, ...], top: tuple[int, ...]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each of four neighbours: rows (height, 1), columns (width) and what they weigh."""
        (above, down), (left, right) = (self._along(shape[axis], top[axis]) for axis in (2, 3))
        for i, j in product((0, 1), repeat=2):
            rows, columns = np.minimum(above + i, shape[2] - 1), np.minimum(left + j, shape[3] - 1)
            share = (down if i else 1 - down)[:, None] * (right if j else 1 - right)
            yield rows[:, None], columns, share

    def _along(self, size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.arange(out, dtype=np.float32) / np.float32(out - 1) * np.float32(size - 1)
        return np.floor(place).astype(np.int64), (place - np.floor(place)).astype(self.dtype)


@layer("Mean")
class Mean(Layer):
    """output_scale · (input_scale · x ± mean_scale · mean). It has no gradient."""

    def set_up(self) -> None:
        param = self.param.mean_param
        self.mean = (
            read_binaryproto(param.file).astype(self.dtype)
            if param.HasField("file")
            else np.array(param.value, self.dtype).reshape(1, -1, 1, 1)
        )
        if self.mean.ndim != 4:
            raise InputError(f"{param.file}: a mean of shape {self.mean.shape}: it must have 4 axes")

    def run(self, *bottoms: np.ndarray) -> list[np.ndarray]:
        param = self.param.mean_param
        scale, inner, outer = map(self.dtype.type, (param.mean_scale, param.input_scale, param.output_scale))
        if param.operation == MeanParameter.SUBTRACT:
            scale = -scale
        tops = []
        for x in bottoms:
            x = x.reshape(legacy_shape(x.shape))
            tops.append(outer * (inner * x + scale * self._repeated(x)))
        return tops

    def _repeated(self, x: np.ndarray) -> np.ndarray:
        """The mean for as many channels as `x` has: over and over again."""
        mean = self.mean.reshape(-1, *self.mean.shape[2:])
        if self.param.mean_param.HasField("file") and (
            self.mean.shape[2:] != x.shape[2:] or x.shape[1] % self.mean.shape[1]
        ):
            raise InputError(
                f"{self.param.mean_param.file}: a mean of {self.mean.shape} does not fit {x.shape}"
            )
        return np.resize(mean, (x.shape[1], *mean.shape[1:]))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        for i in range(len(bottoms)):
            refuse_gradient(self, i, "input")


@layer("FLOWriter")
class FLOWriter(Layer):
    def set_up(self) -> None:
        self.files = FlowFiles(self.param.writer_param)

    def run(self, flow: np.ndarray) -> None:
        self.files.write(flow)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
