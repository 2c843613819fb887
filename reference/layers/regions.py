"""Layers of the R-CNN family that read a map at regions, [image, x1, y1, x2, y2] in pixels of the input."""

import numpy as np

from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import legacy_shape
from prototxt.layers.regions import anchors, pooled_sizes
from reference.layer import Arrays, Layer, layer
from runtime.blob import Blob

SINGLE = np.float32
"""Where bins begin and end is computed in single precision whatever the net's."""


def _rounded(x: np.ndarray) -> np.ndarray:
    """To whole numbers, halves away from 0; float32."""
    return np.copysign(np.floor(np.abs(x.astype(np.float64)) + 0.5), x).astype(SINGLE)


def _images(rois: np.ndarray, num: int) -> np.ndarray:
    """The regions' images.

    Raises:
        InputError: one that the map does not have, and regions with what is no number.
    """
    if not np.isfinite(rois).all():
        raise InputError("a region holds what is no number")
    images = rois[:, 0].astype(np.int64)
    wrong = (images < 0) | (images >= num)
    if wrong.any():
        raise InputError(f"a region is of image {images[wrong][0]}, of {num}")
    return images


def _padded(corners: np.ndarray, ratio: float) -> np.ndarray:
    """Corners (regions, 4), single precision, moved out by `ratio` of the regions' sizes in pixels."""
    low, high = corners[:, :2].astype(SINGLE), corners[:, 2:].astype(SINGLE)
    by = (high - low + SINGLE(1)) * SINGLE(ratio)
    return np.concatenate([low - by, high + by], axis=1)


