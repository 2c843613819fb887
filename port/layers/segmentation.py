"""Layers of the forks for segmentation: biases by label, accuracy, pooling over superpixels."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from port.gradient import refuse_gradient, with_slope, without_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.caffe_pb2 import BiasChannelParameter, SuperpixelPoolingParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.segmentation import quantile
from runtime.c_random import process_random
from runtime.labels import LabelError


@layer("SegAccuracy")
class SegAccuracy(Layer):
    """(1, 1, 1, 3): the share of pixels that are right, mean recall of present classes, mean IoU of all classes.

    Of equal scores the last class counts. The IoU of a class that nothing has is 1. `reset: false` counts on.
    """

    def set_up(self) -> None:
        self.counts: Tensor | None
        self.register_buffer("counts", None, persistent=False)

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        param = self.param.seg_accuracy_param
        scores = scores.reshape(legacy_shape(tuple(scores.shape)))
        classes = scores.shape[1]
        predicted = classes - 1 - scores.flip(1).argmax(1)
        numbers, counted = _numbers_but(labels.reshape(predicted.shape), classes, param.ignore_label)
        pairs = (numbers * classes + predicted)[counted]
        counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        if not param.reset and self.counts is not None:
            counts = counts + self.counts
        self.counts = counts
        right, labelled = counts.diagonal().double(), counts.sum(1).double()
        union = labelled + counts.sum(0) - right
        present = labelled > 0
        results = [
            right.sum() / counts.sum() if counts.sum() else torch.ones_like(right[0]),
            (right / labelled)[present].mean() if present.any() else torch.zeros_like(right[0]),
            torch.where(union > 0, right / union, 1).mean(),
        ]
        return torch.stack(results).to(scores.dtype).reshape(1, 1, 1, 3)


def _numbers_but(labels: Tensor, classes: int, ignored: Collection[int]) -> tuple[Tensor, Tensor]:
    """Labels as class numbers, the `ignored` ones as 0, and which are not ignored."""
    numbers = labels.detach().long()
    counted = torch.ones_like(numbers, dtype=torch.bool)
    for label in ignored:
        counted &= numbers != label
    return class_numbers(numbers.where(counted, 0), classes), counted


@layer("BiasChannel")
class BiasChannel(Layer):
    """The scores, with `fg_bias` added to labelled classes and `bg_bias` to the background.

    IMAGE: the labels list each image's classes, 0 for the background. PIXEL: one label for each pixel; it biases
    the background's score as well, if `background_label` or `bg_bias` is given.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        param = self.param.bias_channel_param
        shape = legacy_shape(tuple(scores.shape))
        num, classes = shape[:2]
        each = labels.reshape(num, math.prod(labels.shape[1:]))
        numbers, counted = _numbers_but(each, classes, [-1, *param.ignore_label])
        image, place = counted.nonzero(as_tuple=True)
        number = numbers[counted]
        bias = scores.new_zeros(num, classes, shape[2] * shape[3])
        if param.label_type != BiasChannelParameter.PIXEL:
            amounts = torch.where(number == 0, param.bg_bias, param.fg_bias).to(bias)
            amounts = bias.new_zeros(num, classes).index_put_((image, number), amounts, accumulate=True)
            bias = bias + amounts[:, :, None]
        else:
            if param.HasField("background_label") or param.HasField("bg_bias"):
                bias[image, param.background_label, place] = param.bg_bias
                other = number != param.background_label
                image, number, place = image[other], number[other], place[other]
            bias[image, number, place] = param.fg_bias
        top = scores.reshape(shape) + bias.reshape(shape)
        return refuse_gradient(self, top, labels, 1, "labels")


