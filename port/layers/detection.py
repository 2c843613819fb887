"""SSD's priors, detections and their evaluation, in PyTorch."""

import torch
from torch import Tensor

from port.gradient import without_gradient
from port.layer import Layer, layer
from port.layers.boxes import (
    decode,
    overlaps,
    read_priors,
    size_of,
    standing,
    standing_adaptive,
    truths,
)
from prototxt.errors import InputError
from prototxt.layers.boxes import CORNER
from prototxt.layers.declare import legacy_shape
from prototxt.layers.detection import evaluated_classes, outline, prior_offsets, prior_sizes, saves_output
from runtime.data.detections import DetectionFiles, in_pixels, pixel_overlaps, read_sizes


@layer("PriorBox")
class PriorBox(Layer):
    """The prior boxes of a feature map, and their variances: (1, 2, 4 numbers for each box)."""

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        param = self.param.prior_box_param
        rows, columns = legacy_shape(tuple(features.shape))[2:]
        across = legacy_shape(tuple(image.shape))[2:]
        if param.HasField("img_size"):
            across = (param.img_size, param.img_size)
        elif param.HasField("img_h"):
            across = (param.img_h, param.img_w)
        steps = [torch.tensor(float(size)) / n for size, n in zip(across, (rows, columns), strict=True)]
        if param.HasField("step"):
            steps = [torch.tensor(param.step)] * 2
        elif param.HasField("step_h"):
            steps = [torch.tensor(param.step_h), torch.tensor(param.step_w)]
        # Single precision up to here, double in the fractions, as Caffe computes.
        half = torch.tensor(prior_sizes(param), dtype=torch.float32).double() / 2
        offsets = torch.tensor(prior_offsets(param), dtype=torch.float32)
        y = (torch.arange(rows, dtype=torch.float32)[:, None, None] + offsets) * steps[0]
        x = (torch.arange(columns, dtype=torch.float32)[:, None] + param.offset) * steps[1]
        centre = torch.stack(torch.broadcast_tensors(x.double(), y.double()), -1)
        size = torch.tensor([across[1], across[0]], dtype=torch.float64)
        boxes = torch.cat([(centre - half) / size, (centre + half) / size], -1)
        if param.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(list(param.variance) or [0.1], dtype=torch.float64).expand(boxes.shape)
        top = torch.stack([boxes.flatten(), variances.flatten()])[None].to(features)
        return without_gradient(top, features, image)


