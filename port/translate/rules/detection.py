"""Detection with SSD: prior boxes, and what suppression leaves of the predictions for them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def prior_boxes(
    x: Tensor,
    image: tuple[int, ...],
    least: tuple[int, ...],
    most: tuple[int, ...] = (),
    ratios: tuple[float, ...] = (),
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    variances: tuple[float, ...] = (0.1,),
    flip: bool = True,
    clip: bool = False,
) -> Tensor:
    """SSD's boxes around each place of a map, as shares of the image; then variances."""
    sizes: list[tuple[float, float]] = []
    for i, side in enumerate(least):
        sizes.append((side, side))
        sizes += [((side * more) ** 0.5,) * 2 for more in most[i : i + 1]]
        for ratio in ratios:
            sizes.append((side * ratio**0.5, side / ratio**0.5))
            sizes += [sizes[-1][::-1]] if flip else []
    height, width = image[-2:]
    down, right = step or (height / x.shape[2], width / x.shape[3])
    rows = (torch.arange(x.shape[2], device=x.device) + offset) * down
    columns = (torch.arange(x.shape[3], device=x.device) + offset) * right
    grid = torch.meshgrid(columns, rows, indexing="xy")
    centres = torch.stack(grid, -1)[:, :, None]
    half = torch.tensor(sizes, device=x.device) / 2
    whole = torch.tensor([width, height] * 2, device=x.device)
    boxes = torch.cat([centres - half, centres + half], -1) / whole
    boxes = boxes.clamp(0, 1) if clip else boxes
    spread = torch.tensor(variances, device=x.device).expand_as(boxes)
    return torch.stack([boxes.flatten(), spread.flatten()])[None]


