"""What all losses share. A loss is one number; the net weighs it, through the gradient it sends in."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from port.layer import Layer, Shape, as_tuple
from port.layers.gradient import refuse_gradient
from prototxt.caffe_pb2 import LossParameter
from prototxt.errors import InputError


class Loss(Layer):
    """A loss class writes `check` and `loss`, and says which bottoms get no gradient."""

    no_gradient: ClassVar[dict[int, str]] = {1: "labels"}

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        self.check(*shapes)
        return [(), shapes[0]][: len(self.plan.tops)]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self.check(*(tuple(b.shape) for b in bottoms))
        loss, *others = as_tuple(self.loss(*bottoms))
        for index, what in self.no_gradient.items():
            if index < len(bottoms):
                loss = refuse_gradient(self, loss, bottoms[index], index, what)
        return loss, *others

    def check(self, *shapes: Shape) -> None:
        """Raises InputError for shapes that Caffe refuses."""
        first, second = shapes[:2]
        if not first or first[:1] != second[:1]:
            raise InputError(f"the bottoms {tuple(first)} and {tuple(second)} must have the same first axis")

    @abstractmethod
    def loss(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The loss, and the second top of those that have one."""


def ignored_label(param: LossParameter) -> int | None:
    return param.ignore_label if param.HasField("ignore_label") else None


def normalised(total: Tensor, mode: int, outer: int, inner: int, valid: Tensor | None) -> Tensor:
    """The summed loss over what `mode` counts, which is at least 1.

    Args:
        outer, inner: images, and places within one.
        valid: how many places are not ignored; None: all.
    """
    if mode == LossParameter.VALID and valid is not None:
        return total / valid.clamp(min=1).to(total.dtype)
    count = {LossParameter.NONE: 1, LossParameter.BATCH_SIZE: outer}.get(mode, outer * inner)
    return total / max(count, 1)


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Counts before, along and behind an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
