"""Layers for optical flow (FlowNet2)."""

import numpy as np

from prototxt.caffe_pb2 import FlowWarpParameter
from prototxt.layers.declare import legacy_shape
from reference.layer import Arrays, Layer, layer


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


@layer("FlowWarp")
class FlowWarp(Layer):
    """The image at each place plus the flow there, bilinearly; outside of the image `fill_value`.

    The four neighbours are kept inside. The flow's gradient takes the clamped lower row less the position as a
    weight, which in the last row is not positive; so too with columns.
    """

    def run(self, image: np.ndarray, flow: np.ndarray) -> np.ndarray:
        image = image.reshape(legacy_shape(image.shape))
        self._locate(image, flow.reshape(legacy_shape(flow.shape)))
        a, b = self.alpha, self.beta
        value = (
            (1 - a) * (1 - b) * self._at(image, 0, 0)
            + a * (1 - b) * self._at(image, 0, 1)
            + (1 - a) * b * self._at(image, 1, 0)
            + a * b * self._at(image, 1, 1)
        )
        zero = self.param.flow_warp_param.fill_value == FlowWarpParameter.ZERO
        return np.where(self.inside[:, None], value, self.dtype.type(0 if zero else np.nan))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        shapes = [bottom.shape for bottom in bottoms]
        image = bottoms[0].reshape(legacy_shape(shapes[0]))
        dy = np.where(self.inside[:, None], top_diffs[0], self.dtype.type(0))
        a, b = self.alpha, self.beta
        d_image = np.zeros_like(image)
        for low, right, weight in (
            (0, 0, (1 - a) * (1 - b)),
            (0, 1, a * (1 - b)),
            (1, 0, (1 - a) * b),
            (1, 1, a * b),
        ):
            np.add.at(d_image, self._index(low, right), dy * weight)
        corners = {(i, j): self._at(image, i, j) for i in (0, 1) for j in (0, 1)}
        above, left = (
            (near - position).astype(self.dtype)[:, None]
            for near, position in ((self.rows[1], self.y), (self.columns[1], self.x))
        )
        dx = above * (corners[0, 1] - corners[0, 0]) + (1 - above) * (corners[1, 1] - corners[1, 0])
        dyy = left * (corners[1, 0] - corners[0, 0]) + (1 - left) * (corners[1, 1] - corners[0, 1])
        d_flow = np.stack([(dy * dx).sum(axis=1), (dy * dyy).sum(axis=1)], axis=1)
        return [d_image.reshape(shapes[0]), d_flow.reshape(shapes[1])]

    def _locate(self, image: np.ndarray, flow: np.ndarray) -> None:
        """Where each top value is taken from: in float32, whatever the net's dtype, as in the fork."""
        height, width = image.shape[2:]
        flow = flow.astype(np.float32)
        self.x = np.arange(width, dtype=np.float32) + flow[:, 0]
        self.y = np.arange(height, dtype=np.float32)[:, None] + flow[:, 1]
        self.inside = (self.x >= 0) & (self.y >= 0) & (self.x < width) & (self.y < height)
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
