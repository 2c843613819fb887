"""Layers that make a map larger: by a pooling's places, or by repeating."""

import numpy as np

from prototxt.errors import InputError
from prototxt.forks import meaning
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
        self.places = checked_places(places, top[2] * top[3]).reshape(x.shape[0] * x.shape[1], -1)
        y = np.zeros((len(self.places), top[2] * top[3]), self.dtype)
        for plane, values, to in zip(y, x.reshape(self.places.shape), self.places, strict=True):
            plane[to] = values
        return y.reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x, (dy,) = bottoms[0], top_diffs
        if not self.segnet:
            num, channels, height, width = x.shape
            return [dy.reshape(num, channels, height, -1, width, dy.shape[3] // width).sum(axis=(3, 5))]
        rows = dy.reshape(len(self.places), -1)
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
