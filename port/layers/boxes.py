"""Boxes of SSD's layers, in PyTorch: corners in fractions of the image, along the last axis."""

from collections.abc import Callable

import torch
from torch import Tensor

from prototxt.caffe_pb2 import NonMaximumSuppressionParameter
from prototxt.errors import InputError
from prototxt.layers.boxes import CENTER_SIZE, CORNER


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` (…, n, 4) with each of `b` (…, m, 4): (…, n, m).

    Boxes that touch share nothing; an inverted box has no area.
    """
    # Each coordinate for itself, side by side in memory, where vector instructions reach it.
    x1, y1, x2, y2 = (values.contiguous()[..., :, None] for values in a.unbind(-1))
    u1, v1, u2, v2 = (values.contiguous()[..., None, :] for values in b.unbind(-1))
    shared = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    shared *= torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
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
        return priors + shifts * torch.cat([size, size], -1)
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
        return (boxes - priors) / torch.cat([size, size], -1)
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


def standing(boxes: Tensor, valid: Tensor, threshold: float, enough: Callable[[Tensor, int], bool]) -> Tensor:
    """Which boxes no better one that stands overlaps by more than `threshold`, (lists, n).

    Args:
        boxes: (lists, n, 4), in each list the best first.
        valid: which there are, (lists, n): the first ones of each list.
        enough: told which stand, and of how many of the first this is known; whether the others do not matter.
    """
    left, removed = torch.zeros_like(valid), ~valid
    for start in range(0, boxes.shape[1], _BLOCK):
        stop = min(start + _BLOCK, boxes.shape[1])
        lists = torch.nonzero(valid[:, start]).flatten()
        block = boxes[lists, start:stop]
        hits = (~(overlaps(block, block) <= threshold)).triu_(1)
        open_ = ~removed[lists, start:stop]
        kept = open_
        # What the first k of a block become is settled after k rounds; most often after a few.
        while not torch.equal(again := open_ & ~(hits & kept[:, :, None]).any(1), kept):
            kept = again
        left[lists, start:stop] = kept
        if stop == boxes.shape[1] or enough(left, stop):
            break
        behind = ~(overlaps(block, boxes[lists, stop:]) <= threshold)
        removed[lists, stop:] |= (behind & kept[:, :, None]).any(1)
    return left


_BLOCK = 64


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