@layer("AdaptiveBiasChannel")
class AdaptiveBiasChannel(Layer):
    """The scores, with each class of an image's labels raised until it wins a share of the image's places.

    The background's share is `bg_portion`, others' `fg_portion`. Scores of absent classes are first kept below those
    of all present ones; at last all are shifted back to the mean of the winning scores. The order of the classes is
    shuffled by C's `rand()`. No gradient goes back.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        shape = legacy_shape(tuple(scores.shape))
        top = scores.detach().reshape(*shape[:2], -1).clone()
        for image, listed in zip(top, labels.detach().reshape(shape[0], -1).long().tolist(), strict=True):
            present = _listed_classes(listed, shape[1])
            if present:
                self._adapt(image, present)
        if (
            self.plan.in_place and not self.exact
        ):  # there is no backward pass: the top's gradient stays where it is
            return with_slope(scores.reshape(shape), top.reshape(shape), lambda: 1.0)
        return without_gradient(top.reshape(shape), scores, labels)

    def _adapt(self, scores: Tensor, labels: list[int]) -> None:
        param, places = self.param.adaptive_bias_channel_param, scores.shape[1]
        if param.suppress_others:
            least = scores[labels].amin(0)
            above = scores > least
            above[labels] = False
            scores.copy_(torch.where(above, least - param.margin_others, scores))
        best = scores[labels].amax(0)
        before = best.double().mean()
        first = labels[: 1 if labels[0] == 0 else 0]
        others = labels[len(first) :]
        for _ in range(param.num_iter):
            process_random.shuffle(others)
            for label in (*first, *others):
                portion = param.fg_portion if label else param.bg_portion
                missing = (best - scores[label]).kthvalue(quantile(portion, places) + 1).values
                scores[label] += missing
                best = torch.maximum(best, scores[label])
        scores += (before - best.double().mean()).to(scores.dtype)


def _listed_classes(listed: list[int], classes: int) -> list[int]:
    """An image's labels in rising order, without those of -1.

    Raises:
        InputError: a label that is no class.
    """
    labels = [label for label in listed if label != -1]
    for label in labels:
        if not 0 <= label < classes:
            raise LabelError(label, classes)
    return sorted(labels)


@layer("SuperpixelPoolingTest")
class SuperpixelPoolingTest(Layer):
    """(superpixels, channels, 1, 1): the features' largest values, or means, over each superpixel of bottom 1."""

    def forward(self, features: Tensor, superpixels: Tensor) -> Tensor:
        labels, count = _superpixels(superpixels)
        rows = features.flatten(2)[0]
        if self.param.superpixel_pooling_param.pool_type == SuperpixelPoolingParameter.AVE:
            return _means(rows, labels, count)
        places = (labels >= 0).nonzero().flatten()
        index = labels[places].expand(len(rows), -1)
        values = rows.detach()[:, places]
        largest = values.new_full((len(rows), count), -torch.inf).scatter_reduce_(1, index, values, "amax")
        candidates = torch.where(values == largest.gather(1, index), places, len(labels))
        first = index.new_full((len(rows), count), len(labels)).scatter_reduce_(1, index, candidates, "amin")
        return rows.gather(1, first).T[..., None, None]


@layer("SuperpixelPooling")
class SuperpixelPooling(Layer):
    """The features' means over superpixels, and each superpixel's label: 1, 0, or 255 for unknown.

    Mean saliency above 0.8 gives 1, above 0.1 unknown. The segmentation at the superpixel's first pixel comes
    before it: a class of 1 to 20 gives 1, background 0.
    """

    def forward(self, features: Tensor, superpixels: Tensor, saliency: Tensor, segmentation: Tensor) -> tuple:
        labels, count = _superpixels(superpixels)
        with torch.no_grad():
            mean = _means(saliency.reshape(1, -1), labels, count).flatten()
            where = torch.arange(len(labels), device=labels.device)
            inside = labels >= 0
            first = labels.new_full((count,), len(labels)).scatter_reduce_(
                0, labels[inside], where[inside], "amin"
            )
            number = segmentation.flatten()[first].long()
            label = (mean > 0.1) * 255.0
            label[mean > 0.8] = 1
            label[(number >= 1) & (number <= 20)] = 1
            label[number == 0] = 0
        return _means(features.flatten(2)[0], labels, count), label.to(features).reshape(-1, 1, 1, 1)


def _superpixels(superpixels: Tensor) -> tuple[Tensor, int]:
    """The superpixel of each pixel, -1 for none, and how many there are.

    Raises:
        InputError: numbers below -1, or one that no pixel has.
    """
    labels = superpixels.detach().flatten().long()
    count = int(labels.max()) + 1
    if count < 1 or labels.min() < -1:
        raise InputError("superpixels must be numbered from 0; -1 stands for none")
    sizes = torch.bincount(labels[labels >= 0], minlength=count)
    if not sizes.all():
        missing = int((sizes == 0).nonzero()[0])
        raise InputError(f"superpixel {missing} has no pixel: number them without gaps")
    return labels, count


def _means(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    """(superpixels, channels, 1, 1) of (channels, pixels)"""
    inside = labels >= 0
    sizes = torch.bincount(labels[inside], minlength=count).to(rows)
    sums = rows.new_zeros(len(rows), count).index_add(1, labels[inside], rows[:, inside])
    return (sums / sizes).T[..., None, None]
