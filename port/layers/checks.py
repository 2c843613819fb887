"""What many layer types demand of their bottoms."""

import math

from torch import Tensor

from port.layer import Layer, Shape
from prototxt.errors import InputError


class LabelError(InputError):
    """A label that no class has. A net that knows where its labels came from can say so."""

    def __init__(self, label: int, classes: int):
        super().__init__(f"label {label} is not from 0 to {classes - 1}, nor an ignore_label: mend it")
        self.label = label


def legacy_shape(shape: Shape) -> tuple[int, int, int, int]:
    """(num, channels, height, width), 1 for what is lacking: how Caffe's older layers see a blob.

    Raises:
        InputError: for more than four axes.
    """
    if len(shape) > 4:
        raise InputError(f"this layer type takes blobs of at most 4 axes, not {tuple(shape)}")
    return (*shape, 1, 1, 1, 1)[:4]


def refuse_in_place(layer: Layer) -> None:
    """Raises InputError where a top is a bottom."""
    if layer.plan.in_place:
        raise InputError(f"{layer.plan.type} does not work in place: give the top a name of its own")


def check_label_count(scores: Shape, labels: Shape, axis: int) -> None:
    """Demand one label for each prediction, the classes lying along `axis`.

    Raises:
        InputError: where the counts differ.
    """
    due = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    if math.prod(labels) != due:
        raise InputError(
            f"{math.prod(labels)} labels {tuple(labels)} for {due} predictions {tuple(scores)}, "
            f"classes along axis {axis}: give one label each"
        )


def class_numbers(labels: Tensor, classes: int, ignored: int | None = None) -> Tensor:
    """Labels truncated to integers, as Caffe's cast does; int64, of the same shape.

    Raises:
        LabelError: for a label outside of 0 … classes - 1 that is not `ignored`.
    """
    numbers = labels.detach().long()
    if numbers.device.type != "meta":
        wrong = (numbers < 0) | (numbers >= classes)
        if ignored is not None:
            wrong &= numbers != ignored
        if wrong.any():
            raise LabelError(numbers[wrong][0].item(), classes)
    return numbers
