import caffe
import numpy as np


class Tanh(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = np.tanh(bottom[0].data)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * (1 - top[0].data ** 2)
