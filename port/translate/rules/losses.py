"""Losses and metrics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def softmax_loss(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    ignored: int | None,
    normalization: str,
    weights: tuple[float, ...] = (),
) -> Tensor:
    """Cross-entropy over `axis`, summed and divided by what `normalization` counts."""
    logs = F.log_softmax(scores, axis).movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    skipped = -(1 << 40) if ignored is None else ignored
    losses = F.nll_loss(logs, numbers, ignore_index=skipped, reduction="none")
    # At most -log(FLT_MIN), and the gradient goes on.
    losses = losses + (losses.clamp(max=87.33654) - losses).detach()
    if weights:
        losses = losses * losses.new_tensor(weights)[numbers * (numbers != skipped)]
    counts = {
        "VALID": int((numbers != skipped).sum()),
        "FULL": numbers.numel(),
        "BATCH_SIZE": scores.shape[:axis].numel(),
        "NONE": 1,
    }
    return losses.sum() / max(counts[normalization], 1)


def sigmoid_loss(
    scores: Tensor,
    targets: Tensor,
    ignored: int | None,
    normalization: str,
) -> Tensor:
    """Cross-entropy of sigmoid(scores), over what `normalization` counts."""
    targets = targets.detach().reshape(scores.shape)
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    counted = torch.ones_like(targets)
    if ignored is not None:
        counted = (targets.trunc() != ignored).to(targets)
    counts = {
        "VALID": int(counted.sum()),
        "FULL": scores.numel(),
        "BATCH_SIZE": scores.shape[0],
        "NONE": 1,
    }
    return (losses * counted).sum() / max(counts[normalization], 1)


def euclidean_loss(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared distance, per image."""
    return (a - b.reshape(a.shape)).square().sum() / a.shape[0] / 2


def hinge_loss(scores: Tensor, labels: Tensor, squared: bool) -> Tensor:
    """What scores lack to a margin of 1, the label's above, the others' below 0."""
    scores = scores.flatten(1)
    numbers = labels.detach().long().flatten()[: scores.shape[0], None]
    signs = torch.ones_like(scores).scatter(1, numbers, -1.0)
    lacking = F.relu(1 + signs * scores)
    return (lacking.square() if squared else lacking).sum() / scores.shape[0]


def contrastive_loss(
    a: Tensor,
    b: Tensor,
    similar: Tensor,
    margin: float,
    legacy: bool = False,
) -> Tensor:
    """Half the squared distance of similar pairs; of others, half its lack, squared."""
    squares = (a - b.reshape(a.shape)).reshape(len(a), -1).square().sum(1)
    alike = similar.detach().flatten()[: len(a)].trunc() != 0
    distance = squares.detach().sqrt()
    if legacy:
        apart = (margin - squares).clamp(min=0)
    else:
        lacking = (margin - distance).clamp(min=0)
        # Caffe's guard against a distance of 0 is in every gradient.
        slope = -lacking / (distance + 1e-4)
        apart = lacking.square() + slope * (squares - squares.detach())
    return torch.where(alike, squares, apart).sum() / len(a) / 2


def accuracy(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    top_k: int,
    ignored: int | None,
) -> Tensor:
    """The share of labels among the `top_k` scores; equal scores count against them."""
    scores = scores.detach().movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    counted = torch.ones_like(numbers)
    if ignored is not None:
        counted = (numbers != ignored).long()
    right = scores.gather(1, (numbers * counted)[:, None])
    hits = counted * ((scores >= right).sum(1) <= top_k)
    return hits.sum().to(scores.dtype) / counted.sum().clamp(min=1)


def smooth_l1_loss(
    a: Tensor,
    b: Tensor,
    inside: Tensor | None = None,
    outside: Tensor | None = None,
    sigma: float = 1.0,
    normalize: bool = True,
) -> Tensor:
    """The summed Huber loss of the weighted differences, per image."""
    difference = a - b.reshape(a.shape)
    if inside is not None:
        difference = difference * inside.detach().reshape(a.shape)
    size, limit = difference.abs(), 1 / sigma**2
    square = difference.square() / limit / 2
    losses = torch.where(size < limit, square, size - limit / 2)
    if outside is not None:
        losses = losses * outside.detach().reshape(a.shape)
    return losses.sum() / (a.shape[0] if normalize else 1)


def l1_loss(a: Tensor, b: Tensor) -> Tensor:
    """The summed absolute differences, per image."""
    return (a - b.reshape(a.shape)).abs().sum() / a.shape[0]


def log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the logarithm of the label's probability, per image."""
    numbers = labels.detach().long().reshape(-1, 1)
    picked = probabilities.reshape(len(numbers), -1).gather(1, numbers)
    floor = picked.detach().clamp(min=1e-20)
    losses = floor.log() + (picked - picked.detach()) / floor
    return -losses.sum() / len(probabilities)


