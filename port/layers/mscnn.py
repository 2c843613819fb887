"""The box layers of MS-CNN and Cascade R-CNN (zhaoweicai/mscnn), in PyTorch."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from port.gradient import with_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from port.layers.losses import FLOOR, Loss, ignored_label
from prototxt.caffe_pb2 import BoxOutputParameter, DetectionAccuracyParameter, DetectionLossParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.mscnn import COORDINATES, box_statistics, proposal_widths
from prototxt.layers.windows import canonical_axis
from runtime.rng import caffe_rng


def box_overlap(a: Tensor, b: Tensor, mode: str = "IOU") -> Tensor:
    """What boxes (…, 4), x, y, width and height, share: over the union, the smaller ("IOMU") or a's area ("IOFU").

    Both broadcast. A box whose width or height is not above 0 shares nothing.
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.unbind(-1), b.unbind(-1)
    across = _smaller(ax + aw, bx + bw) - _larger(ax, bx)
    down = _smaller(ay + ah, by + bh) - _larger(ay, by)
    shared = (across * down).masked_fill((across <= 0) | (down <= 0), 0)
    mine, hers = aw * ah, bw * bh
    if mode == "IOMU":
        whole = _smaller(mine, hers)
    else:
        whole = mine.expand(shared.shape) if mode == "IOFU" else mine + hers - shared
    return (shared / whole).masked_fill((aw <= 0) | (ah <= 0) | (bw <= 0) | (bh <= 0), 0)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    """The first of both where either is not a number, as C++ has it."""
    return torch.where(b < a, b, a)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a < b, b, a)


def _statistics(given: Layer, like: Tensor) -> Tensor:
    """(2, 4): means, and deviations, of the coordinates."""
    return like.new_tensor(box_statistics(given.param.bbox_reg_param, above_zero=False))


