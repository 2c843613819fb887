"""MobileNet-YOLO's losses, and how it evaluates segmentation."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from port.gradient import with_gradient
from port.layer import Layer, layer
from port.layers.losses import Loss
from prototxt.caffe_pb2 import Yolov3Parameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.yolo_losses import TRUTHS
from runtime.resized_bytes import resized_bytes

MSE, IOU, GIOU, DIOU, CIOU = (
    Yolov3Parameter.IOU_LOSS.Value(name) for name in ("MSE", "IOU", "GIOU", "DIOU", "CIOU")
)


def _edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 2) each: left and top, right and bottom of boxes [middle, size]."""
    return boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2


def _alike(a: Tensor, b: Tensor, kind: int) -> Tensor:
    """How alike boxes are that broadcast: intersection over union, or GIOU, DIOU, CIOU."""
    (a_low, a_high), (b_low, b_high) = _edges(a), _edges(b)
    inner = torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)
    outer = torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)
    shared = inner.prod(-1).masked_fill((inner < 0).any(-1), 0)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    iou = shared / union
    if kind in (MSE, IOU):
        return iou
    if kind == GIOU:
        hull = outer.prod(-1)
        return torch.where(hull == 0, iou, iou - (hull - union) / hull)
    hull = outer.square().sum(-1)
    apart = (a[..., :2] - b[..., :2]).square().sum(-1) / hull
    if kind == DIOU:
        return torch.where(hull == 0, iou, iou - apart**0.6)
    bent = 4 / math.pi**2 * _turn(a, b).square()
    return torch.where(hull == 0, iou, iou - (apart + bent / (1 - iou + bent + 1e-6) * bent))


def _turn(a: Tensor, b: Tensor) -> Tensor:
    return (b[..., 2] / b[..., 3]).atan() - (a[..., 2] / a[..., 3]).atan()


def _ascent(box: Tensor, truth: Tensor, kind: int) -> Tensor:
    """The slope of how alike a box and a truth are, by its middle and its size: by its size twice, as published."""
    low, high = _edges(box)
    t_low, t_high = _edges(truth)
    upright = low < high
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    size, inner = high - low, torch.minimum(high, t_high) - torch.maximum(low, t_low)
    outer = torch.maximum(high, t_high) - torch.minimum(low, t_low)
    shared, hull = inner.prod(), outer.prod()
    union = size.prod() + (t_high - t_low).prod() - shared
    ends = torch.stack([-torch.ones_like(low), torch.ones_like(low)])  # (edge, axis)
    within = torch.stack([low > t_low, high < t_high])
    beyond = torch.stack([low < t_low, high > t_high]).to(box.dtype)
    by_shared = ends * within * inner.flip(0)
    by_union = ends * size.flip(0) - by_shared
    slopes = (union * by_shared - shared * by_union) / union**2 if union > 0 else torch.zeros_like(ends)
    slopes[0] = torch.where(upright, slopes[0], slopes[1])
    if kind == GIOU:
        turned = (hull * by_union - union * ends * beyond * outer.flip(0)) / hull**2
        slopes = turned if (inner <= 0).any() else slopes + (turned if hull > 0 else 0)
    found = torch.cat([slopes.sum(0), slopes[1] - slopes[0]])
    if kind not in (DIOU, CIOU):
        return found
    low, high = _edges(box)
    outer = torch.maximum(high, t_high) - torch.minimum(low, t_low)
    square = outer.square().sum()
    far = (box[:2] - truth[:2]).square().sum()
    middle = 2 * (truth[:2] - box[:2]) * square - 2 * outer * (beyond[1] - beyond[0]) * far
    more = torch.cat([middle, outer * beyond.sum(0) * far]) / square**2
    if kind == CIOU:
        turn = _turn(box, truth)
        bent = 4 / math.pi**2 * turn.square()
        share = bent / (1 - shared / union + bent + 1e-6)
        more[2:] += share * 8 / math.pi**2 * turn * torch.stack([box[3], -box[2]])
    return more if (inner <= 0).any() else found + (more if square > 0 else 0)