@layer("DetectionOutput")
class DetectionOutput(Layer):
    """What was detected: rows [image, label, score, box], as many as are found, (1, 1, n, 7).

    TextBoxes++'s rows go on with the box's outline: (1, 1, n, 15), or 12 with a turned box's. Without any, a row
    [i, -1, …] for each image. A score that is not a number is never above the threshold.
    """

    def set_up(self) -> None:
        saves = saves_output(self.param)
        self.files = DetectionFiles(self.param.detection_output_param) if saves else None

    def forward(self, loc: Tensor, conf: Tensor, priors: Tensor, image: Tensor | None = None) -> Tensor:
        param = self.param.detection_output_param
        with torch.no_grad():
            boxes, variances = read_priors(priors)
            scores = conf.detach().reshape(len(conf), len(boxes), param.num_classes)
            classes = [c for c in range(param.num_classes) if c != param.background_label_id]
            candidates = self._candidates(scores, classes)
            decoded = self._decoded(loc.detach(), boxes, variances, candidates)
            left = self._left(decoded[..., :4], candidates)
            rows = self._rows(decoded, candidates, left, classes, len(loc))
            if self.files:
                self.files.add(rows[0, 0].cpu().numpy(), len(loc))
            return rows

    def _candidates(self, scores: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
        """The scores, and the places among the priors, of each image's and class's best, the best first.

        Both are (images, classes, k); what is not above the threshold has score -inf.
        """
        param = self.param.detection_output_param
        least = param.confidence_threshold if param.HasField("confidence_threshold") else _LOWEST
        by_class = scores.transpose(1, 2)[:, classes]
        by_class = by_class.where(by_class > torch.tensor(least, dtype=scores.dtype), -torch.inf)
        most = int((by_class > -torch.inf).sum(-1).max()) if by_class.numel() else 0
        if param.nms_param.HasField("top_k") and param.nms_param.top_k >= 0:
            most = min(most, param.nms_param.top_k)
        return _ranked(by_class, most)

    def _decoded(
        self, loc: Tensor, priors: Tensor, variances: Tensor, candidates: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The candidates' boxes, (images, classes, k, 4), and behind each its outline where it has one."""
        param = self.param.detection_output_param
        if param.code_type != CORNER:
            size_of(priors, "the prior")  # refused wherever it is
        _, places = candidates
        numbers = 4 + outline(self.param, tuple(loc.shape), (1, 2, 4 * len(priors)))
        codes = loc.reshape(len(loc), len(priors), -1, numbers)
        image = torch.arange(len(loc), device=loc.device)[:, None, None]
        kind = torch.zeros(1, dtype=torch.long)
        if not param.share_location:
            kind = torch.tensor([c for c in range(param.num_classes) if c != param.background_label_id])
        codes = codes[image, places, kind.to(loc.device)[:, None]]
        given = None if param.variance_encoded_in_target else variances[places]
        boxes = decode(param.code_type, priors[places], given, codes[..., :4])
        if numbers == 4:
            return boxes
        return torch.cat([boxes, _outlines(priors[places], variances[places], codes[..., 4:])], -1)

    def _left(self, boxes: Tensor, candidates: tuple[Tensor, Tensor]) -> Tensor:
        """Which candidates are left after suppression, (images, classes, k); maybe not all, but the keep_top_k best."""
        param, most = (
            self.param.detection_output_param.nms_param,
            self.param.detection_output_param.keep_top_k,
        )
        scores = candidates[0]
        valid = scores > -torch.inf
        if param.eta < 1 and param.nms_threshold > 0.5:
            left = torch.zeros_like(valid)
            for i, c in torch.nonzero(valid.any(-1)).tolist():
                some = boxes[i, c, : int(valid[i, c].sum())]
                left[i, c, : len(some)] = standing_adaptive(overlaps(some, some), param)
            return left

        def enough(left: Tensor, known: int) -> bool:
            """Whether each image has keep_top_k boxes with better scores than any that is not yet looked at."""
            others = scores[..., known].amax(1)[:, None, None]
            return most >= 0 and bool(
                ((left.view(valid.shape) & (scores > others)).sum((1, 2)) >= most).all()
            )

        lists = standing(boxes.flatten(0, 1), valid.flatten(0, 1), param.nms_threshold, enough)
        return lists.view(valid.shape)

    def _rows(
        self, boxes: Tensor, candidates: tuple[Tensor, Tensor], left: Tensor, classes: list[int], num: int
    ) -> Tensor:
        scores, most = candidates[0], self.param.detection_output_param.keep_top_k
        if most >= 0:
            image = scores.where(left, -torch.inf).flatten(1)
            best = image.argsort(dim=-1, descending=True, stable=True)[:, :most]
            chosen = torch.zeros_like(image, dtype=torch.bool).scatter_(1, best, True)
            left = left & chosen.view(left.shape)
        image, label, rank = torch.nonzero(left, as_tuple=True)
        if not len(image):
            rows = scores.new_full((num, 3 + boxes.shape[-1]), -1)
            rows[:, 0] = torch.arange(num)
            return rows[None, None]
        marks = torch.stack([image, torch.tensor(classes, device=label.device)[label]], 1)
        found = (marks.to(scores), scores[image, label, rank, None], boxes[image, label, rank])
        return torch.cat(found, 1)[None, None]


def _outlines(priors: Tensor, variances: Tensor, codes: Tensor) -> Tensor:
    """TextBoxes++'s: four corners, clockwise from the upper left; or two points and how high the turned box is."""
    low, high = priors[..., :2], priors[..., 2:]
    scale = variances[..., :2] * (high - low)
    if codes.shape[-1] == 5:
        points = [(low + high) / 2 + scale * codes[..., i : i + 2] for i in (0, 2)]
        height = (variances[..., 3:] * codes[..., 4:]).exp() * (high - low)[..., 1:]
        return torch.cat([*points, height], -1)
    corners = [
        low,
        torch.stack([high[..., 0], low[..., 1]], -1),
        high,
        torch.stack([low[..., 0], high[..., 1]], -1),
    ]
    return torch.cat([corner + scale * codes[..., 2 * i : 2 * i + 2] for i, corner in enumerate(corners)], -1)


_LOWEST = torch.finfo(torch.float32).min


def _ranked(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest along the last axis, and their places; of equal ones the earlier comes first."""
    if not count:
        empty = scores[..., :0]
        return empty, empty.long()
    # topk is quick, but takes any of equal scores: it says which is the least that counts.
    least = scores.topk(count, -1).values.amin(-1, keepdim=True)
    above, equal = scores > least, scores == least
    lacking = count - above.sum(-1, keepdim=True)
    places = torch.nonzero(above | (equal & (equal.cumsum(-1) <= lacking)))[:, -1]
    places = places.view(*scores.shape[:-1], count)
    ranked, order = scores.gather(-1, places).sort(dim=-1, descending=True, stable=True)
    return ranked, places.gather(-1, order)


@layer("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Detections judged by ground truth, (1, 1, n, 5).

    First [-1, class, its truths, -1, -1] for each class, then [image, label, score, true, false] for each detection,
    the best first; those of an image and label without any truth stay in the order given. With a name_size_file they
    are compared in pixels of its images, which come in its order, pass after pass.
    """

    def set_up(self) -> None:
        file = self.param.detection_evaluate_param.name_size_file
        self.sizes = [size for _, size in read_sizes(file)] if file else []
        self.seen = 0

    def forward(self, detections: Tensor, truth: Tensor) -> Tensor:
        param, background = (
            self.param.detection_evaluate_param,
            self.param.detection_evaluate_param.background_label_id,
        )
        found, rows = detections.detach().reshape(-1, 7), truth.detach().reshape(-1, 8)
        # An image of -1 ends the truths.
        rows = rows[(rows[:, 0].long() == -1).cumsum(0) == 0]
        image, label = truths(rows, background)
        counts = (rows[:, 7] == 0) | param.evaluate_difficult_gt
        classes = [c for c in range(param.num_classes) if c != background]
        tops = found.new_full((len(classes), 5), -1)
        tops[:, 1] = torch.tensor(classes)
        tops[:, 2] = torch.stack([(counts & (label == c)).sum() for c in classes]).to(tops) if classes else 0
        judged = [tops]
        of, kind = found[:, 0].long(), found[:, 1].long()
        if ((kind == background) & (of != -1)).any():
            raise InputError(f"the detections have one of the background label {background}")
        real = (of != -1) & (kind != -1)
        sizes = {}
        for i in of[of != -1].unique().tolist() if self.sizes else ():
            sizes[i] = self.sizes[self.seen]
            self.seen = (self.seen + 1) % len(self.sizes)
        for i, c in torch.stack([of[real], kind[real]], 1).unique(dim=0).tolist():
            boxes = found[(of == i) & (kind == c)]
            hers = (image == i) & (label == c)
            true, false = torch.zeros(len(boxes), dtype=torch.bool), torch.ones(len(boxes), dtype=torch.bool)
            if hers.any():
                boxes = boxes[boxes[:, 2].argsort(dim=0, descending=True, stable=True)]
                overlap = self._overlaps(boxes[:, 3:], rows[hers, 3:7], sizes.get(i))
                true, false = _judged(overlap, counts[hers], param.overlap_threshold)
            marks = boxes.new_tensor([i, c]).expand(len(boxes), 2)
            verdict = torch.stack([true, false], 1).to(boxes)
            judged.append(torch.cat([marks, boxes[:, 2:3], verdict], 1))
        top = torch.cat(judged)
        rows_due = evaluated_classes(self.param) + int((found[:, 1] != -1).sum())
        return torch.cat([top, top.new_zeros(rows_due - len(top), 5)])[None, None]

    def _overlaps(self, boxes: Tensor, due: Tensor, size: tuple[int, int] | None) -> Tensor:
        if size is None:
            return overlaps(boxes, due)
        param = self.param.detection_evaluate_param
        resize = param.resize_param if param.HasField("resize_param") else None
        pixels = [in_pixels(part.cpu().numpy(), size, resize) for part in (boxes, due)]
        return torch.from_numpy(pixel_overlaps(*pixels)).to(boxes)


def _judged(overlap: Tensor, counts: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which detections, the best first, are true and which are false, by overlaps (detections, truths).

    Neither: what found a difficult truth that does not count.
    """
    most, which = overlap.max(1)
    which = overlap.eq(most[:, None]).int().argmax(1)  # the first of equal ones
    hit = most >= threshold
    found = hit & counts[which]
    again = (which[:, None] == which) & found[:, None] & found
    true = found & ~again.tril(-1).any(1)
    return true, ~true & ~(hit & ~counts[which])