def _limits(
    param: BoxOutputParameter | DetectionLossParameter | DetectionAccuracyParameter, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The least and the greatest of predicted coordinates, (4)."""
    shift = 1 / like.new_tensor(param.field_xyr)
    whole = like.new_tensor(param.field_whr)
    low, high = (-shift, (1 / whole).log()), (shift, whole.log())
    return (
        torch.stack([low[0], low[0], low[1], low[1]]),
        torch.stack([high[0], high[0], high[1], high[1]]),
    )


def _within(t: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`t` between both; what is not a number counts as low."""
    return torch.minimum(torch.fmax(t, low), high)


def _middles(height: int, width: int, rate: float, like: Tensor) -> Tensor:
    """Pixels of the places' centres, (height · width, 2), x first."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2).to(like) + 0.5) * rate


def _places(x: Tensor) -> Tensor:
    """A map (num, channels, …) as (num, places, channels)."""
    return x.detach().reshape(*x.shape[:2], math.prod(x.shape[2:])).transpose(1, 2)


def _boxes(t: Tensor, limits: tuple[Tensor, Tensor], field: Tensor, middles: Tensor) -> Tensor:
    """Boxes (…, places, 4), x, y, width and height, that were predicted in fields around the places' centres."""
    t = _within(t, *limits)
    size = t[..., 2:].exp() * field
    return torch.cat([t[..., :2] * field + middles - size / 2, size], -1)


@layer("BoxOutput")
class BoxOutput(Layer):
    """The boxes that several maps predict, thinned out: (n, 5, 1, 1) regions, and (n, 6, 1, 1) with scores.

    The score is the best class's less the background's. Of equal ones the last place wins. No gradient.
    """

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        param = self.param.box_output_param
        found = [self._of_map(j, values) for j, values in enumerate(maps)]
        rows = []
        for i in range(len(maps[0])):
            boxes = torch.cat([boxes[i][valid[i]] for boxes, valid in found])
            # The last first, then in order of their scores.
            boxes = boxes.flip(0)
            boxes = boxes[boxes[:, 4].argsort(descending=True, stable=True)]
            boxes = self._standing(boxes[: param.max_nms_num or None])[: param.max_post_nms_num or None]
            image = boxes.new_full((len(boxes), 1), i)
            rows.append(torch.cat([image, boxes[:, :2], boxes[:, :2] + boxes[:, 2:4], boxes[:, 4:]], 1))
        top = torch.cat([maps[0].new_zeros(0, 6), *rows])
        regions = top[:, :5]
        if not len(top):
            regions, top = top.new_tensor([[0, 1, 1, 10, 10]]), top.new_zeros(1, 6)
        return tuple(rows[..., None, None] for rows in (regions, top)[: len(self.plan.tops)])

    def _of_map(self, j: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(num, places, 5) boxes with their scores, and which are good enough."""
        param = self.param.box_output_param
        height, width = legacy_shape(tuple(values.shape))[2:]
        rows = _places(values)
        scores, t = rows[..., :-COORDINATES], rows[..., -COORDINATES:]
        floor = torch.full_like(scores[..., :1], torch.finfo(torch.float32).min)
        best = torch.cat([floor, scores[..., 1:].nan_to_num(-torch.inf, torch.inf, -torch.inf)], -1).amax(-1)
        score = best - scores[..., 0]
        mean, deviation = _statistics(self, values)
        rate = param.downsample_rate[j]
        field = values.new_tensor([param.field_w[j], param.field_h[j]])
        middles = _middles(height, width, rate, values)
        boxes = _boxes(t * deviation + mean, _limits(param, values), field, middles)
        corner = boxes[..., :2].clamp(min=0)
        size = torch.minimum(boxes[..., 2:], values.new_tensor([width * rate, height * rate]) - corner)
        least = values.new_tensor(param.min_size)
        valid = (score >= values.new_tensor(param.fg_thr)) & (size >= least).all(-1)
        return torch.cat([corner, size, score[..., None]], -1), valid

    def _standing(self, boxes: Tensor) -> Tensor:
        """Of boxes, the best first, those that no better one which stands overlaps too much."""
        param = self.param.box_output_param
        most = boxes.new_tensor(param.iou_thr)
        kept = []
        while len(boxes):
            kept.append(boxes[0])
            shared = box_overlap(boxes[0, :4], boxes[1:, :4], param.nms_type)
            boxes = boxes[1:][~(shared > most)]
        return torch.stack(kept) if kept else boxes


class _Labels:
    """A label blob (num, 6, height, width), place by place.

    Attributes:
        number: the class, as it stands there. (num, places), whole numbers.
        box: the centre and the size in pixels, (num, places, 4).
        shared: the overlap, (num, places).
    """

    def __init__(self, labels: Tensor):
        rows = _places(labels)
        self.number, self.box, self.shared = rows[..., 0].long(), rows[..., 1:5], rows[..., 5]

    def not_ignored(self, numbers: Tensor, ignored: int | None) -> Tensor:
        return torch.ones_like(numbers, dtype=torch.bool) if ignored is None else numbers != ignored


@layer("DetectionLoss")
class DetectionLoss(Loss):
    """Classes' softmax loss plus `lambda` times boxes' smooth L1 loss; and that second part for itself: (1, 1, 1, 2).

    Negative places count where they are drawn ("random"), score highest for a class ("bootstrap"), half of both
    ("mixture"), else all. The published gradient heeds neither that coordinates are clamped, nor the second value's.
    """

    no_gradient: ClassVar[dict[int, str]] = {1: "labels"}

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        param = self.param.detection_loss_param
        told, rows = _Labels(labels), _places(x)
        scores, t = rows[..., : param.cls_num], rows[..., param.cls_num :]
        numbers = told.number.clamp(max=1) if param.objectness else told.number
        class_numbers(numbers, param.cls_num)
        candidates = (told.number == 0) & (told.shared < x.new_tensor(param.bg_threshold))
        chosen = torch.stack(
            [self._negatives(*image) for image in zip(scores, numbers, candidates, strict=True)]
        )
        weights = self._place_weights(told, chosen)
        class_loss, class_slopes = self._class_loss(x, numbers, chosen, weights)
        box_loss, box_slopes = self._box_loss(x, t, told)

        def gradient() -> Tensor:
            slopes = torch.cat([class_slopes, box_slopes * getattr(param, "lambda")], -1)
            return slopes.transpose(1, 2).reshape(x.shape)

        box_loss = box_loss * getattr(param, "lambda")
        loss = with_gradient(x, class_loss + box_loss, gradient)
        return torch.stack([loss, box_loss]).reshape(1, 1, 1, 2)

    def _negatives(self, scores: Tensor, numbers: Tensor, candidates: Tensor) -> Tensor:
        """Which negative places of one image count."""
        param = self.param.detection_loss_param
        if param.sample_mode not in ("random", "bootstrap", "mixture"):
            return candidates
        per_class = torch.bincount(numbers, minlength=param.cls_num).tolist()
        each = param.bg_multiple * (0.5 if param.sample_mode == "mixture" else 1)
        drawn = torch.zeros_like(candidates)
        if param.sample_mode in ("random", "mixture"):
            count = max(int(sum(per_class[1:]) * each), 4 * (param.cls_num - 1))
            drawn[
                torch.from_numpy(caffe_rng().words(count).astype("int64")).to(drawn.device) % len(drawn)
            ] = True
            drawn &= candidates
        if param.sample_mode in ("bootstrap", "mixture"):
            # The last first: of equal scores it wins.
            places = candidates.nonzero().flatten().flip(0)
            left = scores[places]
            if left[:, 1:].isnan().any():
                raise InputError("a score is not a number: the hardest negatives cannot be told")
            for k in range(1, param.cls_num):
                hardest = left[:, k].argsort(descending=True, stable=True)
                drawn[places[hardest[: max(4, int(per_class[k] * each))]]] = True
        return drawn

    def _place_weights(self, told: _Labels, chosen: Tensor) -> Tensor:
        param, positive = self.param.detection_loss_param, told.number != 0
        weights = torch.ones_like(told.shared)
        if param.iou_weighted:
            weights = weights.where(~positive, told.shared)
        if param.pos_neg_weighted:
            sums = [weights[positive].sum(), weights[~positive & chosen].sum()]
            if sums[0] != 0:
                share = 1 / weights.new_tensor(1 + param.bg_multiple)
                count = (positive | chosen).sum()
                # Without any negative that counts the others' weights are infinite, as published.
                weights = weights * torch.where(
                    positive, share * count / sums[0], (1 - share) * count / sums[1]
                )
        return weights

    def _class_loss(
        self, x: Tensor, numbers: Tensor, chosen: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        classes = self.param.detection_loss_param.cls_num
        scores = x.detach().reshape(legacy_shape(tuple(x.shape)))[:, :classes]
        logs = _places(scores.log_softmax(canonical_axis(self.param.softmax_param.axis, 4)))
        counted = ((numbers != 0) | chosen) & (
            torch.ones_like(chosen)
            if (ignored := ignored_label(self.param.loss_param)) is None
            else numbers != ignored
        )
        picked = logs.gather(-1, numbers[..., None])[..., 0].clamp(min=math.log(FLOOR))
        count = counted.sum().clamp(min=1)
        loss = -(picked * weights)[counted].sum() / count
        ones = torch.zeros_like(logs).scatter_(-1, numbers[..., None], 1)
        slopes = (logs.exp() - ones).where(counted[..., None], 0) * weights[..., None] / count
        return loss, slopes

    def _box_loss(self, x: Tensor, t: Tensor, told: _Labels) -> tuple[Tensor, Tensor]:
        param = self.param.detection_loss_param
        height, width = legacy_shape(tuple(x.shape))[2:]
        ignored = ignored_label(self.param.loss_param)
        counted = (told.number != 0) & told.not_ignored(told.number, ignored)
        mean, deviation = _statistics(self, x)
        field = x.new_tensor([param.field_w, param.field_h])
        shift = (told.box[..., :2] - _middles(height, width, param.downsample_rate, x)) / field
        scale = (torch.maximum(told.box[..., 2:], x.new_tensor(2)) / field).log()
        due = (torch.cat([shift, scale], -1) - mean) / deviation
        # The limits are moved by one mean, and scaled by one deviation, for both axes.
        centre = mean.view(2, 2).mean(1).repeat_interleave(2)
        spread = deviation.view(2, 2).prod(1).sqrt().repeat_interleave(2)
        low, high = ((limit - centre) / spread for limit in _limits(param, x))
        d = (_within(t, low, high) - due).where(counted[..., None], 0)
        count = (counted.sum() * COORDINATES).clamp(min=1)
        if not param.bb_smooth:
            return d.square().sum() / 2 / count, d / count
        size = d.abs()
        losses = torch.where(size < 1, d.square() / 2, size - 0.5)
        return losses.sum() / count, d.clamp(-1, 1).nan_to_num(1) / count


@layer("DetectionAccuracy")
class DetectionAccuracy(Layer):
    """Shares of the places, and of the positive ones, that are right: (1, 1, 1, 2). Top 1: the boxes' mean overlap.

    Places of the background that overlap a truth by `bg_threshold` are left out. A share of nothing is -1.
    """

    @torch.no_grad()
    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        param, ignored = self.param.detection_accuracy_param, ignored_label(self.param.loss_param)
        told, rows = _Labels(labels), _places(x)
        numbers = told.number.clamp(max=1) if param.objectness else told.number
        counted = (numbers != 0) | ~(told.shared >= x.new_tensor(param.bg_threshold))
        counted &= told.not_ignored(numbers, ignored)
        scores = rows[..., : param.cls_num]
        known = (numbers >= 0) & (numbers < param.cls_num)
        own = scores.gather(-1, numbers.where(known, 0)[..., None])
        behind = torch.arange(param.cls_num, device=x.device) > numbers[..., None]
        rank = ((scores > own) | ((scores == own) & behind)).sum(-1)
        right = known & (rank < param.top_k)
        shares = [_mean_of(right[which].to(x.dtype)) for which in (counted, counted & (numbers != 0))]
        tops = [torch.stack(shares).reshape(1, 1, 1, 2)]
        if len(self.plan.tops) == 2:
            mean, deviation = _statistics(self, x)
            height, width = legacy_shape(tuple(x.shape))[2:]
            middles = _middles(height, width, param.downsample_rate, x)
            field = x.new_tensor([param.field_w, param.field_h])
            t = rows[..., param.cls_num :] * deviation + mean
            found = _boxes(t, _limits(param, x), field, middles)
            due = torch.cat([told.box[..., :2] - told.box[..., 2:] / 2, told.box[..., 2:]], -1)
            positive = (told.number != 0) & told.not_ignored(told.number, ignored)
            tops.append(_mean_of(box_overlap(found, due)[positive]).reshape(1, 1, 1, 1))
        return tuple(tops)


def _mean_of(values: Tensor) -> Tensor:
    """-1 of nothing."""
    return values.mean() if len(values) else values.new_tensor(-1)


def _with_sizes(corners: Tensor) -> Tensor:
    """x, y, width and height of corners (…, 4), the last pixels included."""
    return torch.cat([corners[..., :2], corners[..., 2:] - corners[..., :2] + 1], -1)


@layer("BboxAccuracy")
class BboxAccuracy(Layer):
    """How well predicted boxes overlap their truths in the mean, (1, 1, 1, 1); and how well the regions did.

    Of the positive rows whose overlap as given is at most 0.975; -1 without such.
    """

    @torch.no_grad()
    def forward(self, t: Tensor, regions: Tensor, truths: Tensor) -> tuple[Tensor, ...]:
        truths = truths.reshape(-1, 6)
        open_ = ~(truths[:, 5].double() > 0.975)
        count = ((truths[:, 0] > 0) & open_).sum()
        rows = open_ & (truths[:, 0].long() > 0)
        numbers = class_numbers(truths[rows, 0], t.shape[1] // 4)
        mean, deviation = _statistics(self, t)
        t = t.reshape(len(t), t.shape[1] // 4, 4)[rows.nonzero().flatten(), numbers] * deviation + mean
        region, due = _with_sizes(regions.reshape(-1, 5)[rows, 1:]), _with_sizes(truths[rows, 1:5])
        size = region[:, 2:] * t[:, 2:].exp()
        centre = t[:, :2] * region[:, 2:] + region[:, :2] + region[:, 2:] / 2
        found = torch.cat([centre - size / 2, size], 1)
        tops = []
        for boxes in (found, region)[: len(self.plan.tops)]:
            total = box_overlap(boxes, due).sum()
            tops.append((total / count if count else total.new_tensor(-1)).reshape(1, 1, 1, 1))
        return tuple(tops)


@layer("DecodeBBox")
class DecodeBBox(Layer):
    """Regions as corrected by the last 4 of 8 predictions, (n, 5, 1, 1). No gradient.

    In phase TRAIN inverted ones are left out, and those that overlap their truths by `gt_iou_thr`.
    """

    @torch.no_grad()
    def forward(self, t: Tensor, regions: Tensor, truths: Tensor | None = None) -> Tensor:
        regions = regions.reshape(-1, 5)
        mean, deviation = _statistics(self, t)
        t = t.reshape(-1, 8)[:, 4:] * deviation + mean
        corner, size = regions[:, 1:3], _with_sizes(regions[:, 1:])[:, 2:]
        centre = (regions[:, 3:] + corner) / 2
        wide = size * t[:, 2:].exp()
        corner = t[:, :2] * size + centre - (wide - 1) / 2
        rows = torch.cat([regions[:, :1], corner, corner + wide - 1], 1)
        if self.phase == 0:
            kept = ~(rows[:, 1:3] > rows[:, 3:]).any(1)
            if truths is not None:
                shared = truths.flatten(1)[:, -1].float()
                kept &= ~(shared >= shared.new_tensor(self.param.decode_bbox_param.gt_iou_thr))
            rows = rows[kept]
        if not len(rows):
            raise InputError("DecodeBBox leaves no region: all are inverted, or overlap their truth too much")
        return rows[..., None, None]


@layer("ProposalTarget")
class ProposalTarget(Layer):
    """A batch of regions to learn from, of those given and of the truths; what to predict for the positive ones.

    Tops: regions, classes, targets and their two weights, truths [class, box, overlap], and the rows' weights, each
    (n, …, 1, 1), positive ones first. Draws as the fork does, by a generator of its own and, for boxes where regions
    are too few, by Caffe's.
    """

    def forward(self, regions: Tensor, truths: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            tops = self._tops(regions.reshape(-1, 5), truths.reshape(-1, 7))
        widths = proposal_widths(self.param)[: len(self.plan.tops)]
        return tuple(top.reshape(len(top), width, 1, 1) for top, width in zip(tops, widths, strict=False))

    def _tops(self, regions: Tensor, truths: Tensor) -> tuple[Tensor, ...]:
        param = self.param.proposal_target_param
        boxes = torch.cat([regions, truths[:, :5]])
        most = param.num_img_per_batch
        if (boxes[:, 0] >= most).any():
            raise InputError(
                f"a region is of image {float(boxes[:, 0].max()):g}: num_img_per_batch is {most}"
            )
        boxes = torch.cat([boxes[:, :1], _with_sizes(boxes[:, 1:])], 1)
        due = boxes[len(regions) :]
        shared, of = _best_truths(boxes, due)
        positive, negative = self._sample(shared, of, truths)
        chosen = boxes[positive + negative]
        lacking = param.batch_size - len(chosen)
        if param.batch_size > 0 and lacking > 0:
            chosen = torch.cat([chosen, self._somewhere(lacking, due)])
        of, shared = of[positive], shared[positive]
        return self._made(chosen, due[of, 1:], truths[of, 5].long(), shared.to(boxes.dtype))

    def _sample(self, shared: Tensor, of: Tensor, truths: Tensor) -> tuple[list[int], list[int]]:
        """Which boxes are taken as positive, and as negative."""
        param = self.param.proposal_target_param
        high, low, enough = shared.new_tensor([param.bg_thr_hg, param.bg_thr_lw, param.fg_thr])
        hit = shared >= enough
        near = ~hit & (shared >= low) & (shared < high)
        if (truths[of[hit], 5] <= 0).any():
            raise InputError("a truth is of class 0 or less: classes begin at 1")
        counts = truths[of, 6] == 0 if len(truths) else hit
        positive, negative, rest = (
            which.nonzero().flatten().tolist() for which in (hit & counts, near, ~hit & ~near)
        )
        if param.batch_size == -1:
            return positive, negative
        share = int((shared.new_tensor(param.fg_fraction) * param.batch_size).double() + 0.5)
        positive = self._some(positive, share)
        room = param.batch_size - len(positive)
        if len(negative) <= room:
            negative = (negative + rest)[:room]
        return positive, self._some(negative, room)

    def _some(self, items: list[int], count: int) -> list[int]:
        """At most `count`; in the generator's order where there are more."""
        if len(items) > count:
            self.opened.shuffle(items)
        return items[:count]

    def _somewhere(self, count: int, due: Tensor) -> Tensor:
        """Boxes at random that overlap no truth by `fg_thr`. One more than are used is drawn, as published."""
        param, rng = self.param.proposal_target_param, caffe_rng()
        across, down = param.img_width, param.img_height
        if across <= 32 or down <= 32:
            raise InputError(
                "proposal_target_param: too few regions: give img_width and img_height, above 32"
            )
        found: list[Tensor] = []
        for _ in range(1 << 20):
            words = rng.words(5).tolist()
            x, y = words[1] % (across - 32), words[2] % (down - 32)
            size = max(words[3] % (across - x), 32), max(words[4] % (down - y), 32)
            box = due.new_tensor([words[0] % param.num_img_per_batch, x, y, *size])
            shared = box_overlap(box[1:], due[due[:, 0] == box[0], 1:]).float()
            if not (shared >= shared.new_tensor(param.fg_thr)).any():
                found.append(box)
            if len(found) > count:
                return torch.stack(found[:-1])
        raise InputError("proposal_target_param: too few regions, and truths leave no place for random ones")

    def _made(self, boxes: Tensor, due: Tensor, numbers: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
        """The tops; `due`, `numbers` and `shared` are the positive ones' truths, classes and overlaps."""
        param, positive, total = self.param.proposal_target_param, len(due), len(boxes)
        if (numbers < 1).any():
            raise InputError("a truth is of class 0 or less: classes begin at 1")
        width = proposal_widths(self.param)[2]
        place = numbers.clamp(max=1)
        if self.param.bbox_reg_param.cls_aware:
            place = class_numbers(numbers, param.cls_num)
        mine = boxes[:positive, 1:]
        shift = (due[:, :2] + due[:, 2:] / 2 - (mine[:, :2] + mine[:, 2:] / 2)) / mine[:, 2:]
        scale = (due[:, 2:] / mine[:, 2:]).log()
        mean, deviation = _statistics(self, boxes)
        targets, weights = boxes.new_zeros(2, total, width // 4, 4)
        at = (torch.arange(positive, device=boxes.device), place)
        targets[at], weights[at] = (torch.cat([shift, scale], 1) - mean) / deviation, 1
        labels = boxes.new_zeros(total)
        labels[:positive] = numbers.to(labels)
        matched = boxes.new_zeros(total, 6)
        corners = torch.cat([due[:, :2], due[:, :2] + due[:, 2:] - 1], 1)
        matched[:positive] = torch.cat([labels[:positive, None], corners, shared[:, None]], 1)
        samples = torch.ones_like(labels)
        if param.iou_weighted:
            samples[:positive] = shared
        if (above := samples[:positive].sum()) != 0:
            part, below = torch.tensor(param.fg_fraction), samples[positive:].sum()
            samples[:positive] *= (part * total).to(samples) / above
            samples[positive:] *= ((1 - part) * total).to(samples) / below
        rows = torch.cat([boxes[:, :3], boxes[:, 1:3] + boxes[:, 3:] - 1], 1)
        return rows, labels, targets.flatten(1), weights.flatten(1), weights.flatten(1), matched, samples


def _best_truths(boxes: Tensor, due: Tensor) -> tuple[Tensor, Tensor]:
    """Each box's largest overlap, single precision, and whose; 0 and -1 without a truth of its image.

    Boxes are rows [image, x, y, width, height].
    """
    shared = box_overlap(boxes[:, None, 1:], due[:, 1:]).float()
    shared = shared.masked_fill(boxes[:, None, 0] != due[:, 0], -1)
    shared = torch.cat([shared.new_full((len(boxes), 1), -1), shared], 1)
    of = shared.argmax(1) - 1  # the first of equal ones
    most = shared.amax(1)
    return most.clamp(min=0), of.where(most >= 0, -1)
