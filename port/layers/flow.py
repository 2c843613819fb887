"""Layers for optical flow (FlowNet2)."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.layer import Layer, layer
from prototxt.caffe_pb2 import FlowWarpParameter
from prototxt.layers.declare import legacy_shape


@layer("ChannelNorm")
class ChannelNorm(Layer):
    """The root of the channels' summed squares at each place."""

    def forward(self, x: Tensor) -> Tensor:
        return _ChannelNorm.apply(x.reshape(legacy_shape(tuple(x.shape))))


class _ChannelNorm(torch.autograd.Function):
    """The fork's gradient has a guard against a length of 0."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        top = x.square().sum(1, keepdim=True).sqrt()
        ctx.save_for_backward(x, top)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, top = ctx.saved_tensors
        return x * grad / (top + 1e-9)


@layer("FlowWarp")
class FlowWarp(Layer):
    """The image, each place taken from where the flow points, bilinearly; `fill_value` where that is outside."""

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        image, flow = (blob.reshape(legacy_shape(tuple(blob.shape))) for blob in (image, flow))
        zero = self.param.flow_warp_param.fill_value == FlowWarpParameter.ZERO
        return _Warp.apply(image, flow, 0.0 if zero else torch.nan)


class _Warp(torch.autograd.Function):
    """Bilinear sampling. The flow's gradient is the fork's, which weighs by the distance to the clamped neighbour."""

    @staticmethod
    def forward(ctx, image: Tensor, flow: Tensor, fill: float) -> Tensor:
        ctx.save_for_backward(image, flow)
        inside, place, shares, _ = _neighbours(flow, image.shape)
        rows = image.flatten(2)
        top = sum(share * _taken(rows, index) for share, index in zip(shares, place, strict=True))
        return top.where(inside, fill).reshape(image.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, flow = ctx.saved_tensors
        inside, place, shares, (right, below) = _neighbours(flow, image.shape)
        grad = grad.flatten(2).where(inside, 0)
        rows = image.flatten(2)
        d_image = torch.zeros_like(rows)
        for share, index in zip(shares, place, strict=True):
            d_image.scatter_add_(2, index.expand_as(rows), grad * share)
        corners = [_taken(rows, index) for index in place]
        top_left, top_right, low_left, low_right = corners
        along_x = below * (top_right - top_left) + (1 - below) * (low_right - low_left)
        along_y = right * (low_left - top_left) + (1 - right) * (low_right - top_right)
        d_flow = torch.stack([(grad * along_x).sum(1), (grad * along_y).sum(1)], 1)
        return d_image.reshape(image.shape), d_flow.reshape(flow.shape), None


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(2, index.expand(*rows.shape[:2], -1))


def _neighbours(flow: Tensor, shape: torch.Size) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Where the flow is inside; the four neighbours' places and shares; distances to the right and lower ones.

    All are (num, 1, height · width). Positions are float32 whatever the blobs are, as in the fork.
    """
    height, width = shape[2:]
    steps = flow.detach().float()
    x = torch.arange(width, dtype=torch.float32, device=flow.device) + steps[:, :1]
    y = torch.arange(height, dtype=torch.float32, device=flow.device)[:, None] + steps[:, 1:]
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    x, y = x.where(inside, 0), y.where(inside, 0)
    left, top = x.long(), y.long()
    right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    a, b = ((position - before).to(flow.dtype) for position, before in ((x, left), (y, top)))
    places = [row * width + column for row in (top, low) for column in (left, right)]
    shares = [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b]
    distances = [(after - position).to(flow.dtype) for after, position in ((right, x), (low, y))]
    return inside.flatten(2), *([each.flatten(2) for each in group] for group in (places, shares, distances))