def centre_size_boxes(shifts: Tensor, priors: Tensor, scaled: bool = False) -> Tensor:
    """The boxes that shifts of centre and size make of priors, (images, priors, ..., 4)."""
    boxes, variances = priors.detach().reshape(2, -1, 1, 4)
    shifts = shifts.detach().reshape(len(shifts), len(boxes), -1, 4)
    shifts = shifts if scaled else shifts * variances
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + shifts[..., :2] * size
    half = shifts[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def corner_boxes(shifts: Tensor, priors: Tensor, scaled: bool = False) -> Tensor:
    """The boxes that shifts of corners make of priors, (images, priors, ..., 4)."""
    boxes, variances = priors.detach().reshape(2, -1, 1, 4)
    shifts = shifts.detach().reshape(len(shifts), len(boxes), -1, 4)
    return boxes + (shifts if scaled else shifts * variances)


def corner_size_boxes(shifts: Tensor, priors: Tensor, scaled: bool = False) -> Tensor:
    """The boxes that shifts of corners, in sizes, make of priors: (..., 4)."""
    boxes, variances = priors.detach().reshape(2, -1, 1, 4)
    shifts = shifts.detach().reshape(len(shifts), len(boxes), -1, 4)
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    return boxes + (shifts if scaled else shifts * variances) * size


def overlaps(a: Tensor, b: Tensor, pixel: int = 0) -> Tensor:
    """Intersection over union of each box of `a` with each of `b`."""
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low + pixel).clamp(min=0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2] + pixel).clamp(min=0).prod(-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - shared
    return torch.where(shared > 0, shared / union, 0)


def suppress(
    boxes: Tensor,
    threshold: float,
    eta: float = 1.0,
    pixel: int = 0,
    most: int | None = None,
) -> list[int]:
    """Places of the boxes, the best first, that no better one of them overlaps too much."""
    overlap = overlaps(boxes, boxes, pixel)
    left: list[int] = []
    for i in range(len(boxes)):
        if not left or overlap[i, left].max() <= threshold:
            left.append(i)
            threshold *= eta if threshold > 0.5 else 1
            if len(left) == most:
                break
    return left


@torch.no_grad()
def detections(
    boxes: Tensor,
    scores: Tensor,
    classes: int,
    background: int,
    confidence: float,
    nms: float,
    top_k: int | None = None,
    keep: int | None = None,
    eta: float = 1.0,
) -> Tensor:
    """Rows [image, class, score, box] of what is found, (1, 1, rows, 7)."""
    rows = []
    scores = scores.reshape(len(boxes), -1, classes)
    for i, of_image in enumerate(scores):
        found = []
        for c in range(classes):
            score, order = of_image[:, c].sort(descending=True, stable=True)
            order = order[score > confidence][:top_k]
            if c == background or not len(order):
                continue
            box = boxes[i, order, c % boxes.shape[2]]
            left = suppress(box, nms, eta)
            marks = scores.new_tensor([[i, c]]).expand(len(left), 2)
            found.append(torch.cat([marks, score[left, None], box[left]], 1))
        if found:
            every = torch.cat(found)
            best = every[:, 2].argsort(descending=True, stable=True)[:keep]
            rows.append(every[best.sort().values])
    if not sum(map(len, rows)):
        rows = [scores.new_tensor([[i] + [-1] * 6]) for i in range(len(scores))]
    return torch.cat(rows)[None, None]


def matched(boxes: Tensor, truth: Tensor, least: float | None) -> tuple[Tensor, Tensor]:
    """For each box the true box that it is for, or -1, and its overlap with that."""
    owner = torch.full((len(boxes),), -1, device=boxes.device)
    if not len(truth):
        return owner, boxes.new_zeros(len(boxes))
    table = overlaps(boxes, truth)
    table = torch.where(table > 1e-6, table, 0)
    best, which = table.max(1)
    shared, left = best.clone(), table.clone()
    for _ in range(len(truth)):
        row, column = divmod(int(left.argmax()), len(truth))
        if left[row, column] > 0:
            owner[row], shared[row] = column, left[row, column]
            left[row], left[:, column] = 0, 0
    if least is not None:
        near = (owner < 0) & (best > 0) & (best >= least)
        owner[near] = which[near]
    return owner, shared


def multibox_loss(
    shifts: Tensor,
    scores: Tensor,
    priors: Tensor,
    truth: Tensor,
    classes: int,
    background: int,
    by: str,
    threshold: float | None = 0.5,
    negatives: float | None = 3.0,
    below: float = 0.5,
    weight: float = 1.0,
    difficult: bool = True,
    squared: bool = False,
) -> Tensor:
    """SSD's loss: shifts of priors that match true boxes; classes, at hard negatives too."""
    boxes, variances = priors.detach().reshape(2, -1, 4)
    shifts = shifts.reshape(len(shifts), -1, 4)
    logs = scores.reshape(*shifts.shape[:2], classes).log_softmax(-1)
    rows = truth.detach().reshape(-1, 8)
    rows = rows if difficult else rows[rows[:, 7] == 0]
    total, found = shifts.new_zeros(()), 0
    for i, shift in enumerate(shifts):
        mine = rows[rows[:, 0] == i]
        owner, overlap = matched(boxes, mine[:, 3:7], threshold)
        positive = torch.nonzero(owner >= 0).flatten()
        true = mine[owner[positive]]
        labels = torch.full_like(owner, background)
        labels[positive] = true[:, 1].long()
        losses = -logs[i].gather(1, labels[:, None])[:, 0]
        # At most -log(FLT_MIN), and the gradient goes on.
        losses = losses + (losses.clamp(max=87.33654) - losses).detach()
        negative = torch.nonzero((owner < 0) & (overlap < below)).flatten()
        if negatives is None:
            negative = torch.nonzero(owner < 0).flatten()
        else:
            order = losses[negative].argsort(descending=True, stable=True)
            negative = negative[order[: int(negatives * len(positive))]]
        due = shifts_to(true[:, 3:7], boxes[positive]) / variances[positive]
        difference = shift[positive] - due
        by_size = F.smooth_l1_loss(difference, 0 * difference, reduction="sum")
        total = total + weight * (difference.square().sum() / 2 if squared else by_size)
        total = total + losses[positive].sum() + losses[negative].sum()
        found += len(positive)
    counts = {
        "VALID": found,
        "FULL": shifts.shape[:2].numel(),
        "BATCH_SIZE": len(shifts),
        "NONE": 1,
    }
    return total / max(counts[by], 1)


def shifts_to(true: Tensor, priors: Tensor) -> Tensor:
    """The shifts of centre and size that make the true boxes of priors."""
    size, wanted = priors[:, 2:] - priors[:, :2], true[:, 2:] - true[:, :2]
    centre = (true[:, :2] + true[:, 2:] - priors[:, :2] - priors[:, 2:]) / 2
    return torch.cat([centre / size, (wanted / size).log()], 1)


def judged(
    detected: Tensor,
    truth: Tensor,
    classes: int,
    background: int,
    threshold: float,
    difficult: bool,
) -> Tensor:
    """[-1, class, true boxes, -1, -1], then [image, class, score, right, wrong] of each."""
    found, rows = detected.detach().reshape(-1, 7), truth.detach().reshape(-1, 8)
    rows = rows[(rows[:, 0] == -1).cumsum(0) == 0]
    counts = (rows[:, 7] == 0) | difficult
    kinds = [c for c in range(classes) if c != background]
    of = [int((counts & (rows[:, 1] == c)).sum()) for c in kinds]
    heads = [[-1, c, n, -1, -1] for c, n in zip(kinds, of, strict=True)]
    parts = [found.new_tensor(heads).reshape(-1, 5)]
    found = found[found[:, 1] != -1]
    for image, c in found[:, :2].unique(dim=0).tolist():
        boxes = found[(found[:, 0] == image) & (found[:, 1] == c)]
        hers = (rows[:, 0] == image) & (rows[:, 1] == c)
        right, wrong = boxes.new_zeros(len(boxes)), boxes.new_ones(len(boxes))
        if hers.any():
            boxes = boxes[boxes[:, 2].argsort(descending=True, stable=True)]
            best, which = overlaps(boxes[:, 3:], rows[hers, 3:7]).max(1)
            taken: set[int] = set()
            for i in torch.nonzero(best >= threshold).flatten().tolist():
                counted, owner = bool(counts[hers][which[i]]), int(which[i])
                right[i] = counted and owner not in taken
                wrong[i] = counted and owner in taken
                taken.add(owner)
        verdict = torch.stack([boxes[:, 2], right, wrong], 1)
        marks = boxes.new_tensor([[image, c]]).expand(len(boxes), 2)
        parts.append(torch.cat([marks, verdict], 1))
    return torch.cat(parts)[None, None]