@layer("Yolov3")
class Yolov3(Loss):
    """YOLO v3's loss in MobileNet-YOLO: the squared length of the slopes that it sends back, per image.

    Objects are sought for the one anchor of all that is most alike a truth, if this map has it, and for those of its
    anchors that are more alike than `iou_thresh`; of those the published code leaves out the anchor whose number, among
    all, is the first one's number in this map. Places whose box overlaps no truth by more than `thresh` go to 0.
    """

    no_gradient: ClassVar[dict[int, str]] = {1: "truths"}

    def loss(self, x: Tensor, rows: Tensor) -> Tensor:
        param = self.param.yolov3_param
        num, _, *size = legacy_shape(tuple(x.shape))
        raw = x.detach().reshape(num, param.num, -1, *size)
        values = raw.sigmoid()
        values[:, :, 2:4] = raw[:, :, 2:4]
        grid = _Grid(self, values, torch.zeros_like(raw))
        for b, truths in enumerate(rows.detach().flatten()[: num * TRUTHS * 5].reshape(num, TRUTHS, 5)):
            if (truths[:, 3:] < 0).any():
                raise InputError("a truth has a negative size")
            grid.background(b, truths[: _rows(truths[:, 1])])
            for truth in truths[: _rows(truths[:, 3])]:
                grid.seek(b, truth)
        slopes = grid.slopes
        if param.iou_loss == MSE:
            total = slopes.square().sum()
        else:
            total = slopes[:, :, 4:].square().sum()
            if grid.likeness:
                total = total + param.iou_normalizer * (1 - torch.stack(grid.likeness)).sum() / len(
                    grid.likeness
                )

        def gradient() -> Tensor:
            if not param.use_logic_gradient:
                return slopes.reshape(x.shape) / num
            turned = values if param.iou_loss == MSE else torch.cat([raw[:, :, :2], values[:, :, 2:]], 2)
            turned = turned * (1 - turned)
            turned[:, :, 2:4] = 1
            return (slopes * turned).reshape(x.shape) / num

        return with_gradient(x, total / num, gradient)


def _rows(ends: Tensor) -> int:
    """How many rows there are before the first 0."""
    zeros = (ends == 0).nonzero()
    return int(zeros[0]) if len(zeros) else len(ends)