class InfogainLoss(nn.Module):
    """Cross-entropy of all classes, weighed by the label's row of a matrix."""

    matrix: Tensor

    def __init__(self, classes: int, axis: int, ignored: int | None, by: str):
        super().__init__()
        self.register_buffer("matrix", torch.eye(classes))
        self.axis, self.ignored, self.normalization = axis, ignored, by

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        matrix, rest = self.matrix, (self.axis, self.ignored, self.normalization)
        return infogain_loss(scores, labels, matrix, *rest)


def infogain_loss(
    scores: Tensor,
    labels: Tensor,
    matrix: Tensor,
    axis: int,
    ignored: int | None,
    normalization: str,
) -> Tensor:
    """Cross-entropy of all classes, weighed by the label's row of a matrix."""
    logs = F.log_softmax(scores, axis).movedim(axis, -1).flatten(0, -2)
    # At least log(1e-20), and the gradient goes on.
    logs = logs + (logs.clamp(min=-46.051701) - logs).detach()
    numbers = labels.detach().long().flatten()
    counted = torch.ones_like(numbers, dtype=torch.bool)
    if ignored is not None:
        counted = numbers != ignored
    rows = matrix.detach().reshape(logs.shape[1], -1)[numbers * counted]
    losses = -(rows * logs).sum(1) * counted
    counts = {
        "VALID": int(counted.sum()),
        "FULL": numbers.numel(),
        "BATCH_SIZE": scores.shape[:axis].numel(),
        "NONE": 1,
    }
    return losses.sum() / max(counts[normalization], 1)


def ctc_loss(scores: Tensor, labels: Tensor, blank: int) -> Tensor:
    """Connectionist temporal classification over (steps, streams, classes), per stream."""
    steps, streams = scores.shape[:2]
    logs = scores.reshape(steps, streams, -1).log_softmax(2)
    numbers = labels.detach().long().reshape(streams, -1)
    steps_of = torch.full((streams,), steps)
    labels_of = (numbers != blank).sum(1)
    found = numbers[numbers != blank]
    losses = F.ctc_loss(
        logs,
        found,
        steps_of,
        labels_of,
        blank,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / streams


def class_accuracies(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    top_k: int,
    ignored: int | None,
) -> Tensor:
    """Of each class the share of its labels among the `top_k` scores."""
    scores = scores.detach().movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    if ignored is not None:
        scores, numbers = scores[numbers != ignored], numbers[numbers != ignored]
    hit = (scores >= scores.gather(1, numbers[:, None])).sum(1) <= top_k
    each = scores.new_zeros(scores.shape[1])
    hits = each.index_add(0, numbers, hit.to(each))
    return hits / each.index_add(0, numbers, torch.ones_like(hit).to(each)).clamp(min=1)


def segmentation_scores(
    scores: Tensor,
    labels: Tensor,
    ignored: tuple[int, ...],
) -> Tensor:
    """The share of right pixels, the mean recall of present classes, the mean IoU."""
    classes = scores.shape[1]
    best = (classes - 1 - scores.detach().flip(1).argmax(1)).flatten()
    numbers = labels.detach().long().flatten()
    for label in ignored:
        best, numbers = best[numbers != label], numbers[numbers != label]
    pairs = torch.bincount(numbers * classes + best, minlength=classes**2)
    counts = pairs.reshape(classes, classes).double()
    right, labelled = counts.diagonal(), counts.sum(1)
    union = labelled + counts.sum(0) - right
    recall = (right / labelled)[labelled > 0]
    results = [
        right.sum() / counts.sum() if len(numbers) else right.new_ones(()),
        recall.mean() if len(recall) else right.new_zeros(()),
        torch.where(union > 0, right / union, 1).mean(),
    ]
    return torch.stack(results).to(scores.dtype).reshape(1, 1, 1, 3)


def focal_loss(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    ignored: int | None,
    normalization: str,
    alpha: float,
    gamma: float,
) -> Tensor:
    """Cross-entropy in which the labels that are found easily weigh less."""
    logs = F.log_softmax(scores, axis).movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    counted = torch.ones_like(numbers, dtype=torch.bool)
    if ignored is not None:
        counted = numbers != ignored
    right = logs.gather(1, (numbers * counted)[:, None])[:, 0]
    losses = -alpha * (1 - right.exp()) ** gamma * right.clamp(min=-87.33654) * counted
    counts = {
        "VALID": int(counted.sum()),
        "FULL": numbers.numel(),
        "BATCH_SIZE": scores.shape[:axis].numel(),
        "NONE": 1,
    }
    return losses.sum() / max(counts[normalization], 1)


@torch.no_grad()
def pixel_accuracy(
    scores: Tensor,
    labels: Tensor,
    top_k: int,
    ignored: int | None,
) -> Tensor:
    """The share of pixels whose label is among the `top_k` scores, of equal ones the last."""
    rows, numbers = scores.movedim(1, -1).flatten(0, -2), labels.flatten().long()
    order = rows.flip(1).argsort(dim=1, descending=True, stable=True)[:, :top_k]
    right = (rows.shape[1] - 1 - order == numbers[:, None]).any(1)
    right = right if ignored is None else right[numbers != ignored]
    return right.to(scores.dtype).mean().reshape(1, 1, 1, 1)
