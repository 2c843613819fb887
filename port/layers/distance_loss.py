"""Losses that are distances: of two blobs, or of scores from a margin."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from port.layer import Shape, layer
from port.layers.checks import class_numbers, legacy_shape
from port.layers.gradient import with_slope
from port.layers.loss import Loss
from prototxt.caffe_pb2 import HingeLossParameter
from prototxt.errors import InputError


@layer("EuclideanLoss")
class EuclideanLoss(Loss):
    """Half the squared distance of the bottoms, per image. Both get a gradient."""

    no_gradient: ClassVar[dict[int, str]] = {}

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        legacy_shape(shapes[0])
        if math.prod(shapes[0]) != math.prod(shapes[1]):
            raise InputError(f"the bottoms {shapes[0]} and {shapes[1]} must hold as many values")

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b.reshape(a.shape)).square().sum() / len(a) / 2


@layer("HingeLoss")
class HingeLoss(Loss):
    """What scores lack to a margin of 1, the label's above 0, the others below; squared by L2. Per image."""

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        legacy_shape(shapes[0])

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1)
        numbers = class_numbers(labels.flatten()[: len(x)], rows.shape[1])
        signs = torch.ones_like(rows).scatter_(1, numbers[:, None], -1)
        lacking = (1 + signs * rows).relu()
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            lacking = lacking.square()
        return lacking.sum() / len(x)


@layer("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Half the squared distance of similar pairs; of dissimilar ones, half its squared lack to `margin`.

    With `legacy_version`, half of what the squared distance lacks to the margin. The mean over the pairs.
    """

    no_gradient: ClassVar[dict[int, str]] = {}

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        a, b, similar = map(legacy_shape, shapes)
        if a[1:] != (a[1], 1, 1) or b[1:] != a[1:]:
            raise InputError(f"the pairs must be two blobs (num, channels), not {shapes[0]} and {shapes[1]}")
        if similar[1:] != (1, 1, 1) or similar[0] < a[0]:
            raise InputError(f"give one similarity for each of {a[0]} pairs, not {shapes[2]}")

    def loss(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        param = self.param.contrastive_loss_param
        margin = param.margin
        squares = (a - b.reshape(a.shape)).reshape(len(a), -1).square().sum(1)
        alike = similar.detach().flatten()[: len(a)].trunc() != 0
        square = squares.detach()
        if param.legacy_version:
            lacking = (margin - square).clamp(min=0)
            apart, slope = lacking, -torch.ones_like(square)
        else:
            distance = square.sqrt()
            lacking = (margin - distance).clamp(min=0)
            # Caffe's guard against a distance of 0 is in every gradient.
            apart, slope = lacking.square(), -lacking / (distance + 1e-4)
        slope = torch.where(alike, 1, torch.where(lacking > 0, slope, 0))
        losses = with_slope(squares, torch.where(alike, square, apart), lambda: slope)
        return losses.sum() / len(a) / 2