class _Grid:
    """The slopes of one pass: (num, anchors, numbers, height, width).

    Attributes:
        likeness: how alike each box is that was sought.
    """

    def __init__(self, layer: Yolov3, values: Tensor, slopes: Tensor):
        self.param, self.values, self.slopes = layer.param.yolov3_param, values, slopes
        self.cells = values.new_tensor(values.shape[:2:-1])  # across, down
        self.network = self.cells * self.param.anchors_scale
        count = len(self.param.biases) // 2 * 2
        self.anchors = values.new_tensor(list(self.param.biases)[:count]).view(-1, 2)
        self.mask = list(self.param.mask[: self.param.num])
        self.likeness: list[Tensor] = []

    def boxes(self, values: Tensor, places: Tensor, anchors: Tensor) -> Tensor:
        """[middle, size] in the last axis, of numbers in the last axis."""
        return torch.cat(
            [(places + values[..., :2]) / self.cells, values[..., 2:4].exp() * anchors / self.network], -1
        )

    def background(self, b: int, truths: Tensor) -> None:
        height, width = self.values.shape[3:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([x, y], -1).to(self.values)
        made = self.boxes(self.values[b].movedim(1, -1), places, self.anchors[self.mask][:, None, None])
        score = self.values[b, :, 4]
        best = torch.zeros_like(score)
        for truth in truths:
            best = torch.fmax(best, _alike(made, truth[1:], self.param.iou_loss))
        self.slopes[b, :, 4] = score.masked_fill(best > score.new_tensor(self.param.thresh), 0)

    def seek(self, b: int, truth: Tensor) -> None:
        """Push what stands at a truth's place towards it."""
        param, middle = self.param, truth[1:3] * self.cells
        if not ((middle >= 0) & (middle < self.cells)).all():
            raise InputError(f"a truth's middle ({truth[1]:g}, {truth[2]:g}) is outside of the image")
        if not 0 <= truth[0] < param.num_class:
            raise InputError(f"a truth is of class {truth[0]:g}, of {param.num_class} from 0 on")
        shapes = torch.cat([torch.zeros_like(self.anchors), self.anchors / self.network], 1)
        alike = _alike(shapes, torch.cat([torch.zeros_like(truth[:2]), truth[3:]]), param.iou_loss)
        alike = alike.nan_to_num(-torch.inf)
        best = int(alike.argmax()) if alike.max() > 0 else -1
        if best in self.mask:
            best = self.mask.index(best)
            self._push(b, best, middle.long(), truth)
        if param.iou_thresh < 1:
            enough = (alike > alike.new_tensor(param.iou_thresh)).tolist()
            for n, more in enumerate(enough):
                if more and n in self.mask and n != best:
                    self._push(b, self.mask.index(n), middle.long(), truth)

    def _push(self, b: int, n: int, cell: Tensor, truth: Tensor) -> None:
        param = self.param
        at = (b, n, slice(None), int(cell[1]), int(cell[0]))
        values, slopes, anchor = self.values[at], self.slopes[at], self.anchors[self.mask[n]]
        if param.iou_loss == MSE:
            due = torch.cat([truth[1:3] * self.cells - cell, (truth[3:] * self.network / anchor).log()])
            slopes[:4] = (values[:4] - due) * param.coord_scale * (2 - truth[3] * truth[4])
            self.likeness.append(truth.new_zeros(()))
        else:
            slopes[:4] = self._box_slopes(values, slopes, cell, anchor, truth[1:])
        slopes[4] = (values[4] - 1) * (param.object_scale if param.use_logic_gradient else 1)
        self._push_class(values[5:], slopes[5:], int(truth[0]))

    def _box_slopes(
        self, values: Tensor, slopes: Tensor, cell: Tensor, anchor: Tensor, truth: Tensor
    ) -> Tensor:
        param = self.param
        box = self.boxes(values, cell.to(values), anchor)
        self.likeness.append(_alike(box, truth, DIOU if param.iou_loss == IOU else param.iou_loss))
        box[2:] = torch.where(box[2:] == 0, 1, box[2:])
        steps = _ascent(box, truth, param.iou_loss) * param.iou_normalizer
        steps[2:] *= values[2:4].exp()
        steps = steps.where(steps.isfinite(), 0).clamp(-param.max_delta, param.max_delta)
        return slopes[:4] - steps if param.accumulate else -steps

    def _push_class(self, likely: Tensor, slopes: Tensor, c: int) -> None:
        param, one = self.param, torch.zeros_like(likely)
        one[c] = 1
        soft = one * (1 - param.label_smooth_eps) + 0.5 * param.label_smooth_eps
        if slopes[c] != 0:  # pushed before: the other classes stay
            slopes[c] = (likely[c] - soft[c]) * param.class_scale
        elif param.use_focal_loss:
            p = likely[c] + 1e-15
            slopes[:] = (likely - one) * param.class_scale * (p - 1) * (2 * p * p.log() + p - 1) / 2
        else:
            slopes[:] = (likely - soft) * param.class_scale


@layer("YoloSeg")
class YoloSeg(Loss):
    """Squared differences of sigmoids and labels per image, the labelled places scaled by how rare their class is."""

    no_gradient: ClassVar[dict[int, str]] = {}

    def loss(self, x: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        shape = legacy_shape(tuple(x.shape))
        labels, places = labels.detach().reshape(shape), places.detach().reshape(shape[:2])
        rare = 2 - places.sum(0) / (shape[2] * shape[3] - places).sum(0)
        scale = torch.where(labels > 0.5, rare[:, None, None], 1) * self.param.yolo_seg_param.object_scale
        slopes = (x.detach().reshape(shape).sigmoid() - labels) * scale
        return with_gradient(x, slopes.square().sum() / shape[0], lambda: slopes.reshape(x.shape) / shape[0])


@layer("SegmentationEvaluate")
class SegmentationEvaluate(Layer):
    """The first image's overlap of each class, above `threshold`. Scores of another size are resized as bytes."""

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores, labels = (x.detach().reshape(legacy_shape(tuple(x.shape)))[0] for x in (scores, labels))
        threshold = torch.tensor(self.param.segmentation_evaluate_param.threshold, dtype=torch.float32)
        truth = (labels > threshold.to(labels)).flatten(1)
        if scores.shape == labels.shape:
            found, missing = scores > threshold.to(scores), 0.0
        else:
            made = resized_bytes(scores.cpu().numpy(), (labels.shape[1], labels.shape[2]))
            found = torch.from_numpy(made).to(labels.device) > int(threshold * 255)
            missing = -1.0
        found = found.flatten(1)
        shared = (found & truth).sum(1)
        overlap = shared / (found | truth).sum(1)
        without = torch.where(truth.any(1), 0, missing)
        return torch.where(shared > 0, overlap, without).to(labels.dtype).reshape(1, 1, 1, -1)
