"""The losses of the R-CNN family, SSD's SmoothL1Loss too."""

import numpy as np

from prototxt.caffe_pb2 import LossParameter
from prototxt.errors import InputError
from prototxt.layers.box_losses import of_rcnn, ohem_normalizer
from prototxt.layers.declare import legacy_shape
from prototxt.layers.windows import canonical_axis
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, layer
from reference.layers.losses import FLT_MIN
from reference.layers.normalisation import softmax
from runtime.blob import Blob


def smooth_l1(difference: np.ndarray, sigma: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """(sigma · d)² / 2 up to 1 / sigma², then |d| - 1 / (2 sigma²): the function, and its slope."""
    kind = difference.dtype.type
    steep = kind(sigma) * kind(sigma)
    size = np.abs(difference)
    near = size < kind(1) / steep
    values = np.where(near, kind(0.5) * difference * difference * steep, size - kind(0.5) / steep)
    return values, np.where(near, steep * difference, np.sign(difference))


@layer("SmoothL1Loss")
class SmoothL1Loss(Layer):
    """The function of the differences, summed, divided by the number of items.

    In the R-CNN line: of w_in · (a - b), times w_out, where those are given. With one weight it is ShaoqingRen/caffe's,
    by its GPU code, the only one: divided by the places too, and its gradient leaves the w of the chain rule out.
    """

    def run(self, a: np.ndarray, b: np.ndarray, *weights: np.ndarray) -> np.floating:
        difference = a - b.reshape(a.shape)
        sigma = 1.0
        if of_rcnn(self.param):
            sigma = self.param.smooth_l1_loss_param.sigma
        if weights:
            difference = weights[0].reshape(a.shape) * difference
        values, self.slopes = smooth_l1(difference, sigma)
        if len(weights) > 1:
            values = weights[1].reshape(a.shape) * values
        num, _, height, width = legacy_shape(a.shape)
        whole = of_rcnn(self.param) and self.param.loss_param.normalization == LossParameter.NONE
        self.size = self.dtype.type(1 if whole else num * height * width if len(weights) == 1 else num)
        return values.sum(dtype=self.dtype) / self.size

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        da = self.slopes * (top_diffs[0] / self.size)
        for weight in bottoms[2:] if len(bottoms) == 4 else ():
            da = da * weight.reshape(da.shape)
        return [da, -da.reshape(bottoms[1].shape), None, None][: len(bottoms)]


@layer("SmoothL1LossOHEM")
class SmoothL1LossOHEM(Layer):
    """The same with sigma 1; top 1 is each position's sum over the channels.

    With weights (bottom 2) the function is of w · (a - b), and Caffe's gradient leaves the w of the chain rule out.
    """

    def run(self, a: np.ndarray, b: np.ndarray, *weights: np.ndarray) -> list:
        difference = a - b.reshape(a.shape)
        for weight in weights:
            difference = weight.reshape(a.shape) * difference
        values, self.slopes = smooth_l1(difference)
        num, channels, height, width = legacy_shape(a.shape)
        places = height * width
        self.size = self.dtype.type(ohem_normalizer(self.param, num, places, num * places))
        each = values.reshape(num, channels, places).sum(axis=1, dtype=self.dtype)
        tops = [values.sum(dtype=self.dtype) / self.size, each.reshape(num, 1, height, width)]
        return tops[: len(self.plan.tops)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        da = self.slopes * (top_diffs[0] / self.size)
        return [da, -da.reshape(bottoms[1].shape), None][: len(bottoms)]


@layer("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(Layer):
    """-log of the labels' probabilities; top 1 the probabilities, top 2 each position's loss.

    Caffe fills top 1 only where it is the last. It writes the positions' losses into the bottom's diff, skips what
    is ignored, and sums as many of the first ones as were not skipped: those skipped hold what the diff held.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        scores, labels = (blob.data for blob in bottom)
        axis = canonical_axis(self.param.softmax_param.axis, scores.ndim)
        outer = int(np.prod(scores.shape[:axis]))
        prob = softmax(scores, axis)
        inner = int(np.prod(scores.shape[axis + 1 :]))
        self.prob = prob.reshape(outer, scores.shape[axis], inner)
        param = self.param.loss_param
        ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.labels, self.counted = class_indices(labels.reshape(outer, inner), self.prob.shape[1], ignored)
        picked = np.take_along_axis(self.prob, self.labels[:, None], 1)[:, 0]
        losses = -np.log(np.maximum(picked, self.dtype.type(FLT_MIN)))
        diff = bottom[0].diff.reshape(-1)
        each = np.where(self.counted, losses, diff[: losses.size].reshape(losses.shape)).reshape(-1)
        count = int(self.counted.sum())
        size = ohem_normalizer(self.param, outer, self.labels.shape[1], count)
        self.size = self.dtype.type(size)
        top[0].data[...] = np.abs(each[:count]).sum(dtype=self.dtype) / self.size
        if len(top) == 2:
            top[1].data[...] = prob
        if len(top) > 2:
            top[2].data[...] = each.reshape(top[2].shape)
        bottom[0].diff[...] = 0

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        slopes = self.prob - (np.arange(self.prob.shape[1])[:, None] == self.labels[:, None])
        slopes = np.where(self.counted[:, None], slopes, self.dtype.type(0))
        return [(slopes * (top_diffs[0] / self.size)).reshape(bottoms[0].shape), None]


@layer("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """The labels and box weights of each image's `roi_per_img` regions of largest loss; others are ignored."""

    def run(
        self, rois: np.ndarray, losses: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> list[np.ndarray]:
        param = self.param.box_annotator_ohem_param
        num, _, height, width = legacy_shape(rois.shape)
        images = rois.reshape(num, 5, -1)[:, 0].reshape(-1).astype(np.int64)
        if images.min(initial=0) < 0:
            raise InputError(f"a region is of image {images.min()}")
        order = np.argsort(-losses.reshape(-1), kind="stable")
        chosen = np.zeros(images.size, bool)
        for image in np.unique(images):
            chosen[order[images[order] == image][: param.roi_per_img]] = True
        ignored = self.dtype.type(param.ignore_label)
        at = chosen.reshape(num, 1, height, width)
        boxes = np.where(at, weights.reshape(num, -1, height, width), self.dtype.type(0))
        return [np.where(at, labels.reshape(at.shape), ignored), boxes]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
