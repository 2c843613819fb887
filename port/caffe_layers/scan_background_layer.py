"""SeeNet's S_C mask as a pycaffe layer, for genuine Caffe; the port has it built in.

The release has no S_C: this is the paper's rule on the released C-ReLU layer's attention.
"""

import ast

import caffe
import numpy as np


class BackgroundMaskLayer(caffe.Layer):
    """Keeps the features where attention is below `thresh`; bottoms: features, S_A's scores, labels."""

    def setup(self, bottom, top):
        self.thresh = ast.literal_eval(self.param_str.strip())["thresh"]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        self.kept = _attention(bottom[1].data, bottom[2].data) < self.thresh
        top[0].data[...] = np.where(self.kept, bottom[0].data, 0)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = np.where(self.kept, top[0].diff, 0)


def _attention(scores, labels):
    """(num, 1, height, width): the labelled classes' maximum of clamped, min-max normalised maps."""
    positive = np.maximum(scores, 0)
    low = positive.min(axis=(2, 3), keepdims=True)
    # The released layer adds 1e-8 in float64 and divides in float32.
    span = ((positive.max(axis=(2, 3), keepdims=True) - low).astype(np.float64) + 1e-8).astype(np.float32)
    labelled = labels.reshape(scores.shape[0], scores.shape[1], 1, 1).astype(np.int64) == 1
    return np.where(labelled, (positive - low) / span, 0).max(axis=1, keepdims=True)
