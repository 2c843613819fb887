"""Boxes from the maps of MobileNet-YOLO's nets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from port.gradient import without_gradient
from port.layer import Layer, layer

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4) of centre and size, scores (n, classes), and whether a score counts, as the fork's loops have them."""


class _Output(Layer):
    """Rows [0, label, score, left, top, right, bottom], (1, 1, n, 7). The images of a batch are one to the suppression.

    Without any box, a row [i, -1, …] for each image. Nothing goes back.
    """

    threshold: float

    def forward(self, *maps: Tensor) -> Tensor:
        found = [self._found(i, each.detach()) for i, each in enumerate(maps)]
        boxes, scores, counted = (torch.cat(parts) for parts in zip(*found, strict=True))
        cell, label = counted.nonzero(as_tuple=True)
        score = scores[cell, label]
        order = torch.sort(score, descending=True, stable=True).indices
        cell, label, score = cell[order], label[order], score[order]
        kept = _kept(boxes, cell, self.threshold)
        if not len(kept):
            rows = boxes.new_full((len(maps[-1]), 7), -1)
            rows[:, 0] = torch.arange(len(rows))
        else:
            centre, half = boxes[cell[kept], :2], boxes[cell[kept], 2:] / 2
            columns = [torch.zeros_like(score[kept])[:, None], label[kept][:, None] + 1, score[kept][:, None]]
            rows = torch.cat([*(x.to(boxes.dtype) for x in columns), centre - half, centre + half], 1)
        return without_gradient(rows[None, None], *maps)

    def _found(self, index: int, x: Tensor) -> Found:
        raise NotImplementedError


@layer("YoloDetectionOutput")
class YoloDetectionOutput(_Output):
    """YOLO v2: each anchor's best class, by softmax, if its score times the object's is at least the threshold."""

    def set_up(self) -> None:
        self.threshold = self.param.yolo_detection_output_param.nms_threshold

    def _found(self, index: int, x: Tensor) -> Found:
        param = self.param.yolo_detection_output_param
        num, _, height, width = x.shape
        values = x.reshape(num, param.num_box, -1, height, width).permute(0, 3, 4, 1, 2)
        boxes = _boxes(values, param.biases[: 2 * param.num_box], (1, 1))
        probability = values[..., 5 : 5 + param.num_classes].softmax(-1)
        scores = values[..., 4:5].sigmoid() * probability
        best = torch.zeros_like(scores, dtype=torch.bool).scatter_(
            -1, probability.argmax(-1, keepdim=True), True
        )
        counted = best & (scores >= param.confidence_threshold)
        return boxes.flatten(0, -2), scores.flatten(0, -2), counted.flatten(0, -2)


@layer("Yolov3DetectionOutput")
class Yolov3DetectionOutput(_Output):
    """YOLO v3: each class of each anchor whose score times the object's, sigmoids both, is above the threshold."""

    def set_up(self) -> None:
        self.threshold = self.param.yolov3_detection_output_param.nms_threshold

    def _found(self, index: int, x: Tensor) -> Found:
        param = self.param.yolov3_detection_output_param
        num, _, height, width = x.shape
        length, first = 5 + param.num_classes, index * (len(param.mask) // param.mask_group_num)
        values = x[:, : param.num_box * length].reshape(num, param.num_box, length, height, width)
        values = values.permute(0, 3, 4, 1, 2)
        chosen = param.mask[first : first + param.num_box]
        scale = param.anchors_scale[index]
        boxes = _boxes(values, [param.biases[2 * n + i] for n in chosen for i in (0, 1)], (scale, scale))
        scores = values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()
        counted = scores > param.confidence_threshold
        return boxes.flatten(0, -2), scores.flatten(0, -2), counted.flatten(0, -2)


def _boxes(values: Tensor, biases: Sequence[float], scale: tuple[int, int]) -> Tensor:
    """(num, height, width, anchors, 4): centres and sizes as shares of the image; sizes are of `scale` cells each."""
    height, width = values.shape[1:3]
    rows = torch.arange(height, device=values.device).view(-1, 1, 1)
    columns = torch.arange(width, device=values.device).view(1, -1, 1)
    anchors = torch.tensor(list(biases), dtype=torch.float32).view(-1, 2).to(values)
    return torch.stack(
        [
            (columns + values[..., 0].sigmoid()) / width,
            (rows + values[..., 1].sigmoid()) / height,
            values[..., 2].exp() * anchors[:, 0] / (width * scale[0]),
            values[..., 3].exp() * anchors[:, 1] / (height * scale[1]),
        ],
        -1,
    )


def _kept(boxes: Tensor, cell: Tensor, threshold: float) -> list[int]:
    """Of boxes in falling order, those that overlap no kept one by `threshold` or more; all classes together."""
    boxes = boxes.float()
    places = torch.arange(len(cell), device=cell.device)
    # A box stands for all its classes: after the first of them the others overlap it wholly.
    whole = _overlaps(boxes, boxes) >= threshold
    first = torch.full((len(boxes),), len(cell), device=cell.device).scatter_reduce_(0, cell, places, "amin")
    places = places[~whole[cell] | (places == first[cell])]
    kept = []
    while len(places):
        best, places = places[0], places[1:]
        kept.append(int(best))
        places = places[~(_overlaps(boxes[cell[best]], boxes[cell[places]]) >= threshold)]
    return kept


def _overlaps(one: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of centres and sizes, in single precision."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, others[..., :2] - others[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2)
    sides = high - low
    both = sides.prod(-1).where((sides >= 0).all(-1), 0)
    return both / (one[..., 2:].prod(-1) + others[..., 2:].prod(-1) - both)
