"""Layers that treat every value alike."""

import numpy as np

from reference.layer import Arrays, Layer, layer
from weights.rng import caffe_rng


@layer("ReLU")
class ReLU(Layer):
    def run(self, x: np.ndarray) -> np.ndarray:
        slope = self.dtype.type(self.param.relu_param.negative_slope)
        return np.maximum(x, 0) + slope * np.minimum(x, 0)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (x,), (dy,) = bottoms, top_diffs
        slope = self.dtype.type(self.param.relu_param.negative_slope)
        return dy * np.where(x > 0, self.dtype.type(1), slope)


@layer("Dropout")
class Dropout(Layer):
    """Zeroes units with probability `dropout_ratio` in TRAIN, scaling the rest; the identity in TEST.

    The mask is drawn as float Caffe draws it, whatever the net's dtype.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.phase != 0:
            return x
        keep = 1.0 - self.param.dropout_param.dropout_ratio  # in double, as Caffe passes it on
        self.scale = self.dtype.type(np.float32(1.0 / keep))
        self.mask = caffe_rng().bernoulli(x.size, keep).reshape(x.shape)
        return x * self.mask.astype(self.dtype) * self.scale

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        (dy,) = top_diffs
        return dy if self.phase != 0 else dy * self.mask.astype(self.dtype) * self.scale
