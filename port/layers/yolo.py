"""The layers of YOLO v2 as intel/caffe has them, in PyTorch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from port.gradient import with_gradient
from port.layer import Layer, layer
from port.layers.losses import Loss
from prototxt.caffe_pb2 import EvalDetectionParameter
from prototxt.errors import InputError
from prototxt.layers.yolo import EVALUATED_ANCHORS


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes, [middle, size] in the last axis; both broadcast. 0 where they are apart."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    sides = high - low
    shared = sides.prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return (shared / union).masked_fill((sides < 0).any(-1), 0)


def _cells(x: Tensor, anchors: int) -> Tensor:
    """The map as (num, side · side · anchors, numbers): places in row order, the anchors of each in turn."""
    num, channels = x.shape[:2]
    return x.detach().flatten(2).transpose(1, 2).reshape(num, -1, channels // anchors)


def _predicted(cells: Tensor, biases: Sequence[float], side: int, anchors: int) -> Tensor:
    """Boxes [middle, size] in fractions of the image, shaped like the cells but for the last axis."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack([x, y], -1).view(-1, 1, 2).expand(-1, anchors, 2).reshape(-1, 2).to(cells)
    sizes = cells.new_tensor(biases[: 2 * anchors]).view(anchors, 2).repeat(side * side, 1)
    return torch.cat([place + cells[..., :2].sigmoid(), cells[..., 2:4].exp() * sizes], -1) / side


