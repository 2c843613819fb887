"""Max and average pooling with Caffe's rounding and borders."""

import math
from functools import reduce

import numpy as np

from prototxt.caffe_pb2 import PoolingParameter
from prototxt.layers.declare import Shape
from prototxt.layers.pooling import pyramid
from prototxt.layers.windows import pooled_sizes, pooling_window
from reference.layer import Arrays, Layer, flat_from, layer


@layer("Pooling")
class Pooling(Layer):
    """MAX and AVE pooling (pooling_layer.cpp).

    The output size is rounded up. MAX ignores the padding, takes the first of equals, and gives its index
    in the map as an optional second top. AVE divides by the window's size cut at the padded map's far
    border, padding included.
    """

    def set_up(self) -> None:
        self.pool = _Pool(self.param.pooling_param, self.dtype)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        return self.pool.run(x)[: len(self.plan.tops)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        return self.pool.grad(bottoms[0], top_diffs[0])


class _Pool:
    """One pooling of a map, forward and backward."""

    def __init__(self, param: PoolingParameter, dtype: np.dtype):
        self.param, self.dtype = param, dtype

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """The pooled map and, of MAX, the places."""
        self.window = pooling_window(self.param, *x.shape[2:])
        out = pooled_sizes(self.param, self.window, x.shape[2:])
        if self.param.pool == PoolingParameter.AVE:
            windows = self._windows(x, 0, out)
            self.divisor = self._divisor(x.shape[2:], out)
            return [windows.sum(axis=(-2, -1)) / self.divisor]
        windows = self._windows(x, -float(np.finfo(np.float32).max), out)
        flat = flat_from(windows, 4)
        best = flat.argmax(axis=-1)
        places = x.shape[2] * x.shape[3]
        self.index = self._index_in_map(best, x.shape[2:], out) if places else np.full(best.shape, -1)
        return [np.take_along_axis(flat, best[..., None], -1)[..., 0], self.index.astype(self.dtype)]

    def grad(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        if self.param.pool == PoolingParameter.AVE:
            return self._spread(dy / self.divisor, x.shape)
        planes = x.shape[0] * x.shape[1]
        dx = np.zeros((planes, x.shape[2] * x.shape[3]), self.dtype)
        rows = np.repeat(np.arange(planes), math.prod(dy.shape[2:]))
        index = self.index.reshape(-1)
        np.add.at(dx, (rows[index >= 0], index[index >= 0]), dy.reshape(-1)[index >= 0])
        return dx.reshape(x.shape)

    def _padded(self, x: np.ndarray, value: float, out: Shape) -> np.ndarray:
        """`x` with its padding, and whatever more the last windows reach over."""
        w = self.window
        far = [
            max(p, (n - 1) * s + k - p - size)
            for n, s, k, p, size in zip(out, w.stride, w.kernel, w.pad, x.shape[2:], strict=True)
        ]
        pads = [(0, 0), (0, 0), *zip(w.pad, far, strict=True)]
        return np.pad(x, pads, constant_values=self.dtype.type(value))

    def _windows(self, x: np.ndarray, value: float, out: Shape) -> np.ndarray:
        """(num, channels, *out, *kernel)"""
        padded = self._padded(x, value, out)
        view = np.lib.stride_tricks.sliding_window_view(padded, self.window.kernel, (2, 3))
        (sh, sw), (oh, ow) = self.window.stride, out
        return view[:, :, ::sh, ::sw][:, :, :oh, :ow]

    def _divisor(self, sizes: Shape, out: Shape) -> np.ndarray:
        spans = []
        for n, s, k, p, size in zip(
            out, self.window.stride, self.window.kernel, self.window.pad, sizes, strict=True
        ):
            start = np.arange(n) * s - p
            spans.append(np.minimum(start + k, size + p) - start)
        return np.outer(*spans).astype(self.dtype)

    def _index_in_map(self, best: np.ndarray, sizes: Shape, out: Shape) -> np.ndarray:
        """Positions in the flat map; -1 for a window that misses the map (a stride beyond the kernel)."""
        (_, kw), (sh, sw), (ph, pw) = self.window.kernel, self.window.stride, self.window.pad
        rows = np.arange(out[0])[:, None] * sh - ph + best // kw
        columns = np.arange(out[1])[None, :] * sw - pw + best % kw
        return np.where((rows < sizes[0]) & (columns < sizes[1]), rows * sizes[1] + columns, -1)

    def _spread(self, share: np.ndarray, shape: Shape) -> np.ndarray:
        """Add each output's share to all positions of its window."""
        (kh, kw), (sh, sw), (ph, pw) = self.window.kernel, self.window.stride, self.window.pad
        oh, ow = share.shape[2:]
        padded = self._padded(np.zeros(shape, self.dtype), 0, (oh, ow))
        for i in range(kh):
            for j in range(kw):
                padded[:, :, i : i + sh * (oh - 1) + 1 : sh, j : j + sw * (ow - 1) + 1 : sw] += share
        return padded[:, :, ph : ph + shape[2], pw : pw + shape[3]]


@layer("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: level i pools the map in about 2^i by 2^i windows; all levels make one row."""

    def run(self, x: np.ndarray) -> np.ndarray:
        self.levels = [_Pool(level, self.dtype) for level in pyramid(self.param.spp_param, *x.shape[2:])]
        pooled = [level.run(x)[0] for level in self.levels]
        self.shapes = [part.shape for part in pooled]
        if len(pooled) == 1:
            return pooled[0]
        return np.concatenate([flat_from(part, 1) for part in pooled], axis=1)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        ends = np.cumsum([math.prod(shape[1:]) for shape in self.shapes])
        parts = np.split(flat_from(dy, 1), ends[:-1], axis=1) if len(self.levels) > 1 else [dy]
        grads = [
            level.grad(x, part.reshape(shape))
            for level, part, shape in zip(self.levels, parts, self.shapes, strict=True)
        ]
        return reduce(np.add, grads)
