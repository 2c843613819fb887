"""Max and average pooling with Caffe's rounding and borders."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import Layer, being_exported, layer
from prototxt.caffe_pb2 import PoolingParameter
from prototxt.layers.pooling import pyramid
from prototxt.layers.windows import Window, pooled_sizes, pooling_window

LEAST = torch.finfo(torch.float32).min
"""What MAX gives for a window that misses the map (a stride beyond the kernel), in Caffe's doubles too."""


@layer("Pooling")
class Pooling(Layer):
    """MAX and AVE pooling: sizes rounded up, MAX blind to the padding, AVE's divisor counting it."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        param = self.param.pooling_param
        window = pooling_window(param, *x.shape[2:])
        out = pooled_sizes(param, window, x.shape[2:])
        if not x.numel():
            nothing = 0 if param.pool == PoolingParameter.AVE else LEAST
            top = x.new_full((*x.shape[:2], *out), nothing) + x.sum()
            return top if len(self.plan.tops) == 1 else (top, torch.full_like(top, -1))
        if param.pool == PoolingParameter.AVE:
            return average_pool(x, window, out)
        if len(self.plan.tops) == 1:
            return max_pool(x, window, out)
        padded = _pad_low(x, window, out)
        top, index = F.max_pool2d(padded, window.kernel, window.stride, return_indices=True)
        rows = index // padded.shape[3] - window.pad[0]
        columns = index % padded.shape[3] - window.pad[1]
        inside = (rows < x.shape[2]) & (columns < x.shape[3])
        return top, torch.where(inside, rows * x.shape[3] + columns, -1).to(x.dtype)


def max_pool(x: Tensor, window: Window, out: tuple[int, ...]) -> Tensor:
    """The windows' largest values; the padding counts for nothing."""
    return F.max_pool2d(_pad_low(x, window, out), window.kernel, window.stride)[:, :, : out[0], : out[1]]


def average_pool(x: Tensor, window: Window, out: tuple[int, ...]) -> Tensor:
    """Caffe's average: sums over the windows, divided by their size within the padded map."""
    if window.kernel == tuple(x.shape[2:]) and not any(window.pad):
        return x.mean(dim=(2, 3), keepdim=True)
    far = _far_pads(window, out, x.shape[2:])
    padded = F.pad(x, (window.pad[1], far[1], window.pad[0], far[0]))
    if being_exported():  # to ONNX the divisor is dropped without a word
        sums = F.avg_pool2d(padded, window.kernel, window.stride) * math.prod(window.kernel)
    else:
        sums = F.avg_pool2d(padded, window.kernel, window.stride, divisor_override=1)
    sums = sums[:, :, : out[0], : out[1]]
    spans = [
        np.minimum(np.arange(n) * s - p + k, size + p) - (np.arange(n) * s - p)
        for n, s, k, p, size in zip(out, window.stride, window.kernel, window.pad, x.shape[2:], strict=True)
    ]
    return sums / torch.from_numpy(np.outer(*spans)).to(sums)


def _pad_low(x: Tensor, window: Window, out: tuple[int, ...]) -> Tensor:
    far = _far_pads(window, out, x.shape[2:])
    if not any(window.pad) and not any(far):
        return x
    return F.pad(x, (window.pad[1], far[1], window.pad[0], far[0]), value=LEAST)


def _far_pads(window: Window, out: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """Padding behind the map that lets the last window, rounded up, be a whole one."""
    return [
        max(0, (n - 1) * s + k - p - size)
        for n, s, k, p, size in zip(out, window.stride, window.kernel, window.pad, sizes, strict=True)
    ]


@layer("SPP")
class SPP(Layer):
    """Pooling into 1, 2 × 2, 4 × 4 … parts, flattened and joined; one level alone is left as it is pooled."""

    def forward(self, x: Tensor) -> Tensor:
        levels = [self._level(x, level) for level in pyramid(self.param.spp_param, *x.shape[2:])]
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1)

    def _level(self, x: Tensor, param: PoolingParameter) -> Tensor:
        window = pooling_window(param, *x.shape[2:])
        pool = average_pool if param.pool == PoolingParameter.AVE else max_pool
        return pool(x, window, pooled_sizes(param, window, x.shape[2:]))
