"""The layers that end CMU's pose nets (caffe_rtpose): by its GPU code."""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.pose import scale_pad
from reference.layer import Arrays, Layer, layer

SINGLE = np.float32
"""Places are in single precision, whatever the net's."""

AROUND = 3


class _NoGradient(Layer):
    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        raise InputError(f"{self.type} has no gradient to give, in Caffe neither")


@layer("ImResize")
class ImResize(_NoGradient):
    """Cubic enlargement of each item without its padding, the mean over the items.

    Four places count, the last of them again where there is no further one. Before the first place the curve goes on.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.imresize_param
        height, width = self.plan.top_shapes(x.shape)[0][2:]
        total = self.dtype.type(0)
        for n, maps in enumerate(x):
            down, across = (scale_pad(param, n, size) for size in maps.shape[1:])
            inner = maps[:, down : maps.shape[1] - down, across : maps.shape[2] - across]
            rows = self._curve(np.moveaxis(inner, 2, 0), width)  # columns first
            total = total + self._curve(np.moveaxis(rows, 2, 0), height)
        return total.transpose(2, 0, 1)[None] / self.dtype.type(len(x))

    def _curve(self, values: np.ndarray, count: int) -> np.ndarray:
        """`count` values along the first axis, which holds `len(values)`."""
        size = len(values)
        scale = SINGLE(size) / SINGLE(count)
        offset = SINGLE(np.float64(SINGLE(count) / SINGLE(size) / SINGLE(2)) - 0.5)
        place = (np.arange(count, dtype=SINGLE) - offset) * scale
        second = np.maximum(np.trunc(place.astype(np.float64) + 1e-5).astype(np.int64), 0)
        first, third = np.maximum(second - 1, 0), np.minimum(second + 1, size - 1)
        fourth = np.minimum(third + 1, size - 1)
        d = (place - second.astype(SINGLE)).astype(self.dtype).reshape(-1, *(1,) * (values.ndim - 1))
        a, b, c, e = (values[at] for at in (first, second, third, fourth))
        half, more, two = (self.dtype.type(v) for v in (0.5, 1.5, 2.5))
        cubic = -half * a + more * b - more * c + half * e
        square = a - two * b + 2 * c - half * e
        return cubic * d * d * d + square * d * d + (-half * a + half * c) * d + b


@layer("Nms")
class Nms(_NoGradient):
    """Local maxima above `threshold`: for each part a row that begins with their number, then [x, y, value].

    Only what is larger than all 8 around it, and not at the border. Positions are means over 7 × 7 places weighed by
    what is above 0. As in that code, rows are held against the WIDTH, row and column 0 never count, items lie
    `num_parts` channels apart, and behind the map's last row comes the memory's next; behind its end nothing. Rows
    behind the peaks, which Caffe leaves as they were, are 0.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.nms_param
        num, _, height, width = x.shape
        top = np.zeros((num, param.num_parts, param.max_peaks + 1, 3), self.dtype)
        memory = x.reshape(-1)
        for n, part in np.ndindex(num, param.num_parts):
            start = (n * param.num_parts + part) * height * width
            values = memory[start : start + height * width].reshape(height, width)
            peaks = self._peaks(values)
            top[n, part, 0, 0] = len(peaks)
            for row, (y, z) in zip(top[n, part, 1:], peaks, strict=False):
                row[:2] = self._middle(memory[start:], width, y, z)
                row[2] = values[y, z]
        return top

    def _peaks(self, values: np.ndarray) -> np.ndarray:
        """Rows and columns of the peaks, in row order."""
        height, width = values.shape
        found = np.zeros(values.shape, bool)
        if min(height, width) > 2:
            inner = values[1:-1, 1:-1]
            higher = inner > self.dtype.type(self.param.nms_param.threshold)
            for down, across in np.ndindex(3, 3):
                if (down, across) != (1, 1):
                    higher &= inner > values[down : height - 2 + down, across : width - 2 + across]
            found[1:-1, 1:-1] = higher
        return np.argwhere(found)

    def _middle(self, memory: np.ndarray, width: int, y: int, x: int) -> tuple[np.floating, np.floating]:
        sums = np.zeros(3, SINGLE)
        for down in range(y - AROUND, y + AROUND + 1):
            for across in range(x - AROUND, x + AROUND + 1):
                at = down * width + across
                if 0 < down < width and 0 < across < width and at < len(memory) and memory[at] > 0:
                    score = SINGLE(memory[at])
                    sums += np.array([SINGLE(across) * score, SINGLE(down) * score, score])
        with np.errstate(invalid="ignore"):
            return sums[0] / sums[2], sums[1] / sums[2]
