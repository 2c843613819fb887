"""Detection with regions: rows [image, x1, y1, x2, y2] in pixels of the input."""

import torch
from torch import Tensor

from port.translate.rules.detection import suppress


@torch.no_grad()
def proposals(
    scores: Tensor,
    shifts: Tensor,
    info: Tensor,
    anchors: list[tuple[float, float, float, float]],
    stride: int,
    least: float,
    before: int | None,
    after: int | None,
    nms: float,
) -> tuple[Tensor, Tensor]:
    """Regions: anchors shifted, cut to the image, the best after suppression; scores."""
    height, width, scale = info.flatten()[:3]
    base = scores.new_tensor(anchors)
    rows = torch.arange(scores.shape[2], device=scores.device)
    columns = torch.arange(scores.shape[3], device=scores.device)
    x, y = torch.meshgrid(columns, rows, indexing="xy")
    moved = torch.stack([x, y, x, y], -1)[:, :, None] * stride
    boxes = (moved + base).reshape(-1, 4)
    size = boxes[:, 2:] - boxes[:, :2] + 1
    by = shifts.permute(0, 2, 3, 1).reshape(-1, 4)
    centre = by[:, :2] * size + boxes[:, :2] + size / 2
    half = by[:, 2:].exp() * size / 2
    last = torch.stack([width, height]) - 1
    low = torch.minimum(centre - half, last).clamp(min=0)
    high = torch.minimum(centre + half, last).clamp(min=0)
    large = (high - low + 1 >= least * scale).all(1)
    objects = scores[:, len(base) :].permute(0, 2, 3, 1).flatten()[large]
    objects, order = objects.sort(descending=True, stable=True)
    boxes = torch.cat([low, high], 1)[large][order[:before]]
    left = suppress(boxes, nms, pixel=1, most=after)
    regions = torch.cat([boxes.new_zeros(len(left), 1), boxes[left]], 1)
    return regions, objects[left][:, None]


def half_away(x: Tensor) -> Tensor:
    """Rounded to whole numbers, halves away from 0."""
    return torch.copysign((x.double().abs() + 0.5).floor(), x).to(x.dtype)


def bins(low: Tensor, high: Tensor, limit: int) -> list[slice]:
    """The whole places of a map that lie from one edge to the other."""
    ends = torch.stack([low.floor(), high.ceil()], 1).clamp(0, limit)
    return [slice(start, max(start, end)) for start, end in ends.int().tolist()]


def roi_pool(x: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The largest value in each bin of each region; 0 in a bin without place."""
    found = []
    for row in rois.detach().reshape(-1, 5):
        corners, image = half_away(row[1:] * scale), x[int(row[0])]
        parts = []
        for axis, n in enumerate(size):
            start, end = corners[1 - axis], corners[3 - axis]
            step = (end - start + 1).clamp(min=1) / n
            edges = torch.arange(n + 1, device=x.device) * step
            low, high = edges[:-1].floor() + start, edges[1:].ceil() + start
            parts.append(bins(low, high, x.shape[2 + axis]))
        for rows in parts[0]:
            for columns in parts[1]:
                part = image[:, rows, columns].flatten(1)
                empty = image.new_zeros(len(image))
                found.append(part.max(1).values if part.shape[1] else empty)
    return torch.stack(found).unflatten(0, (-1, *size)).permute(0, 3, 1, 2)


def ps_roi_pool(x: Tensor, rois: Tensor, group: int, scale: float) -> Tensor:
    """The mean of each bin of each region, from channels that only this bin reads."""
    maps = x.unflatten(1, (-1, group, group))
    found = []
    for row in rois.detach().reshape(-1, 5):
        corners = half_away(row[1:])
        parts = []
        for axis in (0, 1):
            start, end = corners[1 - axis] * scale, (corners[3 - axis] + 1) * scale
            step = (end - start).clamp(min=0.1) / group
            edges = torch.arange(group + 1, device=x.device) * step + start
            parts.append(bins(edges[:-1], edges[1:], x.shape[2 + axis]))
        for i, rows in enumerate(parts[0]):
            for j, columns in enumerate(parts[1]):
                part = maps[int(row[0]), :, i, j, rows, columns].flatten(1)
                found.append(part.sum(1) / max(part.shape[1], 1))
    return torch.stack(found).unflatten(0, (-1, group, group)).permute(0, 3, 1, 2)


def roi_warp(x: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The map at each bin's corner, bilinearly; 0 half a place outside of the map."""
    rows = rois.reshape(-1, 5)
    image, corners = rows[:, 0].long(), rows[:, 1:] * scale
    corners = corners + (half_away(corners) - corners).detach()
    places = []
    for axis, n in enumerate(size):
        start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
        step = (end - start).clamp(min=0) / n
        places.append(torch.arange(n, device=x.device) * step + start)
    y, z = torch.broadcast_tensors(places[0][:, :, None], places[1][:, None])
    height, width = x.shape[2:]
    outside = (y < -0.5) | (y > height - 0.5) | (z < -0.5) | (z > width - 0.5)
    y, z = y.clamp(0, height - 1), z.clamp(0, width - 1)
    top, left = y.detach().long(), z.detach().long()
    below, beside = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, right, maps = (
        (y - top)[..., None],
        (z - left)[..., None],
        x.permute(0, 2, 3, 1),
    )
    i = image[:, None, None]
    upper = torch.lerp(maps[i, top, left], maps[i, top, beside], right)
    lower = torch.lerp(maps[i, below, left], maps[i, below, beside], right)
    found = torch.lerp(upper, lower, down).masked_fill(outside[..., None], 0)
    return found.permute(0, 3, 1, 2)