class _Windows:
    """The bins of regions, as windows of the map: rows from `top` to before `bottom`, columns alike.

    Args:
        starts, sizes: (regions, 2), rows first, in the map.
        bins: how many, down and across.
        limits: the map's height and width.
        shift: added to floor and ceil, (regions, 2).
    """

    def __init__(self, starts: np.ndarray, sizes: np.ndarray, bins: tuple[int, int], limits: tuple[int, int]):
        edges = []
        for axis in (0, 1):
            step = (sizes[:, axis] / SINGLE(bins[axis]))[:, None]
            place = np.arange(bins[axis], dtype=SINGLE)
            start = starts[:, axis, None]
            first, last = self.edge(place, step, start)
            edges += [np.clip(edge, 0, limits[axis]).astype(np.int64) for edge in (first, last)]
        top, bottom, left, right = edges
        self.top, self.bottom = top[:, :, None], bottom[:, :, None]
        self.left, self.right = left[:, None], right[:, None]
        self.heights, self.widths = np.broadcast_arrays(self.bottom - self.top, self.right - self.left)
        self.empty = (self.heights <= 0) | (self.widths <= 0)

    @staticmethod
    def edge(place: np.ndarray, step: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where bins begin and end: the start is added before they are rounded to whole places."""
        return np.floor(place * step + start), np.ceil((place + SINGLE(1)) * step + start)

    def cells(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each place in a window, in row order: where it is in those (region, row, column) that have it."""
        found = []
        for down in range(max(0, self.heights.max(initial=0))):
            for across in range(max(0, self.widths.max(initial=0))):
                at = np.nonzero((self.heights > down) & (self.widths > across) & ~self.empty)
                region, i, j = at
                found.append((at, self.top[region, i, 0] + down, self.left[region, 0, j] + across))
        return found


class _WholeWindows(_Windows):
    """As Windows; the start, a whole number, is added to what was rounded."""

    @staticmethod
    def edge(place: np.ndarray, step: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.floor(place * step) + start, np.ceil((place + SINGLE(1)) * step) + start


@layer("ROIPooling")
class ROIPooling(Layer):
    """The largest value in each bin of each region; an empty bin is 0. Of equals the first in row order.

    MS-CNN's `pad_ratio` grows regions first, by this part of their sizes on each side.
    """

    def run(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        param = self.param.roi_pooling_param
        rois = rois.reshape(len(rois), 5)
        self.images = _images(rois, len(x))
        corners = _rounded(_padded(rois[:, 1:], param.pad_ratio) * SINGLE(param.spatial_scale))
        starts, ends = corners[:, [1, 0]], corners[:, [3, 2]]
        sizes = np.maximum(ends - starts + SINGLE(1), SINGLE(1))
        bins = pooled_sizes(param)
        windows = _WholeWindows(starts, sizes, bins, x.shape[2:])
        shape = (len(rois), *bins, x.shape[1])
        top = np.full(shape, -np.finfo(SINGLE).max, self.dtype)
        self.source = np.full(shape, -1)
        places = x.transpose(0, 2, 3, 1)  # (num, height, width, channels)
        for at, row, column in windows.cells():
            values = places[self.images[at[0]], row, column]
            larger = values > top[at]
            top[at] = np.where(larger, values, top[at])
            source = (row * x.shape[3] + column)[:, None]
            self.source[at] = np.where(larger, source, self.source[at])
        top[windows.empty] = 0
        return top.transpose(0, 3, 1, 2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x = bottoms[0]
        dx = np.zeros((len(x), x.shape[1], x.shape[2] * x.shape[3]), self.dtype)
        region, i, j, channel = np.nonzero(self.source >= 0)
        np.add.at(
            dx,
            (self.images[region], channel, self.source[region, i, j, channel]),
            top_diffs[0][region, channel, i, j],
        )
        return [dx.reshape(x.shape), None]


@layer("PSROIPooling")
class PSROIPooling(Layer):
    """The mean of each bin of each region, bin (i, j) in channels of its own; an empty bin is 0.

    Corners are rounded before they are scaled to the map, unlike ROIPooling's.
    """

    def run(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        param = self.param.psroi_pooling_param
        num, _, height, width = legacy_shape(x.shape)
        rois = rois.reshape(len(rois), 5).astype(SINGLE)
        self.images = _images(rois, num)
        scale, group = SINGLE(param.spatial_scale), param.group_size
        starts = _rounded(rois[:, [2, 1]]) * scale
        ends = (_rounded(rois[:, [4, 3]]) + SINGLE(1)) * scale
        sizes = np.maximum(ends - starts, SINGLE(0.1))
        self.windows = _Windows(starts, sizes, (group, group), (height, width))
        self.map = (num, param.output_dim, group, group, height, width)
        maps = x.reshape(self.map)
        top = np.zeros((len(rois), group, group, param.output_dim), self.dtype)
        for at, row, column in self.windows.cells():
            region, i, j = at
            top[at] += maps[self.images[region], :, i, j, row, column]
        self.areas = np.where(self.windows.empty, 1, self.windows.heights * self.windows.widths)
        return (top / self.areas[..., None].astype(self.dtype)).transpose(0, 3, 1, 2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        dx = np.zeros(self.map, self.dtype)
        share = top_diffs[0].transpose(0, 2, 3, 1) / self.areas[..., None].astype(self.dtype)
        for at, row, column in self.windows.cells():
            region, i, j = at
            np.add.at(dx, (self.images[region], slice(None), i, j, row, column), share[at])
        return [dx.reshape(bottoms[0].shape), np.zeros_like(bottoms[1])]


@layer("ROIAlign")
class ROIAlign(Layer):
    """Of four samples in each bin the largest, as jasjeetIM/Mask-RCNN has it: no recording, GPU code only.

    Without roi_align_param it is zhaoweicai/mscnn's: the map at the bins' corners, bilinearly, half a place off. It
    is 0 in a region without area, and half a place outside of the map.

    A sample at (±0.5, ±0.5) weighs the bin's first four whole places (in row order) by their distance to it, in
    coordinates from -1 to 1 over the REGION, not the bin. A place in the last column or row plus one, which that
    code reads as the memory's next value, is read so here; behind the map's end it is 0.
    """

    def run(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        if meaning(self.param) != "Mask R-CNN":
            return self._at_corners(x, rois)
        param = self.param.roi_align_param
        num, channels, height, width = legacy_shape(x.shape)
        rois = rois.reshape(len(rois), 5).astype(SINGLE)
        images = _images(rois, num)
        corners = rois[:, 1:] * SINGLE(param.spatial_scale)
        bins = (param.pooled_h, param.pooled_w)
        places, weights, empty = [], [], np.zeros((len(rois), *bins), bool)
        first, count, normal = [], [], []
        for axis, limit in ((0, height), (1, width)):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            step = np.maximum(end - start + SINGLE(1), SINGLE(1)) / SINGLE(bins[axis])
            bin_ = np.arange(bins[axis], dtype=SINGLE)
            low = np.clip(bin_ * step + start, 0, SINGLE(limit))
            high = np.clip((bin_ + SINGLE(1)) * step + start, 0, SINGLE(limit))
            empty |= (high <= low)[:, :, None] if axis == 0 else (high <= low)[:, None]
            first.append(np.ceil(low).astype(np.int64))
            count.append(np.floor(high).astype(np.int64) - first[-1] + 1)
            normal.append((start[:, :, None], (end - start)[:, :, None]))
        across = np.maximum(count[1], 0)[:, None]
        total = np.maximum(count[0], 0)[:, :, None] * across
        samples = [(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)]  # x, y
        for k in range(4):
            row = first[0][:, :, None] + k // np.maximum(across, 1)
            column = first[1][:, None] + k % np.maximum(across, 1)
            y, x_ = (
                np.fmin(np.fmax(_over_region(place, *normal[axis]), -1), 1)
                for axis, place in ((0, row), (1, column))
            )
            near = [
                np.maximum(0, 1 - np.abs(SINGLE(a) - x_)) * np.maximum(0, 1 - np.abs(SINGLE(b) - y))
                for a, b in samples
            ]
            used = (k < total) & ~empty
            weights.append(np.where(used[..., None], np.stack(near, -1), 0))
            places.append(row * width + column)
        plane = (images[:, None] * channels + np.arange(channels)) * height * width  # (regions, channels)
        places = plane[:, :, None, None, None] + np.stack(places, -1)[:, None]
        weights = np.stack(weights, -2).astype(self.dtype)  # (regions, rows, columns, places, samples)
        beyond = places >= x.size
        values = np.where(beyond, 0, x.reshape(-1)[np.where(beyond, 0, places)])
        sampled = np.einsum("rcijk,rijks->rcijs", values, weights)
        best = sampled.argmax(axis=-1)
        chosen = np.take_along_axis(weights[:, None], best[..., None, None], -1)[..., 0]
        self.places, self.weights = np.where(beyond, 0, places), np.where(beyond, 0, chosen)
        return np.take_along_axis(sampled, best[..., None], -1)[..., 0]

    def _at_corners(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        param, shape = self.param.roi_pooling_param, legacy_shape(x.shape)
        rois = rois.reshape(len(rois), 5)
        images = _images(rois, shape[0])
        corners = _padded(rois[:, 1:], param.pad_ratio) * SINGLE(param.spatial_scale) - SINGLE(0.5)
        starts, sizes = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
        whole = (sizes > 0).all(axis=1)
        y, z = (
            np.where(
                whole[:, None],
                starts[:, axis, None]
                + np.arange(bins + 1, dtype=SINGLE) * (sizes[:, axis, None] / SINGLE(bins)),
                SINGLE(-1),  # outside
            )
            for axis, bins in enumerate(pooled_sizes(param))
        )
        taps = _bilinear(y[:, :, None], z[:, None], *shape[2:])
        plane = (images[:, None] * shape[1] + np.arange(shape[1])) * (shape[2] * shape[3])
        within = np.stack([row * shape[3] + column for row, column, _ in taps], axis=-1)
        self.places = plane[:, :, None, None, None] + within[:, None]
        self.weights = np.stack([weight for *_, weight in taps], axis=-1)[:, None].astype(self.dtype)
        return (x.reshape(-1)[self.places] * self.weights).sum(axis=-1, dtype=self.dtype)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        shares = self.weights * top_diffs[0][..., None]
        dx = np.bincount(self.places.reshape(-1), shares.reshape(-1), bottoms[0].size)
        return [dx.astype(self.dtype).reshape(bottoms[0].shape), None]


def _over_region(place: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Places as -1 at a region's start and 1 at its end."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return SINGLE(2) * (place.astype(SINGLE) - start) / size - SINGLE(1)


def _bilinear(y: np.ndarray, x: np.ndarray, height: int, width: int) -> list[tuple]:
    """The four (row, column, weight) around positions (…) that broadcast; weight 0 half a place outside of the map.

    Beyond the last place there is the last place.
    """
    outside = (y < -0.5) | (y > height - 0.5) | (x < -0.5) | (x > width - 0.5)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    bottom, last = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    corners = [
        (top, left, (1 - down) * (1 - right)),
        (top, last, (1 - down) * right),
        (bottom, left, down * (1 - right)),
        (bottom, last, down * right),
    ]
    return [(row, column, np.where(outside, 0, weight)) for row, column, weight in corners]


@layer("ROIWarping")
class ROIWarping(Layer):
    """The map at each bin's corner, bilinearly, between the region's rounded corners. No recording: GPU code only.

    The regions have gradients, too: as if the corners had not been rounded, and 0 beyond the last row or column
    but one. MNC's code takes them with bins that are one place larger than those of its forward pass, and its map's
    gradients leave out what lies outside of the region; here both are the derivatives of the forward pass.
    """

    def run(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        param = self.param.roi_warping_param
        num, _, height, width = legacy_shape(x.shape)
        rois = rois.reshape(len(rois), 5)
        self.images = _images(rois, num)
        corners = _rounded(rois[:, 1:].astype(SINGLE) * SINGLE(param.spatial_scale)).astype(self.dtype)
        places = []
        for axis, bins in ((0, param.pooled_h), (1, param.pooled_w)):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            step = np.maximum(end - start, 0) / self.dtype.type(bins)
            places.append(start + np.arange(bins) * step)
        self.y, self.x = places[0][:, :, None], places[1][:, None]
        self.taps = _bilinear(self.y, self.x, height, width)
        maps = x.reshape(legacy_shape(x.shape)).transpose(0, 2, 3, 1)
        image = self.images[:, None, None]
        top = sum(
            weight[..., None].astype(self.dtype) * maps[image, row, column]
            for row, column, weight in self.taps
        )
        return top.transpose(0, 3, 1, 2)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        x, rois = bottoms
        num, channels, height, width = legacy_shape(x.shape)
        dy = top_diffs[0].transpose(0, 2, 3, 1)
        dx = np.zeros((num, height, width, channels), self.dtype)
        image = self.images[:, None, None]
        for row, column, weight in self.taps:
            np.add.at(dx, (image, row, column), weight[..., None].astype(self.dtype) * dy)
        return [dx.transpose(0, 3, 1, 2).reshape(x.shape), self._region_gradients(x, dy).reshape(rois.shape)]

    def _region_gradients(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        param = self.param.roi_warping_param
        _, _, height, width = legacy_shape(x.shape)
        maps = x.reshape(legacy_shape(x.shape)).transpose(0, 2, 3, 1)
        image = self.images[:, None, None]
        inside = (self.y >= 0) & (self.x >= 0) & (self.y + 1 < height) & (self.x + 1 < width)
        top, left = (
            np.where(inside, np.floor(np.broadcast_to(place, inside.shape)), 0).astype(np.int64)
            for place in (self.y, self.x)
        )
        down, right = (self.y - top)[..., None], (self.x - left)[..., None]
        a, b = maps[image, top, left], maps[image, top, np.minimum(left + 1, width - 1)]
        below = np.minimum(top + 1, height - 1)
        c, d = maps[image, below, left], maps[image, below, np.minimum(left + 1, width - 1)]
        along_y = ((c - a) * (1 - right) + (d - b) * right) * inside[..., None]
        along_x = ((b - a) * (1 - down) + (d - c) * down) * inside[..., None]
        by_y, by_x = (along_y * dy).sum(axis=-1), (along_x * dy).sum(axis=-1)
        shares = [
            np.arange(param.pooled_h)[:, None] / param.pooled_h,
            np.arange(param.pooled_w) / param.pooled_w,
        ]
        scale = param.spatial_scale
        result = np.zeros((len(self.images), 5), self.dtype)
        for column, slope, share in ((1, by_x, 1 - shares[1]), (2, by_y, 1 - shares[0])):
            result[:, column] = scale * (slope * share).sum(axis=(1, 2))
            result[:, column + 2] = scale * (slope * (1 - share)).sum(axis=(1, 2))
        return result


@layer("MaskPooling")
class MaskPooling(Layer):
    """Each channel of the map times the mask."""

    def run(self, x: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return x.reshape(legacy_shape(x.shape)) * masks.reshape(legacy_shape(masks.shape))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray]:
        x, masks = (blob.reshape(legacy_shape(blob.shape)) for blob in bottoms)
        (dy,) = top_diffs
        dmask = (dy * x).sum(axis=1, dtype=self.dtype)
        return [(dy * masks).reshape(bottoms[0].shape), dmask.reshape(bottoms[1].shape)]


@layer("MaskResize")
class MaskResize(Layer):
    """Bilinear resizing, place i of the top being at i · (size / top's size). No recording: GPU code only.

    The gradient is the derivative. MNC's leaves out places where it enlarges more than twofold, and reads past the
    top's end.
    """

    def run(self, x: np.ndarray) -> np.ndarray:
        param = self.param.mask_resize_param
        _, _, height, width = legacy_shape(x.shape)
        y = np.arange(param.output_height, dtype=SINGLE) * (SINGLE(height) / SINGLE(param.output_height))
        across = np.arange(param.output_width, dtype=SINGLE) * (SINGLE(width) / SINGLE(param.output_width))
        self.taps = _bilinear(y[:, None], across, height, width)
        x = x.reshape(legacy_shape(x.shape))
        return sum(weight.astype(self.dtype) * x[:, :, row, column] for row, column, weight in self.taps)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        dx = np.zeros(legacy_shape(bottoms[0].shape), self.dtype)
        for row, column, weight in self.taps:
            np.add.at(dx, (slice(None), slice(None), row, column), weight.astype(self.dtype) * top_diffs[0])
        return dx.reshape(bottoms[0].shape)


@layer("Proposal")
class Proposal(Layer):
    """Regions of interest, [0, x1, y1, x2, y2], and their scores, by py-faster-rcnn's rule (its Python layer).

    Equal scores: the lower place first.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        boxes, scores = self._found(*(blob.data for blob in bottom))
        top[0].reshape(len(boxes), 5)
        top[0].data[:, 0], top[0].data[:, 1:] = 0, boxes
        for blob in top[1:]:
            blob.reshape(len(boxes), 1)
            blob.data[:, 0] = scores

    def _found(
        self, scores: np.ndarray, shifts: np.ndarray, info: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        param = self.param.proposal_param
        base = np.array(anchors(param))
        rows, columns = scores.shape[2:]
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        steps = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4) * param.feat_stride
        placed = (base + steps).reshape(-1, 4).astype(self.dtype)
        shifts = shifts.transpose(0, 2, 3, 1).reshape(-1, 4)
        scores = scores[:, len(base) :].transpose(0, 2, 3, 1).reshape(-1)
        height, width, scale = info.reshape(-1)[:3]
        half = self.dtype.type(0.5)
        sizes = placed[:, 2:] - placed[:, :2] + 1
        centres = shifts[:, :2] * sizes + (placed[:, :2] + half * sizes)
        halves = half * (np.exp(shifts[:, 2:]) * sizes)
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        limits = np.array([width, height, width, height], self.dtype) - 1
        boxes = np.maximum(np.minimum(boxes, limits), 0)
        large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= param.min_size * scale).all(axis=1)
        boxes, scores = boxes[large], scores[large]
        order = np.argsort(-scores, kind="stable")
        if param.pre_nms_topn:
            order = order[: param.pre_nms_topn]
        boxes, scores = boxes[order], scores[order]
        kept = self._suppressed(boxes)
        return boxes[kept], scores[kept]

    def _suppressed(self, boxes: np.ndarray) -> list[int]:
        """Boxes, the best first, that overlap no better one too much; sizes in whole pixels, with the last one."""
        param = self.param.proposal_param
        areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
        left = np.arange(len(boxes))
        kept: list[int] = []
        while len(left) and not (param.post_nms_topn and len(kept) == param.post_nms_topn):
            best, left = left[0], left[1:]
            kept.append(int(best))
            low = np.maximum(boxes[best, :2], boxes[left, :2])
            shared = np.maximum(0, np.minimum(boxes[best, 2:], boxes[left, 2:]) - low + 1).prod(axis=1)
            overlap = shared / (areas[best] + areas[left] - shared)
            left = left[overlap <= self.dtype.type(param.nms_thresh)]
        return kept

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
