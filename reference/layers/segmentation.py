"""Layers of the forks for segmentation: biases by label, accuracy, pooling over superpixels."""

import numpy as np

from prototxt.caffe_pb2 import BiasChannelParameter, SuperpixelPoolingParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from prototxt.layers.segmentation import quantile
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from runtime.blob import Blob
from runtime.c_random import process_random


@layer("SegAccuracy")
class SegAccuracy(Layer):
    """Pixel accuracy, mean recall of the classes that are there, mean overlap of all classes.

    Of equal scores the higher class wins. A class with neither label nor prediction overlaps by 1. With
    `reset: false` the counts go on from pass to pass. `metric` is not read, as in the fork.
    """

    def set_up(self) -> None:
        self.counts = np.zeros((0, 0), np.int64)

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        param = self.param.seg_accuracy_param
        scores = scores.reshape(legacy_shape(scores.shape))
        classes = scores.shape[1]
        predicted = classes - 1 - scores[:, ::-1].argmax(axis=1)
        truth, counted = class_indices_but(labels.reshape(predicted.shape), classes, param.ignore_label)
        pairs = truth[counted] * classes + predicted[counted]
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        if not param.reset and self.counts.size:
            counts = counts + self.counts
        self.counts = counts
        hit, labelled, found = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        total, there, union = counts.sum(), labelled > 0, labelled + found - hit
        accuracy = hit.sum() / total if total else 1.0
        recall = (hit[there] / labelled[there]).mean() if there.any() else 0.0
        overlap = np.where(union > 0, hit / np.maximum(union, 1), 1.0).mean()
        return np.array([accuracy, recall, overlap], self.dtype).reshape(1, 1, 1, 3)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "scores")
        refuse_gradient(self, 1, "labels")


def class_indices_but(
    labels: np.ndarray, classes: int, ignored: "list[int]"
) -> tuple[np.ndarray, np.ndarray]:
    """`class_indices`, with any number of ignored labels."""
    counted = ~np.isin(labels.astype(np.int64), list(ignored))
    indices, _ = class_indices(np.where(counted, labels, 0), classes)
    return indices, counted


@layer("BiasChannel")
class BiasChannel(Layer):
    """Adds `fg_bias` to the scores of classes that labels name, `bg_bias` to the background's (DeepLab's EM).

    IMAGE labels list an image's classes, and 0 is the background. PIXEL labels name each pixel's class; only
    where `background_label` or `bg_bias` is given has each labelled pixel a background. -1 is ignored always.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        param = self.param.bias_channel_param
        top = scores.reshape(legacy_shape(scores.shape)).copy()
        classes = top.shape[1]
        foreground, background = self.dtype.type(param.fg_bias), self.dtype.type(param.bg_bias)
        labels, counted = class_indices_but(flat_from(labels, 1), classes, [-1, *param.ignore_label])
        rows = flat_from(top, 2)
        if param.label_type != BiasChannelParameter.PIXEL:
            for row, listed, valid in zip(rows, labels, counted, strict=True):
                for label in listed[valid]:  # once for each time that it is listed
                    row[label] += background if label == 0 else foreground
            return top
        image, place = np.nonzero(counted)
        label = labels[counted]
        if param.HasField("background_label") or param.HasField("bg_bias"):
            rows[image, param.background_label, place] += background
            other = label != param.background_label
            image, label, place = image[other], label[other], place[other]
        rows[image, label, place] += foreground
        return top

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        return [top_diffs[0].reshape(bottoms[0].shape), None]


@layer("AdaptiveBiasChannel")
class AdaptiveBiasChannel(Layer):
    """Raises each listed class's scores until it is the best of those listed at a given share of the places.

    What must be added is a quantile of the distances to the best score: `bg_portion` of the places for class 0, which
    comes first, `fg_portion` for the others, which C's `rand()` shuffles in each of `num_iter` rounds. An image
    without labels stays as it is. There is no backward pass.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        top = scores.reshape(legacy_shape(scores.shape)).copy()
        classes = top.shape[1]
        numbers, counted = class_indices(labels.reshape(len(top), -1), classes, -1)
        for image, listed, valid in zip(flat_from(top, 2), numbers, counted, strict=True):
            if valid.any():
                self._adapt(image, sorted(listed[valid].tolist()))
        return top

    def _adapt(self, scores: np.ndarray, labels: list[int]) -> None:
        param = self.param.adaptive_bias_channel_param
        if param.suppress_others:
            least = scores[labels].min(axis=0)
            for label in set(range(len(scores))) - set(labels):
                row = scores[label]
                row[...] = np.where(row > least, least - self.dtype.type(param.margin_others), row)
        best = scores[labels].max(axis=0)
        mean = best.mean(dtype=np.float64)
        background = int(labels[0] == 0)
        for _ in range(param.num_iter):
            shuffled = labels[background:]
            process_random.shuffle(shuffled)
            labels[background:] = shuffled
            for label in labels:
                place = quantile(param.fg_portion if label else param.bg_portion, scores.shape[1])
                scores[label] += np.partition(best - scores[label], place)[place]
                best = np.maximum(best, scores[label])
        scores += self.dtype.type(mean - best.mean(dtype=np.float64))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        """Nothing: the bottoms' gradients stay as they are."""


