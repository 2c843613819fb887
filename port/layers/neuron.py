"""Layers that treat every value alike."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import SameShape, layer
from weights.rng import caffe_rng


@layer("ReLU")
class ReLU(SameShape):
    def forward(self, x: Tensor) -> Tensor:
        slope = self.param.relu_param.negative_slope
        return F.leaky_relu(x, slope) if slope else F.relu(x)


@layer("Dropout")
class Dropout(SameShape):
    """Zeroes units with probability `dropout_ratio` in TRAIN, scaling the rest; the identity in TEST.

    The mask is drawn from Caffe's generator, so the same seed drops the same units.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.phase != 0:
            return x
        keep = 1.0 - self.param.dropout_param.dropout_ratio  # in double, as Caffe passes it on
        mask = torch.from_numpy(caffe_rng().bernoulli(x.numel(), keep)).to(x)
        return x * mask.reshape(x.shape) * float(np.float32(1.0 / keep))
