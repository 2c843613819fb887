import caffe
import numpy as np


class Clamp(caffe.Layer):
    """Clamps its bottom in place and gives the logarithm, as CRF layers of SEC and DSRG do."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        p = bottom[0].data
        p[p < 0.3] = 0.3
        top[0].data[...] = np.log(p)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff / bottom[0].data
