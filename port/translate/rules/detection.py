"""Detection with SSD: prior boxes, and what suppression leaves of the predictions for them."""

import torch
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


def suppress(
    boxes: Tensor,
    threshold: float,
    eta: float = 1.0,
    pixel: int = 0,
    most: int | None = None,
) -> list[int]:
    """Places of the boxes, the best first, that no better one of them overlaps too much."""
    low = torch.maximum(boxes[:, None, :2], boxes[:, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (high - low + pixel).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2] + pixel).clamp(min=0).prod(-1)
    union = area[:, None] + area - shared
    overlap = torch.where(shared > 0, shared / union, 0)
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
