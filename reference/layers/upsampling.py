"""Layers that make a map larger: by a pooling's places, or by repeating."""

import numpy as np

from prototxt.caffe_pb2 import UnpoolingParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.upsampling import unpooling_window
from reference.layer import Arrays, Layer, layer


@layer("Upsample")
class Upsample(Layer):
    """SegNet's, with two bottoms: each value goes back to the place that a pooling took it from, zeros elsewhere.

    Where two values have one place, the last stays, and both get its gradient. With one bottom (MobileNet-YOLO):
    each value repeated `scale` times in both directions.
    """

    def run(self, x: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        self.segnet = meaning(self.param) == "SegNet"
        if not self.segnet:
            scale = self.param.upsample_param.scale or 1
            return x.repeat(scale, axis=2).repeat(scale, axis=3)
        (top,) = self.plan.top_shapes(x.shape, places.shape)
        planes = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
        self.places = checked_places(places, top[2] * top[3]).reshape(planes)
        y = np.zeros((len(self.places), top[2] * top[3]), self.dtype)
        for plane, values, to in zip(y, x.reshape(self.places.shape), self.places, strict=True):
            plane[to] = values
        return y.reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x, (dy,) = bottoms[0], top_diffs
        if not self.segnet:
            num, channels, height, width = x.shape
            scale = self.param.upsample_param.scale or 1
            return [dy.reshape(num, channels, height, scale, width, scale).sum(axis=(3, 5))]
        rows = dy.reshape(len(self.places), dy.shape[2] * dy.shape[3])
        return [np.take_along_axis(rows, self.places, 1).reshape(x.shape), None]


def checked_places(places: np.ndarray, count: int) -> np.ndarray:
    """Places as indices into planes of `count` values.

    Raises:
        InputError: a place outside of its plane.
    """
    with np.errstate(invalid="ignore"):
        indices = places.astype(np.int64)
    wrong = indices[(indices < 0) | (indices >= count)]
    if wrong.size:
        raise InputError(
            f"place {wrong[0]} is outside of a map of {count} values: give the size of the map that was pooled"
        )
    return indices


@layer("Unpooling")
class Unpooling(Layer):
    """DeconvNet's: MAX puts each value at its place (bottom 1), or at the start of its window; the last one stays.

    AVE spreads each value over its window, TILE repeats it there, and where windows meet the values are added up.
    TILE's gradient is divided by the window's size all the same, as published. The published CPU code of both adds
    to what the top held; its GPU code, and this, begin with zeros.
    """

    def run(self, x: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        (self.top,) = self.plan.top_shapes(x.shape, *([] if places is None else [places.shape]))
        param, (height, width) = self.param.unpooling_param, self.top[2:]
        if param.unpool != UnpoolingParameter.MAX:
            self.spans = [self._windows(axis, x.shape[axis]) for axis in (2, 3)]
            self.sizes = np.outer(*(span.sum(axis=1) for span in self.spans)).astype(self.dtype)
            return self._spread(x / self.sizes if param.unpool == UnpoolingParameter.AVE else x)
        if places is None:
            rows, columns = (
                np.minimum(np.arange(n) * step, size - 1)
                for n, step, size in zip(
                    x.shape[2:], unpooling_window(param).stride, (height, width), strict=True
                )
            )
            places = np.broadcast_to(rows[:, None] * width + columns, x.shape)
        self.places = checked_places(places, height * width).reshape(x.shape[0] * x.shape[1], -1)
        y = np.zeros((len(self.places), height * width), self.dtype)
        for plane, values, to in zip(y, x.reshape(self.places.shape), self.places, strict=True):
            plane[to] = values
        return y.reshape(self.top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x, (dy,) = bottoms[0], top_diffs
        if self.param.unpooling_param.unpool == UnpoolingParameter.MAX:
            dx = np.take_along_axis(dy.reshape(len(self.places), -1), self.places, 1).reshape(x.shape)
        else:
            rows, columns = self.spans
            dx = (rows @ dy @ columns.T) / self.sizes
        return [dx, None][: len(bottoms)]

    def _windows(self, axis: int, count: int) -> np.ndarray:
        """(windows, positions), 1 where a position of `axis` is within a window"""
        window = unpooling_window(self.param.unpooling_param)
        start = np.arange(count)[:, None] * window.stride[axis - 2]
        position = np.arange(self.top[axis])
        return ((position >= start) & (position < start + window.kernel[axis - 2])).astype(self.dtype)

    def _spread(self, x: np.ndarray) -> np.ndarray:
        rows, columns = self.spans
        return rows.T @ x @ columns