def _read_truths(rows: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """The truths' images, classes from 0 on, and boxes [middle, size].

    Raises:
        InputError: an image out of range.
    """
    rows = rows.detach().reshape(-1, 8)
    rows = rows[rows[:, 0].long() != -1]
    image = rows[:, 0].long()
    wrong = (image < 0) | (image >= images)
    if wrong.any():
        raise InputError(f"a truth is of image {int(image[wrong][0])}, of {images}")
    low, high = rows[:, 3:5], rows[:, 5:7]
    return image, (rows[:, 1] - 1).long(), torch.cat([(low + high) / 2, high - low], 1)


@layer("RegionLoss")
class RegionLoss(Loss):
    """The squared length of the slopes that YOLO v2 sends back; backwards they go, over the number of images.

    A truth belongs to the anchor at its middle whose shape is most alike; of an anchor's truths the last counts.
    Those without area belong to the first anchor of the first image.
    """

    no_gradient: ClassVar[dict[int, str]] = {1: "truths"}

    def loss(self, x: Tensor, rows: Tensor) -> Tensor:
        param, num = self.param.region_loss_param, len(x)
        cells = _cells(x, param.num)
        if cells[..., 4:].isnan().any():
            raise InputError("a score is not a number")
        image, label, boxes = _read_truths(rows, num)
        likely = cells[..., 4].sigmoid()
        slopes = torch.zeros_like(cells)
        slopes[..., 4] = likely.square() * (1 - likely) * param.noobject_scale
        predicted = _predicted(cells, param.biases, param.side, param.num)
        for b in range(num):
            if (image == b).any():
                most = _iou(predicted[b][:, None], boxes[image == b]).nan_to_num(0).amax(1)
                slopes[b, :, 4].masked_fill_(most.float() > torch.tensor(param.thresh), 0)
        chances = cells[..., 5:].softmax(-1)
        for k in image.argsort(stable=True).tolist():
            at, middle = self._anchor(cells, int(image[k]), boxes[k])
            slopes[at] = self._slopes(
                cells[at], chances[at], boxes[k], middle, at[1] % param.num, int(label[k])
            )
        loss = slopes.square().sum()

        def gradient() -> Tensor:
            back = slopes.reshape(num, param.side**2, -1).transpose(1, 2)
            return back.reshape(x.shape) / num

        return with_gradient(x, loss, gradient)

    def _anchor(self, cells: Tensor, image: int, box: Tensor) -> tuple[tuple[int, int], Tensor]:
        """Which anchor, (image, place among the cells), has the truth, and the column and row of its middle."""
        param = self.param.region_loss_param
        middle = box[:2] * param.side
        if not ((middle >= 0) & (middle < param.side)).all():
            raise InputError(
                f"a truth's middle ({float(box[0]):g}, {float(box[1]):g}) is outside of the image"
            )
        middle = middle.trunc()
        first = int(middle[1] * param.side + middle[0]) * param.num
        sizes = cells.new_tensor(param.biases[: 2 * param.num]).view(-1, 2)
        if not param.bias_match:
            sizes = cells[image, first : first + param.num, 2:4].exp() * sizes
        anchors = torch.cat([torch.zeros_like(sizes), sizes / param.side], 1)
        alike = _iou(anchors, torch.cat([torch.zeros_like(box[:2]), box[2:]])).float().nan_to_num(0)
        if alike.max() > 0:
            return (image, first + int(alike.argmax())), middle
        return (0, 0), middle

    def _slopes(
        self, cell: Tensor, chances: Tensor, box: Tensor, middle: Tensor, anchor: int, label: int
    ) -> Tensor:
        param = self.param.region_loss_param
        inside = cell[:2].sigmoid()
        shift = (box[:2] * param.side - middle - inside).clamp(-1, 1)
        sizes = cell.new_tensor(param.biases[2 * anchor : 2 * anchor + 2])
        scale = ((box[2:] * param.side / sizes).log() - cell[2:4]).clamp(-1, 1)
        likely = cell[4:5].sigmoid()
        object_ = -2 * param.object_scale * (1 - likely).pow(4) * likely
        true = torch.arange(param.num_class, device=cell.device) == label
        box_slopes = torch.cat([shift * inside * (1 - inside), scale]) * -param.coord_scale
        return torch.cat([box_slopes, object_, (chances - true.to(cell)) * param.class_scale])


@layer("EvalDetection")
class EvalDetection(Layer):
    """For each image how many truths each class has, then rows [class, score, true, false] of what is detected.

    Rows go by class, then by score. Nothing is detected unless `nms` is 0 or above. A detection that overlaps its
    class's truths too little is neither true nor false; false it is without such truths, or where a better one was.
    """

    @torch.no_grad()
    def forward(self, x: Tensor, rows: Tensor, *unused: Tensor) -> Tensor:
        param, num = self.param.eval_detection_param, len(x)
        image, label, boxes = _read_truths(rows, num + 1)
        label, boxes, image = (values[image < num] for values in (label, boxes.float(), image))
        wrong = (label < 0) | (label >= param.num_class)
        if wrong.any():
            raise InputError(
                f"a truth is of class {int(label[wrong][0]) + 1}, of {param.num_class}: classes begin at 1"
            )
        top = x.new_zeros(num, self.plan.declared.tops[0][1])
        cells = _cells(x, param.num_object).float()
        cells = cells.view(num, param.side**2, param.num_object, -1)[:, :, :EVALUATED_ANCHORS].flatten(1, 2)
        for b in range(num):
            mine = image == b
            top[b, : param.num_class] = torch.bincount(label[mine], minlength=param.num_class).to(top)
            if param.nms >= 0:
                found = self._detected(cells[b], label[mine], boxes[mine]).flatten().to(top)
                top[b, param.num_class : param.num_class + len(found)] = found
        return top

    def _detected(self, cells: Tensor, label: Tensor, truths: Tensor) -> Tensor:
        param = self.param.eval_detection_param
        most, kind = cells[:, 5:].softmax(1).max(1)
        score = cells[:, 4].sigmoid()
        if param.score_type == EvalDetectionParameter.PROB:
            score = most
        elif param.score_type == EvalDetectionParameter.MULTIPLY:
            score = score * most
        boxes = _predicted(cells, param.biases, param.side, EVALUATED_ANCHORS)
        places = score.argsort(descending=True, stable=True)
        kept = []
        while len(places):
            best, places = int(places[0]), places[1:]
            kept.append(best)
            places = places[~(_iou(boxes[best], boxes[places]) >= boxes.new_tensor(param.nms))]
        left = torch.tensor(kept, device=cells.device)
        left = left[score[left].double() >= 0.005]
        left = left[kind[left].argsort(stable=True)]
        rows, taken = [], set()
        for i in left.tolist():
            hers = (label == kind[i]).nonzero().flatten()
            verdict = [0.0, 1.0]
            if len(hers):
                shared = _iou(boxes[i], truths[hers])
                truth = int(hers[shared.argmax()])
                hit = bool(shared.max() >= boxes.new_tensor(param.threshold))
                verdict = [float(hit and truth not in taken), float(hit and truth in taken)]
                taken |= {truth} if hit else set()
            rows.append([float(kind[i]), float(score[i]), *verdict])
        return boxes.new_tensor(rows).reshape(-1, 4)
