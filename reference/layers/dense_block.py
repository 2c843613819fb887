"""A whole dense block as one layer (DenseBlock_layer.cpp of Tongcheng/caffe)."""

from dataclasses import dataclass

import numpy as np

from prototxt.layers.windows import Window
from reference.layer import Arrays, Layer, flat_from, layer
from reference.unfolding import col2im, im2col

_AXES = (0, 2, 3)


@dataclass
class _Norm:
    """What a normalisation's backward needs; of TEST, a batch of mean and variance 0 that was never normalised."""

    x: np.ndarray
    normal: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@layer("DenseBlock")
class DenseBlock(Layer):
    """Each transition normalises the map, takes its positive part, convolves it, and joins the result to the map.

    With `use_BC` a 1×1 convolution, normalisation and ReLU come before the 3×3 convolution. Kernels are turned
    around. Each backward pass overwrites the weights' gradients, and each pass starts without what an earlier one
    left in the statistics' gradients, as the fork's GPU code does and its CPU code does not.
    """

    def set_up(self) -> None:
        param = self.param.denseblock_param
        self.count, self.bottleneck = param.numTransition, param.use_BC
        self.decay = self.dtype.type(param.moving_average_fraction)

    def run(self, x: np.ndarray) -> np.ndarray:
        self.steps: list[dict[str, np.ndarray | _Norm]] = []
        for i in range(self.count):
            step: dict = {}
            step["norm"], step["scaled"] = self._normalise(x, i, 0)
            step["seen"] = np.where(step["scaled"] >= 0, step["scaled"], 0)
            if self.bottleneck:
                narrow = self._convolved(step["seen"], self._weight(i, 5))
                step["inner_norm"], step["inner_scaled"] = self._normalise(narrow, i, 5)
                step["inner"] = np.where(step["inner_scaled"] >= 0, step["inner_scaled"], 0)
            kernel = self._weight(i, 0)[:, :, ::-1, ::-1]
            new = self._convolved(step["inner"] if self.bottleneck else step["seen"], kernel)
            self.steps.append(step)
            x = np.concatenate([x, new], axis=1)
        if self.phase == 0:
            self.weight(len(self.blobs) - 1)[...] = self.weight(len(self.blobs) - 1) * self.decay + 1
        return x

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> np.ndarray:
        dx = top_diffs[0]
        growth = self.param.denseblock_param.growthRate
        for i in reversed(range(self.count)):
            step = self.steps[i]
            dx, dnew = dx[:, :-growth], dx[:, -growth:]
            seen = step["inner"] if self.bottleneck else step["seen"]
            kernel, dkernel = self._weight(i, 0)[:, :, ::-1, ::-1], np.empty_like(self._weight(i, 0))
            dseen = self._convolution_grad(seen, kernel, dnew, dkernel)
            self._store(i, 0, dkernel[:, :, ::-1, ::-1])
            if self.bottleneck:
                dscaled = np.where(step["inner_scaled"] >= 0, dseen, 0)
                dnarrow = self._norm_grad(step["inner_norm"], dscaled, i, 5)
                dkernel = np.empty_like(self._weight(i, 5))
                dseen = self._convolution_grad(step["seen"], self._weight(i, 5), dnarrow, dkernel)
                self._store(i, 5, dkernel)
            dx = dx + self._norm_grad(step["norm"], np.where(step["scaled"] >= 0, dseen, 0), i, 0)
        return dx

    def _weight(self, transition: int, kind: int) -> np.ndarray:
        return self.weight(kind * self.count + transition)

    def _store(self, transition: int, kind: int, gradient: np.ndarray) -> None:
        if self.wants_weight(kind * self.count + transition):
            self.blobs[kind * self.count + transition].diff[...] = gradient

    def _normalise(self, x: np.ndarray, transition: int, first: int) -> tuple[_Norm, np.ndarray]:
        scale, bias, means, variances = (self._weight(transition, first + kind) for kind in (1, 2, 3, 4))
        eps, zeros = self.dtype.type(1e-5), np.zeros_like(means)
        if self.phase == 1:
            divisor = self.weight(len(self.blobs) - 1)[0]
            factor = 1 / divisor if divisor else self.dtype.type(0)
            normal = (x - means * factor) / np.sqrt(variances * factor + eps)
            return _Norm(x, np.zeros_like(x), zeros, zeros), normal * scale + bias
        size = x.size // x.shape[1]
        mean = x.mean(axis=_AXES, keepdims=True)
        with np.errstate(all="ignore"):  # a single value has no unbiased variance
            variance = ((x - mean) ** 2).mean(axis=_AXES, keepdims=True)
            variance = variance * self.dtype.type(np.float64(size) / (size - 1))
        means[...] = self.decay * means + mean
        variances[...] = self.decay * variances + variance
        normal = (x - mean) / np.sqrt(variance + eps)
        return _Norm(x, normal, mean, variance), normal * scale + bias

    def _norm_grad(self, norm: _Norm, dy: np.ndarray, transition: int, first: int) -> np.ndarray:
        """As for a biased variance, though the unbiased one was divided by."""
        self._store(transition, first + 1, (dy * norm.normal).sum(axis=_AXES, keepdims=True))
        self._store(transition, first + 2, dy.sum(axis=_AXES, keepdims=True))
        dnormal = dy * self._weight(transition, first + 1)
        raised = norm.variance + self.dtype.type(1e-5)
        centred, size = norm.x - norm.mean, self.dtype.type(norm.x.size // norm.x.shape[1])
        dvariance = (dnormal * centred).sum(axis=_AXES, keepdims=True) / (-2 * raised * np.sqrt(raised))
        direct = dnormal / np.sqrt(raised)
        spread = dvariance * 2 * centred / size
        dmean = -(direct + spread).sum(axis=_AXES, keepdims=True)
        return direct + spread + dmean / size

    def _convolved(self, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        window, rows = _window(kernel), flat_from(kernel, 1)
        return np.stack(
            [(rows @ im2col(image, window, image.shape[1:])).reshape(-1, *image.shape[1:]) for image in x]
        )

    def _convolution_grad(
        self, x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, dkernel: np.ndarray
    ) -> np.ndarray:
        """The map's gradient; the kernel's goes into `dkernel`."""
        window, rows, sizes = _window(kernel), flat_from(kernel, 1), x.shape[2:]
        columns = [im2col(image, window, sizes) for image in x]
        flat = flat_from(dy, 2)
        dkernel[...] = np.sum([d @ c.T for d, c in zip(flat, columns, strict=True)], axis=0).reshape(
            kernel.shape
        )
        return np.stack([col2im(rows.T @ d, x.shape[1:], window, sizes) for d in flat])


def _window(kernel: np.ndarray) -> Window:
    pad = kernel.shape[2] // 2
    return Window(kernel.shape[2:], (1, 1), (pad, pad), (1, 1))
