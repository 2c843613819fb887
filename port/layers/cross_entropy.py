"""Losses that are logarithms of probabilities."""

import math
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import Shape, layer
from port.layers.checks import check_label_count, class_numbers, legacy_shape
from port.layers.gradient import with_slope
from port.layers.loss import Loss, around, ignored_label, normalised
from prototxt.caffe_pb2 import LossParameter
from prototxt.errors import InputError
from prototxt.geometry import canonical_axis
from weights.binaryproto import read_binaryproto

FLOOR = float(np.finfo(np.float32).tiny)
"""SoftmaxWithLoss takes smaller probabilities for this one, FLT_MIN."""

LOG_THRESHOLD = float(np.float32(1e-20))
"""InfogainLoss and MultinomialLogisticLoss take smaller probabilities for this one."""


@layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross-entropy of sigmoid(x) with targets from 0 to 1, over the number of images unless told else."""

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        if math.prod(shapes[0]) != math.prod(shapes[1]):
            raise InputError(f"scores {shapes[0]} and targets {shapes[1]} must hold as many values")

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        param, valid = self.param.loss_param, None
        targets = targets.detach().reshape(x.shape)
        positive = x >= 0
        # Each term for itself, so that a small loss is not the difference of large numbers.
        losses = F.softplus(torch.where(positive, -x, x)) - x * (targets - positive.to(x.dtype))
        ignored = ignored_label(param)
        if ignored is not None:
            counted = targets.trunc() != ignored
            losses, valid = losses.where(counted, 0), counted.sum()
        mode = param.normalization
        if not param.HasField("normalization"):
            mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        return normalised(losses.sum(), mode, x.shape[0], math.prod(x.shape[1:]), valid)


@layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Minus the logarithm of the label's softmax probability, over the number of labels unless told else.

    A second top has the probabilities; what comes back to it is not heeded.
    """

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        check_label_count(*shapes, self._axis(shapes[0]))

    def loss(self, x: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        param, axis = self.param.loss_param, self._axis(tuple(x.shape))
        outer, classes, inner = around(x.shape, axis)
        ignored = ignored_label(param)
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        logs = F.log_softmax(x.reshape(outer, classes, inner), 1)
        losses = F.nll_loss(
            logs, numbers, ignore_index=_NONE if ignored is None else ignored, reduction="none"
        )
        # Caffe's gradient goes on below the floor.
        losses = with_slope(losses, losses.detach().clamp(max=-math.log(FLOOR)), lambda: 1.0)
        mode = param.normalization
        if not param.HasField("normalization") and param.HasField("normalize"):
            mode = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        valid = None if ignored is None else (numbers != ignored).sum()
        loss = normalised(losses.sum(), mode, outer, inner, valid)
        return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]

    def _axis(self, shape: Shape) -> int:
        return canonical_axis(self.param.softmax_param.axis, len(shape))


_NONE = -(1 << 40)  # an index to ignore where none is: no label is it


@layer("InfogainLoss")
class InfogainLoss(Loss):
    """Minus the logarithms of all classes' softmax probabilities, weighed by the label's row of a matrix H.

    H is the third bottom, or is read from `source`. A second top has the probabilities.
    """

    no_gradient: ClassVar[dict[int, str]] = {1: "labels", 2: "infogain matrix"}

    def set_up(self, *shapes: Shape) -> None:
        param = self.param.infogain_loss_param
        if self.param.loss_param.HasField("normalize"):
            raise InputError("InfogainLoss does not know loss_param's normalize: give normalization")
        if len(shapes) == 2:
            if not param.HasField("source"):
                raise InputError("give infogain_loss_param the matrix's file as source, or a third bottom")
            matrix = torch.from_numpy(read_binaryproto(param.source)).to(torch.get_default_dtype())
            self.register_buffer("matrix", matrix, persistent=False)

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        axis = self._axis(shapes[0])
        check_label_count(*shapes[:2], axis)
        classes = shapes[0][axis]
        matrix = tuple(shapes[2] if len(shapes) > 2 else self.matrix.shape)
        if math.prod(matrix) != classes**2:
            raise InputError(f"the infogain matrix {matrix} must hold {classes} × {classes} values")

    def loss(self, x: Tensor, labels: Tensor, matrix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        param, axis = self.param.loss_param, self._axis(tuple(x.shape))
        outer, classes, inner = around(x.shape, axis)
        ignored, valid = ignored_label(param), None
        numbers = class_numbers(labels, classes, ignored).reshape(outer, inner)
        if ignored is not None:
            counted = numbers != ignored
            numbers, valid = numbers.where(counted, 0), counted.sum()
        matrix = (self.matrix if matrix is None else matrix.detach()).to(x).reshape(classes, classes)
        weights = matrix[numbers].movedim(-1, 1)  # (outer, classes, inner)
        logs = F.log_softmax(x.reshape(outer, classes, inner), 1)
        logs = with_slope(logs, logs.detach().clamp(min=math.log(LOG_THRESHOLD)), lambda: 1.0)
        losses = -(weights * logs).sum(1)
        if ignored is not None:
            losses = losses.where(counted, 0)
        loss = normalised(losses.sum(), param.normalization, outer, inner, valid)
        return (loss, x.detach().softmax(axis))[: len(self.plan.tops)]

    def _axis(self, shape: Shape) -> int:
        return canonical_axis(self.param.infogain_loss_param.axis, len(shape))


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Minus the logarithm of the label's probability, which is what the bottom holds, per image."""

    def check(self, *shapes: Shape) -> None:
        super().check(*shapes)
        legacy_shape(shapes[0])
        if legacy_shape(shapes[1])[1:] != (1, 1, 1):
            raise InputError(f"give one label for each image, not {tuple(shapes[1])}")

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.flatten(1) if x.ndim > 1 else x[:, None]
        picked = rows.gather(1, class_numbers(labels, rows.shape[1]).reshape(-1, 1))
        probability = picked.detach().clamp(min=LOG_THRESHOLD)
        losses = with_slope(picked, -probability.log(), lambda: -1 / probability)
        return losses.sum() / len(x)
