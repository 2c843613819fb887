"""Boxes of SSD's layers, in PyTorch: corners in fractions of the image, along the last axis."""

import torch
from torch import Tensor

from prototxt.caffe_pb2 import NonMaximumSuppressionParameter
from prototxt.errors import InputError
from prototxt.layers.boxes import CENTER_SIZE, CORNER


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` (…, n, 4) with each of `b` (…, m, 4): (…, n, m).

    Boxes that touch share nothing; an inverted box has no area.
    """
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    sides = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:]).sub_(low).clamp_(min=0)
    shared = sides[..., 0] * sides[..., 1]
    both = (area(a)[..., :, None] + area(b)[..., None, :]).sub_(shared)
    return shared.div_(both.masked_fill_(shared == 0, 1))


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def decode(code: int, priors: Tensor, variances: Tensor | None, predicted: Tensor) -> Tensor:
    """The boxes (…, 4) that were predicted, in `code`, from priors that broadcast.

    `variances` is None where the predictions hold them already.

    Raises:
        InputError: a prior without area, where the code has sizes.
    """
    shifts = predicted if variances is None else variances * predicted
    if code == CORNER:
        return priors + shifts
    size = size_of(priors, "the prior")
    if code != CENTER_SIZE:
        return priors + shifts * size.repeat(1, 2)
    centre = shifts[..., :2] * size + (priors[..., :2] + priors[..., 2:]) / 2
    half = shifts[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(code: int, priors: Tensor, boxes: Tensor) -> Tensor:
    """What `decode`, without variances, makes `boxes` of; each (n, 4).

    Raises:
        InputError: a prior or a box without area, where the code has sizes.
    """
    if code == CORNER:
        return boxes - priors
    size = size_of(priors, "the prior")
    if code != CENTER_SIZE:
        return (boxes - priors) / size.repeat(1, 2)
    centre, due = ((box[..., :2] + box[..., 2:]) / 2 for box in (priors, boxes))
    scale = size_of(boxes, "the ground truth's box") / size
    return torch.cat([(due - centre) / size, scale.log()], -1)


def size_of(boxes: Tensor, what: str) -> Tensor:
    """Widths and heights (n, 2).

    Raises:
        InputError: one that is not above 0.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    wrong = ~(size > 0).all(-1)
    if wrong.any():
        raise InputError(
            f"{what} {tuple(boxes[wrong][0].tolist())} has no area: this code_type divides by its size"
        )
    return size


def read_priors(blob: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and variances, each (n, 4), of a PriorBox's top."""
    count = blob.shape[2] // 4
    both = blob.detach().reshape(-1)[: count * 8].reshape(2, count, 4)
    return both[0], both[1]


def truths(rows: Tensor, background: int) -> tuple[Tensor, Tensor]:
    """Images and labels, whole numbers, of ground truth (n, 8).

    Raises:
        InputError: the background's label on an image that is not -1.
    """
    image, label = rows[:, 0].long(), rows[:, 1].long()
    if ((label == background) & (image != -1)).any():
        raise InputError(f"the ground truth has a box of the background label {background}")
    return image, label


def standing(hits: Tensor) -> Tensor:
    """Which boxes are left, (…, n), of boxes in the order of their scores.

    Args:
        hits: (…, n, n), whether the row's box, if it stands, removes the column's. Only pairs above the diagonal
            count.
    """
    hits = hits.triu(1)
    left = torch.ones(hits.shape[:-1], dtype=torch.bool, device=hits.device)
    # What the first k boxes become is settled after k rounds; most often after a few.
    while True:
        again = ~(hits & left[..., :, None]).any(-2)
        if torch.equal(again, left):
            return left
        left = again


def standing_adaptive(overlap: Tensor, param: NonMaximumSuppressionParameter) -> Tensor:
    """As `standing`, for one list of boxes with the given overlaps (n, n), where eta is below 1.

    The threshold shrinks by eta, while it is above 0.5, with each box that stays.
    """
    threshold = torch.tensor(param.nms_threshold, dtype=overlap.dtype)
    removed = torch.zeros(len(overlap), dtype=overlap.dtype, device=overlap.device)  # largest overlap so far
    left = torch.zeros(len(overlap), dtype=torch.bool, device=overlap.device)
    for i in range(len(overlap)):
        if removed[i] <= threshold:
            left[i] = True
            removed = torch.maximum(removed, overlap[i])
            if threshold > 0.5:
                threshold = threshold * torch.tensor(param.eta, dtype=overlap.dtype)
    return left
