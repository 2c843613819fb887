"""Mean fields of fully connected CRFs. Their kernels are the permutohedral lattice's, as in the forks."""

import numpy as np

from prototxt.layers.meanfield import counted_size
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, layer
from reference.layers.losses import FLT_MIN
from reference.layers.normalisation import softmax
from runtime.permutohedral import Permutohedral


class _Kernel:
    """A Gaussian kernel whose sums over all pixels are brought to 1 at each pixel."""

    def __init__(self, features: np.ndarray, dtype: np.dtype):
        self.lattice = Permutohedral(features.reshape(len(features), -1).T)
        ones = np.ones((1, features[0].size), dtype)
        self.norm = 1 / (self.lattice.filter(ones) + dtype.type(1e-20))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.lattice.filter(values) * self.norm


def _positions(height: int, width: int) -> np.ndarray:
    """(2, height, width): x and y"""
    return np.indices((height, width), np.float32)[::-1]


@layer("DenseCRF")
class DenseCRF(Layer):
    """Probabilities (or, not `output_probability`, their logarithms) after `max_iter` steps of the mean field.

    Of an image smaller than the map only its own part counts; the rest of the top is 0. The published code takes the
    first image's colours for every image of a batch. It has no gradient, and does not complain.
    """

    def run(self, scores: np.ndarray, sizes: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
        (top,) = self.plan.top_shapes(scores.shape, sizes.shape, *([] if images is None else [images.shape]))
        result = np.zeros(top, self.dtype)
        for item, unary, size in zip(result, scores.reshape(top), sizes.reshape(len(sizes), -1), strict=True):
            height, width = counted_size(int(size[0]), int(size[1]), *top[2:])
            image = (
                None if images is None else images.reshape(len(images), 3, *top[2:])[0, :, :height, :width]
            )
            item[:, :height, :width] = self._inferred(unary[:, :height, :width], image)
        return result

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None

    def _inferred(self, unary: np.ndarray, image: np.ndarray | None) -> np.ndarray:
        param, shape = self.param.dense_crf_param, unary.shape
        place, rows = _positions(*shape[1:]), unary.reshape(shape[0], -1)
        kernels = [(w, place / np.float32(xy)) for w, xy in zip(param.pos_w, param.pos_xy_std, strict=True)]
        for w, xy, rgb in zip(param.bi_w, param.bi_xy_std, param.bi_rgb_std, strict=True):
            colours = image.astype(np.float32) / np.float32(rgb)
            kernels.append((w, np.concatenate([place / np.float32(xy), colours])))
        built = [(self.dtype.type(w), _Kernel(features, self.dtype)) for w, features in kernels]
        current = softmax(rows, 0)
        for _ in range(param.max_iter):
            current = softmax(rows + sum(w * kernel(current) for w, kernel in built), 0)
        if not param.output_probability:
            current = np.log(np.maximum(current, self.dtype.type(FLT_MIN)))
        return current.reshape(shape)


@layer("MultiStageMeanfield")
class MultiStageMeanfield(Layer):
    """CRF-RNN's mean field: each step's softmax is filtered, mixed by the weights and taken from the unary terms.

    The published code reads the diagonals of the first two weights from spatial.par and bilateral.par; here they
    begin at `spatial_filter_weight` and `bilateral_filter_weight`. Inference only.
    """

    def set_up(self) -> None:
        param = self.param.multi_stage_meanfield_param
        classes = self.blobs[0].shape[-1]
        for blob, value in zip(
            self.blobs, (param.spatial_filter_weight, param.bilateral_filter_weight, -1), strict=True
        ):
            if not blob.data.any():
                blob.data[...] = value * np.eye(classes)

    def run(self, unary: np.ndarray, first: np.ndarray, images: np.ndarray) -> np.ndarray:
        param, shape = self.param.multi_stage_meanfield_param, unary.shape
        place = _positions(*shape[2:])
        spatial = _Kernel(place / np.float32(param.theta_gamma), self.dtype)
        by_place, by_colour, compatibility = (blob.data[0, 0] for blob in self.blobs)
        result = np.empty_like(unary)
        for item, own, start, image in zip(result, unary, first, images, strict=True):
            colours = (image / self.dtype.type(param.theta_beta)).astype(np.float32)
            bilateral = _Kernel(np.concatenate([place / np.float32(param.theta_alpha), colours]), self.dtype)
            current = start.reshape(len(start), -1)
            for _ in range(param.num_iterations):
                shares = softmax(current, 0)
                messages = by_place @ spatial(shares) + by_colour @ bilateral(shares)
                current = own.reshape(len(own), -1) - compatibility @ messages
            item[...] = current.reshape(own.shape)
        return result

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        refuse_gradient(self, 0, "unary terms")
        refuse_gradient(self, 1, "first scores")
