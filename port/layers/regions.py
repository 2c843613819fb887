"""Layers of the R-CNN family that read a map at regions, in PyTorch.

Regions are rows [image, x1, y1, x2, y2] in pixels of the input. They get no gradient but ROIWarping's.
"""

import torch
from torch import Tensor

from port.devices import divided
from port.gradient import without_gradient
from port.layer import Layer, layer
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import legacy_shape
from prototxt.layers.regions import anchors, pooled_sizes

LEAST = torch.finfo(torch.float32).min
"""What Caffe's maxima begin with."""


def split(rois: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The regions' images, whole numbers, and their corners (n, 4), float32: where bins lie is always single.

    Raises:
        InputError: an image that the map does not have, and what is no number.
    """
    rows = rois.reshape(len(rois), 5)
    if not rows.isfinite().all():
        raise InputError("a region holds what is no number")
    image = rows[:, 0].detach().long()
    wrong = (image < 0) | (image >= num)
    if wrong.any():
        raise InputError(f"a region is of image {int(image[wrong][0])}, of {num}")
    return image, rows[:, 1:].float()


def grown(corners: Tensor, ratio: float) -> Tensor:
    """Corners (n, 4) of regions that are larger by `ratio` of their sizes, in pixels, on each side."""
    if not ratio:
        return corners
    more = (corners[:, 2:] - corners[:, :2] + 1) * ratio
    return corners + torch.cat([-more, more], 1)


def half_away(x: Tensor) -> Tensor:
    """Rounded to whole numbers, halves away from 0."""
    return torch.copysign((x.double().abs() + 0.5).floor(), x).float()


def as_map(x: Tensor) -> Tensor:
    return x.reshape(legacy_shape(tuple(x.shape)))


@layer("ROIPooling")
class ROIPooling(Layer):
    """The largest value of each bin of each region, 0 in a bin without place; the first of equal ones has the gradient.

    MS-CNN's `pad_ratio`: of their sizes, regions are so much larger on each side.

    Found from tables of maxima over squares of 1, 2, 4, … places a side: four of them cover a bin.
    """

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        param = self.param.roi_pooling_param
        bins = pooled_sizes(param)
        image, corners = split(rois.detach(), len(x))
        corners = half_away(grown(corners, param.pad_ratio) * param.spatial_scale)
        starts, stops = [], []
        for axis, (count, limit) in enumerate(zip(bins, x.shape[2:], strict=True)):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            step = divided((end - start + 1).clamp(min=1), count)
            place = torch.arange(count, dtype=torch.float32, device=x.device)
            starts.append(((place * step).floor() + start).clamp(0, limit).long())
            stops.append((((place + 1) * step).ceil() + start).clamp(0, limit).long())
        empty = (stops[0] <= starts[0])[:, :, None] | (stops[1] <= starts[1])[:, None]
        with torch.no_grad():
            source = _largest(x, image, starts, stops, empty)  # (regions, rows, columns, channels)
            found = (source >= 0).permute(0, 3, 1, 2)
            plane = (image[:, None] * x.shape[1] + torch.arange(x.shape[1], device=x.device))[..., None, None]
            flat = plane * (x.shape[2] * x.shape[3]) + source.clamp(min=0).permute(0, 3, 1, 2)
        top = x.flatten()[flat] if x.numel() else x.new_zeros(flat.shape)
        nothing = torch.where(empty, 0, LEAST)[:, None].to(x.dtype)
        return torch.where(found, top, nothing)


def _largest(x: Tensor, image: Tensor, starts: list[Tensor], stops: list[Tensor], empty: Tensor) -> Tensor:
    """Where in its map each bin's largest value is, row · width + column; -1 where none is above `LEAST`."""
    _, channels, height, width = x.shape
    area = height * width
    if not x.numel():
        return torch.full((*empty.shape, channels), -1, device=x.device)
    values = x.detach().permute(0, 2, 3, 1).contiguous()
    values = values.where(values > LEAST, LEAST)  # what is not a number is never the largest
    # One number for both: the value's rank, and of equal values the earlier place is the larger.
    ranks = values.unique(return_inverse=True)[1].add_(int(values.amin() > LEAST))
    places = torch.arange(area - 1, -1, -1, device=x.device).view(1, height, width, 1)
    table = ranks.mul_(area).add_(places)
    heights, widths = ((stop - start).clamp(min=1) for start, stop in zip(starts, stops, strict=True))
    region, i, j = torch.nonzero(~empty, as_tuple=True)
    tall, wide = (n.float().log2().floor().long() for n in (heights[region, i], widths[region, j]))
    # Where tables are read whose maxima begin at a bin's first, and end at its last, row and column.
    first, last = (
        image[region] * height + row for row in (starts[0][region, i], stops[0][region, i] - (1 << tall))
    )
    left, right = starts[1][region, j], stops[1][region, j] - (1 << wide)
    largest = torch.zeros(len(region), channels, dtype=torch.long, device=x.device)
    for a in range(int(tall.max()) + 1 if len(tall) else 0):
        both, mine = table, tall == a
        for b in range(int(wide[mine].max()) + 1 if mine.any() else 0):
            at = torch.nonzero(mine & (wide == b)).flatten()
            if len(at):
                flat = both.view(-1, channels)
                found = flat.index_select(0, first[at] * width + left[at])
                for y, z in ((first, right), (last, left), (last, right)):
                    torch.maximum(found, flat.index_select(0, y[at] * width + z[at]), out=found)
                largest[at] = found
            both = _doubled(both, 2, 1 << b)
        table = _doubled(table, 1, 1 << a)
    source = torch.full((*empty.shape, channels), -1, device=x.device)
    source[~empty] = torch.where(largest < area, -1, area - 1 - largest % area)
    return source


def _doubled(table: Tensor, axis: int, step: int) -> Tensor:
    """Maxima over twice as many places along an axis; where they would reach over its end, as many as there are."""
    ahead = table.shape[axis] - step
    if ahead <= 0:
        return table
    result = table.clone()
    torch.maximum(
        table.narrow(axis, 0, ahead), table.narrow(axis, step, ahead), out=result.narrow(axis, 0, ahead)
    )
    return result


@layer("PSROIPooling")
class PSROIPooling(Layer):
    """The mean of each bin of each region, from channels that only this bin reads; 0 in a bin without place.

    From sums over all places before one, in double precision. Corners are rounded before they are scaled.
    """

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        param = self.param.psroi_pooling_param
        group, maps = param.group_size, as_map(x)
        image, corners = split(rois.detach(), len(maps))
        scale = torch.tensor(param.spatial_scale)
        edges = []
        for axis, limit in enumerate(maps.shape[2:]):
            start = half_away(corners[:, 1 - axis, None]) * scale
            end = (half_away(corners[:, 3 - axis, None]) + 1) * scale
            step = divided((end - start).clamp(min=torch.tensor(0.1).item()), group)
            place = torch.arange(group, dtype=torch.float32, device=x.device)
            edges.append((place * step + start).floor().clamp(0, limit).long())
            edges.append(((place + 1) * step + start).ceil().clamp(0, limit).long())
        top, bottom, left, right = edges
        bottom, right = torch.maximum(top, bottom), torch.maximum(left, right)
        sums = maps.double().view(len(maps), param.output_dim, group, group, *maps.shape[2:])
        sums = torch.nn.functional.pad(sums.cumsum(-1).cumsum(-2), (1, 0, 1, 0)).movedim(1, -1)
        i = torch.arange(group, device=x.device)

        def before(row: Tensor, column: Tensor) -> Tensor:
            return sums[image[:, None, None], i[:, None], i, row[:, :, None], column[:, None]]

        total = before(bottom, right) - before(top, right) - before(bottom, left) + before(top, left)
        area = (bottom - top)[:, :, None] * (right - left)[:, None]
        mean = (total / area.clamp(min=1)[..., None]).where((area > 0)[..., None], 0)
        return mean.permute(0, 3, 1, 2).to(x.dtype)


@layer("ROIAlign")
class ROIAlign(Layer):
    """jasjeetIM/Mask-RCNN's: the largest of four samples of each bin. No recording: it has GPU code only.

    zhaoweicai/mscnn's, where there is no roi_align_param: see `_corners`.

    Of a bin the first four whole places count, in row order, weighed by their distance to the sample, which is at
    ±0.5 of the REGION from -1 to 1. Behind the last column comes the memory's next value, as in that code; behind
    the memory's end 0.
    """

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        if meaning(self.param) != "Mask R-CNN":
            return self._corners(as_map(x), rois.detach())
        param, maps = self.param.roi_align_param, as_map(x)
        num, channels, height, width = maps.shape
        image, corners = split(rois.detach(), num)
        corners = corners * param.spatial_scale
        low, high, first, count = [], [], [], []
        for axis, (bins, limit) in enumerate(((param.pooled_h, height), (param.pooled_w, width))):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            step = divided((end - start + 1).clamp(min=1), bins)
            place = torch.arange(bins, dtype=torch.float32, device=x.device)
            low.append((place * step + start).clamp(0, limit))
            high.append(((place + 1) * step + start).clamp(0, limit))
            first.append(low[-1].ceil().long())
            count.append((high[-1].floor().long() - first[-1] + 1).clamp(min=0))
        empty = (high[0] <= low[0])[:, :, None] | (high[1] <= low[1])[:, None]
        k = torch.arange(4, device=x.device)
        columns = count[1][:, None, :, None]
        y = first[0][:, :, None, None] + k // columns.clamp(min=1)
        z = first[1][:, None, :, None] + k % columns.clamp(min=1)
        used = (k < count[0][:, :, None, None] * columns) & ~empty[..., None]
        normal = []
        for axis, place in enumerate((y, z)):
            start, end = (corners[:, c - axis, None, None, None] for c in (1, 3))
            normal.append((2 * (place - start) / (end - start) - 1).nan_to_num(-1).clamp(-1, 1))
        sample = torch.tensor([-0.5, 0.5], device=x.device)
        # (…, places, samples): the samples' rows change fastest
        near_y = (1 - (sample - normal[0][..., None]).abs()).clamp(min=0)[..., None, :]
        near_x = (1 - (sample - normal[1][..., None]).abs()).clamp(min=0)[..., :, None]
        weights = (near_x * near_y).flatten(-2).where(used[..., None], 0).to(x.dtype)[:, None]
        plane = (image[:, None] * channels + torch.arange(channels, device=x.device)) * (height * width)
        flat = plane[:, :, None, None, None] + (y * width + z)[:, None]
        within = flat < maps.numel()
        values = maps.flatten()[flat.where(within, 0)].where(within, 0)
        samples = (values[..., None] * weights).sum(-2)
        best = samples.detach().eq(samples.detach().amax(-1, keepdim=True)).int().argmax(-1)
        return samples.gather(-1, best[..., None])[..., 0]

    def _corners(self, maps: Tensor, rois: Tensor) -> Tensor:
        """The map at the corners of the bins, one more than bins, bilinearly, half a place before where they are.

        More than half a place outside of the map, and for a region without area, it is 0.
        """
        param, (num, _, *size) = self.param.roi_pooling_param, maps.shape
        image, corners = split(rois, num)
        corners = grown(corners, param.pad_ratio) * param.spatial_scale - 0.5
        inverted = ~(corners[:, 2:] > corners[:, :2]).all(1)[:, None]
        places, outside = [], []
        for axis, bins in enumerate(pooled_sizes(param)):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            place = torch.arange(bins + 1, dtype=torch.float32, device=maps.device)
            place = start + place * divided(end - start, bins)
            outside.append(inverted | (place < -0.5) | (place > size[axis] - 0.5))
            places.append(place.masked_fill(outside[-1], 0).clamp(0, size[axis] - 1))
        y, z = torch.broadcast_tensors(places[0][:, :, None], places[1][:, None])
        gone = outside[0][:, :, None] | outside[1][:, None]
        return _between(maps, image, y, z).masked_fill(gone[..., None], 0).permute(0, 3, 1, 2)


@layer("ROIWarping")
class ROIWarping(Layer):
    """The map at the bins' corners, bilinearly; half a place outside of the map it is 0. No recording: GPU code only.

    The regions' gradients take rounding for the identity, and are 0 in the last row and column. (MNC's differ from
    the derivative: see the reference.)
    """

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        param, maps = self.param.roi_warping_param, as_map(x)
        num, _, height, width = maps.shape
        image, corners = split(rois, num)
        scaled = corners * param.spatial_scale
        rounded = scaled + (half_away(scaled.detach()) - scaled).detach()
        rounded = rounded.to(x.dtype)
        y, z = (
            self._places(rounded[:, 1 - axis, None], rounded[:, 3 - axis, None], bins)
            for axis, bins in ((0, param.pooled_h), (1, param.pooled_w))
        )
        y, z = torch.broadcast_tensors(y[:, :, None], z[:, None])
        outside = (y < -0.5) | (y > height - 0.5) | (z < -0.5) | (z > width - 0.5)
        inner = (y >= 0) & (z >= 0) & (y + 1 < height) & (z + 1 < width)
        y, z = y.where(inner, y.detach()).clamp(0, height - 1), z.where(inner, z.detach()).clamp(0, width - 1)
        return _between(maps, image, y, z).masked_fill(outside[..., None], 0).permute(0, 3, 1, 2)

    def _places(self, start: Tensor, end: Tensor, bins: int) -> Tensor:
        # An inverted region is a point; its corners have gradients all the same.
        size = end - start
        size = size + (size.clamp(min=0) - size).detach()
        return start + torch.arange(bins, device=start.device) * divided(size, bins)


def _between(maps: Tensor, image: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The regions' maps at rows y and columns z (regions, …, …) within them, bilinearly; channels last."""
    height, width = maps.shape[2:]
    top, left = y.detach().long(), z.detach().long()
    below, beside = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, right = ((place - first)[..., None].to(maps.dtype) for place, first in ((y, top), (z, left)))
    channels_last = maps.permute(0, 2, 3, 1)
    a, b, c, d = (
        channels_last[image[:, None, None], row, column] for row in (top, below) for column in (left, beside)
    )
    return torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down)


@layer("MaskPooling")
class MaskPooling(Layer):
    """Each channel of the map times its image's mask."""

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        return as_map(x) * as_map(masks)


@layer("MaskResize")
class MaskResize(Layer):
    """Bilinear: place i of the top is at i · size / top's size of the bottom. No recording: GPU code only."""

    def forward(self, x: Tensor) -> Tensor:
        param, maps = self.param.mask_resize_param, as_map(x)
        down = _resizing(maps.shape[2], param.output_height, x)
        return down @ (maps @ _resizing(maps.shape[3], param.output_width, x).T)


def _resizing(size: int, out: int, like: Tensor) -> Tensor:
    """(out, size): what each of `size` places gives to each of `out`."""
    ratio = torch.tensor(float(size)) / out
    place = torch.arange(out, dtype=torch.float32)[:, None] * ratio
    shares = (1 - (place.clamp(max=size - 1) - torch.arange(size)).abs()).clamp(min=0)
    return shares.masked_fill(place > size - 0.5, 0).to(like)  # beyond the last place's half it is 0


@layer("Proposal")
class Proposal(Layer):
    """py-faster-rcnn's rule: anchors shifted as predicted, cut to the image, and thinned out by their scores.

    Tops: (n, 5) regions [0, x1, y1, x2, y2], and (n, 1) their scores. Equal scores: the earlier place comes first.
    """

    def forward(self, scores: Tensor, shifts: Tensor, info: Tensor) -> tuple[Tensor, ...]:
        param = self.param.proposal_param
        bottoms = (scores, shifts, info)
        with torch.no_grad():
            objects, boxes = self._boxes(scores.detach(), shifts.detach(), info.detach().flatten())
            kept = self._kept(boxes[: param.pre_nms_topn or None])
            rows = torch.cat([boxes.new_zeros(len(kept), 1), boxes[kept]], 1)
        tops = (rows, objects[kept][:, None])[: len(self.plan.tops)]
        return tuple(without_gradient(top, *bottoms) for top in tops)

    def _boxes(self, scores: Tensor, shifts: Tensor, info: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n) and boxes (n, 4) that are large enough, the best first."""
        param = self.param.proposal_param
        base = torch.tensor(anchors(param), dtype=torch.float64, device=scores.device)
        count, (rows, columns) = len(base), scores.shape[2:]
        x, y = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
        moved = torch.stack([x, y, x, y], -1).to(base) * param.feat_stride
        boxes = (moved[:, :, None] + base).reshape(-1, 4).to(scores)
        size = boxes[:, 2:] - boxes[:, :2] + 1
        centre = boxes[:, :2] + size / 2
        by = shifts.permute(0, 2, 3, 1).reshape(-1, 4)
        centre, half = by[:, :2] * size + centre, by[:, 2:].exp() * size / 2
        last = torch.stack([info[1], info[0]]) - 1
        low, high = (torch.minimum(corner, last).clamp(min=0) for corner in (centre - half, centre + half))
        large = ((high - low + 1) >= param.min_size * info[2]).all(1)
        objects = scores[:, count:].permute(0, 2, 3, 1).flatten()[large]
        objects, order = objects.sort(dim=0, descending=True, stable=True)
        return objects, torch.cat([low, high], 1)[large][order]

    def _kept(self, boxes: Tensor) -> Tensor:
        """Places of the boxes that no better one overlaps, counting pixels; post_nms_topn of them at most."""
        param = self.param.proposal_param
        areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
        open_ = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        kept: list[int] = []
        for i in range(len(boxes)):
            if not open_[i]:
                continue
            kept.append(i)
            if len(kept) == param.post_nms_topn:
                break
            low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
            shared = (high - low + 1).clamp(min=0).prod(1)
            open_ &= shared / (areas[i] + areas - shared) <= param.nms_thresh
        return torch.tensor(kept, dtype=torch.long, device=boxes.device)
