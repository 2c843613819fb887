"""Labels as class numbers."""

from torch import Tensor

from port.layer import being_traced
from runtime.labels import LabelError


def class_numbers(labels: Tensor, classes: int, ignored: int | None = None, what: str = "label") -> Tensor:
    """Labels truncated to integers, as Caffe's cast does; int64, of the same shape.

    Raises:
        LabelError: for a label outside of 0 … classes - 1 that is not `ignored`.
    """
    numbers = labels.detach().long()
    if numbers.device.type != "meta" and not being_traced():
        wrong = (numbers < 0) | (numbers >= classes)
        if ignored is not None:
            wrong &= numbers != ignored
        if wrong.any():
            raise LabelError(numbers[wrong][0].item(), classes, what)
    return numbers