class _OverSuperpixels(Layer):
    """Pools features over the superpixels of bottom 1, of which there are as many as its largest number + 1."""

    def pooled(self, features: np.ndarray, superpixels: np.ndarray) -> np.ndarray:
        """(superpixels, channels, 1, 1). Pixels with -1 belong to none."""
        self.labels = superpixels.reshape(-1).astype(np.int64)
        if self.labels.max(initial=-1) < 0 or self.labels.min() < -1:
            raise InputError("superpixels must be numbered from 0; -1 stands for none")
        self.inside = self.labels >= 0
        self.count = self.labels.max() + 1
        rows, labels = features.reshape(features.shape[1], -1).T, self.labels
        self.sizes = np.bincount(labels[self.inside], minlength=self.count)
        if not self.sizes.all():
            raise InputError(f"superpixel {np.argmin(self.sizes)} has no pixel: number them without gaps")
        if self.param.superpixel_pooling_param.pool_type == SuperpixelPoolingParameter.AVE:
            sums = np.zeros((self.count, rows.shape[1]), self.dtype)
            np.add.at(sums, labels[self.inside], rows[self.inside])
            self.first = None
            return (sums * self._shares()[:, None])[..., None, None]
        self.first = np.stack([self._best(rows, index) for index in range(self.count)])
        return np.take_along_axis(rows, self.first, 0)[..., None, None]

    def spread(self, dy: np.ndarray, features: np.ndarray) -> np.ndarray:
        dy = dy.reshape(self.count, -1)
        rows = np.zeros((len(self.labels), dy.shape[1]), self.dtype)
        if self.first is None:
            rows[self.inside] = (dy / self.sizes.astype(self.dtype)[:, None])[self.labels[self.inside]]
        else:
            np.put_along_axis(rows, self.first, dy, 0)
        return rows.T.reshape(features.shape)

    def _shares(self) -> np.ndarray:
        return self.dtype.type(1) / self.sizes.astype(self.dtype)

    def _best(self, rows: np.ndarray, index: int) -> np.ndarray:
        """For each channel the place of the superpixel's first largest value."""
        places = np.flatnonzero(self.labels == index)
        return places[rows[places].argmax(axis=0)]


@layer("SuperpixelPoolingTest")
class SuperpixelPoolingTest(_OverSuperpixels):
    """The features' largest values, or averages, of each superpixel."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        result = self.pooled(bottom[0].data, bottom[1].data)
        top[0].reshape(*result.shape)
        top[0].data[...] = result

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [self.spread(top_diffs[0], bottoms[0]), None]


@layer("SuperpixelPooling")
class SuperpixelPooling(_OverSuperpixels):
    """The features' averages of each superpixel (top 0), and its label (top 1), from saliency and segmentation.

    A mean saliency above 0.8 is 1, above 0.1 unknown (255), else 0; but a class 1 to 20 at the superpixel's
    first pixel makes it 1, and class 0 makes it 0.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        features, superpixels, saliency, segmentation = (blob.data for blob in bottom)
        result = self.pooled(features, superpixels)
        inside = np.flatnonzero(self.inside)
        sums = np.zeros(self.count, self.dtype)
        np.add.at(sums, self.labels[inside], saliency.reshape(-1)[inside])
        mean = sums * self._shares()
        label = np.where(mean > self.dtype.type(0.8), 1, np.where(mean > self.dtype.type(0.1), 255, 0))
        _, firsts = np.unique(self.labels[inside], return_index=True)
        first = segmentation.reshape(-1)[inside[firsts]].astype(np.int64)
        label = np.where((first >= 1) & (first <= 20), 1, np.where(first == 0, 0, label))
        for blob, values in zip(top, (result, label.reshape(-1, 1, 1, 1)), strict=True):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [self.spread(top_diffs[0], bottoms[0]), None, None, None]
