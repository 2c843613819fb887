"""Spatial pyramid pooling."""

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.pooling import pool
from prototxt.caffe_pb2 import PoolingParameter, SPPParameter
from prototxt.errors import InputError
from prototxt.geometry import pooled_sizes, pooling_window


@layer("SPP")
class SPP(Layer):
    """Pooling into 1, 2 × 2, 4 × 4 … parts, flattened and joined; a pyramid of one level is left as it is pooled."""

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
        sizes = x.shape[2:]
        kernel = [-(-size // bins) for size in sizes]
        pad = [(k * bins - size + 1) // 2 for k, size in zip(kernel, sizes, strict=True)]
        param = PoolingParameter(
            pool=PoolingParameter.AVE if self.param.spp_param.pool == SPPParameter.AVE else PoolingParameter.MAX,
            **dict(zip(("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w"), kernel * 2 + pad, strict=True)),
        )
        window = pooling_window(param, *sizes)
        return pool(x, param, window, pooled_sizes(param, window, sizes))
