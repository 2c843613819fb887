"""Interp, of the group's fork: bilinear resizing with the corners aligned."""

import numpy as np

from prototxt.layers.declare import legacy_shape
from prototxt.layers.interp import cropped_sizes
from reference.layer import Arrays, Layer, layer


@layer("Interp")
class Interp(Layer):
    """Resizes (num, channels, height, width), less the borders that negative `pad_beg` and `pad_end` cut off.

    Of the settings, a lone `shrink_factor` or `zoom_factor` comes first, then `height` with `width`, then
    both factors (shrinking first). zoom 8 makes 41 of 6: the distances between positions are multiplied.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(x.shape)
        self.sizes = cropped_sizes(self.param.interp_param, legacy_shape(x.shape)[2:])
        x = self._inside(x.reshape(legacy_shape(x.shape)))
        low, high, part = self._taps(3, top[3])
        x = (1 - part) * x[..., low] + part * x[..., high]
        low, high, part = self._taps(2, top[2])
        part = part[:, None]
        return (1 - part) * x[:, :, low] + part * x[:, :, high]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        dx = np.zeros(legacy_shape(bottoms[0].shape), self.dtype)
        self._inside(dx)[...] = self._fold(self._fold(top_diffs[0], 2), 3)
        return dx.reshape(bottoms[0].shape)

    def _inside(self, x: np.ndarray) -> np.ndarray:
        """What the crop leaves. It begins at -pad_beg on both axes."""
        start = -self.param.interp_param.pad_beg
        height, width = self.sizes
        return x[:, :, start : start + height, start : start + width]

    def _taps(self, axis: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each output position on `axis`: the two inputs around it, and how far from the first it is."""
        size = self.sizes[axis - 2]
        # Positions are float32 in Caffe, also where the net is double.
        step = np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
        position = step * np.arange(out, dtype=np.float32)
        low = position.astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (position - low.astype(np.float32)).astype(self.dtype)

    def _fold(self, dy: np.ndarray, axis: int) -> np.ndarray:
        """The adjoint of the interpolation along `axis`."""
        dy = np.moveaxis(dy, axis, 0)
        dx = np.zeros((self.sizes[axis - 2], *dy.shape[1:]), self.dtype)
        for low, high, part, values in zip(*self._taps(axis, len(dy)), dy, strict=True):
            dx[low] += (1 - part) * values
            dx[high] += part * values
        return np.moveaxis(dx, 0, axis)
