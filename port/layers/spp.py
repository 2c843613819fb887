"""Spatial pyramid pooling."""

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.pooling import average_pool, max_pool
from prototxt.caffe_pb2 import PoolingParameter, SPPParameter
from prototxt.errors import InputError
from prototxt.geometry import pooled_sizes, pooling_window


@layer("SPP")
class SPP(Layer):
    """Pooling into 1, 2 × 2, 4 × 4 … parts, flattened and joined; one level alone is left as it is pooled."""

    def set_up(self, shape: Shape) -> None:
        param = self.param.spp_param
        if not param.pyramid_height:
            raise InputError("spp_param: pyramid_height must be at least 1")
        if param.pool == SPPParameter.STOCHASTIC:
            raise InputError("stochastic pooling exists on Caffe's GPU only: use MAX or AVE")

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or not x.shape[2] or not x.shape[3]:
            raise InputError(f"SPP needs 4 axes (num, channels, height, width), not {tuple(x.shape)}")
        levels = [self._level(x, 2**level) for level in range(self.param.spp_param.pyramid_height)]
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1)

    def _level(self, x: Tensor, bins: int) -> Tensor:
        height, width = x.shape[2:]
        kernel_h, kernel_w = -(-height // bins), -(-width // bins)
        param = PoolingParameter(
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=kernel_h,
            stride_w=kernel_w,
            pad_h=(kernel_h * bins - height + 1) // 2,
            pad_w=(kernel_w * bins - width + 1) // 2,
        )
        window = pooling_window(param, height, width)
        pool = average_pool if self.param.spp_param.pool == SPPParameter.AVE else max_pool
        return pool(x, window, pooled_sizes(param, window, (height, width)))
