"""FlowNet2's augmentation of images and flow, as far as nothing is drawn."""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.augmentation import CHROMATIC, COEFFICIENTS, FACTORS, SPATIAL, crops, keeps_given
from prototxt.layers.declare import legacy_shape
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, layer

_FLOAT = np.float32  # the fork's positions and coefficients, whatever the net's dtype
_NEUTRAL = np.array([name in FACTORS for name in COEFFICIENTS], _FLOAT)


def _coefficients(rows: np.ndarray, num: int) -> np.ndarray:
    """(num, 42) in float32: factors are given as their logarithms."""
    rows = rows.reshape(-1)[: num * len(COEFFICIENTS)].reshape(num, -1)
    return np.where(_NEUTRAL == 1, np.exp(rows), rows).astype(_FLOAT)


def _without_small_changes(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values - _NEUTRAL) < _FLOAT(1e-3), _NEUTRAL, values)


def _matrix(values: np.ndarray, crop: tuple[int, int], sizes: tuple[int, int]) -> np.ndarray:
    """(2, 3), row 0 x and row 1 y: from places in the crop to places in the image. (height, width) each."""
    mirror, dx, dy, angle, zoom_x, zoom_y = values[: len(SPATIAL)]
    height, width = (_FLOAT(size) for size in crop)
    half = _FLOAT(0.5)
    matrix = np.array([[1, 0, -half * width], [0, 1, -half * height]], _FLOAT)
    if mirror:
        matrix[0] = -matrix[0]
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.stack([cos * matrix[0] - sin * matrix[1], sin * matrix[0] + cos * matrix[1]])
    matrix[:, 2] += np.array([dx * width, dy * height], _FLOAT)
    matrix *= np.array([[1 / zoom_x], [1 / zoom_y]], _FLOAT)
    matrix[:, 2] += half * np.array([sizes[1], sizes[0]], _FLOAT)
    return matrix


def _inverse(matrix: np.ndarray) -> np.ndarray:
    (a, c, e), (b, d, f) = matrix
    return np.array([[d, -c, c * f - d * e], [-b, a, b * e - a * f]], _FLOAT) / (a * d - b * c)


def _clamped(x: np.ndarray, most: np.floating) -> np.ndarray:
    """CUDA's fmaxf(0, fminf(x, most)): NaN becomes `most`."""
    return np.fmax(np.fmin(x, most), x.dtype.type(0))


def _moved(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(x * row[0] + y * row[1] + row[2] for row in matrix)


def _grid(crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: crop[0], : crop[1]].astype(_FLOAT)
    return x, y


@layer("DataAugmentation")
class DataAugmentation(Layer):
    """Crops from the middle, or as the parameters in bottom 1 say, and subtracts a mean.

    A place is held before the last pixel's centre by 0.05, so that the last column and row are mixed with those before
    them; where the difference of sizes is odd, every pixel is a mean of its neighbours. Then the colours.

    With `recompute_mean` the mean of all passes up to that number is kept in the weights. What is subtracted is that
    mean image, or (`mean_per_pixel: false`) each channel's mean. Without it, `mean`'s three values are subtracted if
    `mean_per_pixel` is false. The number of passes is counted in weight 0, in TEST too.
    """

    def run(self, x: np.ndarray, *given: np.ndarray) -> list[np.ndarray]:
        param = self.param.augmentation_param
        top, *more = self.plan.top_shapes(x.shape, *(rows.shape for rows in given))
        x = x.reshape(legacy_shape(x.shape))
        self.blobs[0].data[...] = np.trunc(self.blobs[0].data) + 1
        y = x.copy()
        if crops(param):
            rows = given[0] if given else np.zeros(len(x) * len(COEFFICIENTS))
            values = _without_small_changes(_coefficients(rows, len(x)))
            self._refuse_others(values)
            y = self._transformed(x, values, top)
            if (values[:, len(SPATIAL) : len(SPATIAL) + len(CHROMATIC)] != _changeless()).any():
                y = self._coloured(y, values)
        return [self._centred(y), *(given[0] if given else np.zeros(shape, self.dtype) for shape in more)]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        for i in range(len(bottoms)):
            refuse_gradient(self, i, "input")

    def _refuse_others(self, values: np.ndarray) -> None:
        rest = len(SPATIAL) + len(CHROMATIC)
        changed = (values[:, rest:] != _NEUTRAL[rest:]).any(axis=0)
        if changed.any():
            names = [name for name, there in zip(COEFFICIENTS[rest:], changed, strict=True) if there]
            raise InputError(f"augmentation parameters: {', '.join(names)} are not supported")

    def _transformed(self, x: np.ndarray, values: np.ndarray, top: tuple[int, ...]) -> np.ndarray:
        y = np.empty(top, self.dtype)
        crop, sizes = top[2:], x.shape[2:]
        for image, row, out in zip(x, values, y, strict=True):
            places = _moved(_matrix(row, crop, sizes), *_grid(crop))
            columns, rows = (
                _clamped(place, _FLOAT(size) - _FLOAT(1.05))
                for place, size in zip(places, sizes[::-1], strict=True)
            )
            left, above = (np.floor(place).astype(np.int64) for place in (columns, rows))
            a, b = ((place - np.floor(place)).astype(self.dtype) for place in (columns, rows))
            out[...] = (
                (1 - a) * (1 - b) * image[:, above, left]
                + a * b * image[:, above + 1, left + 1]
                + (1 - a) * b * image[:, above + 1, left]
                + a * (1 - b) * image[:, above, left + 1]
            )
        return y

    def _coloured(self, y: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Colour, gamma, brightness and contrast of images of 0 to 1; brightness is kept where colours change."""
        if y.shape[1] != 3:
            raise InputError(
                f"augmentation parameters: colours are changed of 3 channels, not of {y.shape[1]}"
            )
        first = len(SPATIAL)
        gamma, brightness, contrast = (
            values[:, first + i].astype(self.dtype)[:, None, None, None] for i in range(3)
        )
        factors = values[:, first + 3 : first + 6].astype(self.dtype)[:, :, None, None]
        changed = y * factors
        changed *= y.sum(axis=1, keepdims=True) / (changed.sum(axis=1, keepdims=True) + self.dtype.type(0.01))
        changed = _clamped(changed, self.dtype.type(1)) ** gamma + brightness
        half = self.dtype.type(0.5)
        most = self.dtype.type(self.param.augmentation_param.max_multiplier)
        return _clamped(half + (changed - half) * contrast, most)

    def _centred(self, y: np.ndarray) -> np.ndarray:
        param = self.param.augmentation_param
        if param.recompute_mean:
            passes, mean, channel_mean = (blob.data for blob in self.blobs)
            n = passes.item()
            if n <= param.recompute_mean:
                mean[...] = (
                    mean * self.dtype.type(n - 1) + y.mean(axis=0, dtype=self.dtype)
                ) / self.dtype.type(n)
                channel_mean[...] = mean.mean(axis=(2, 3), keepdims=True, dtype=self.dtype)
            return y - (mean if param.mean_per_pixel else channel_mean)
        if len(param.mean) == 3 and not param.mean_per_pixel:
            return y - np.array(param.mean[: y.shape[1]], self.dtype)[:, None, None]
        return y


def _changeless() -> np.ndarray:
    return _NEUTRAL[len(SPATIAL) : len(SPATIAL) + len(CHROMATIC)]


@layer("GenerateAugmentationParameters")
class GenerateAugmentationParameters(Layer):
    """The parameters of bottom 0, or (`regenerate`) those that change nothing: none are drawn."""

    def run(self, first: np.ndarray, *images: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(first.shape, *(image.shape for image in images))
        if not keeps_given(self.param, first.shape):
            return np.zeros(top, self.dtype)
        return first.reshape(-1)[: top[0] * top[1]].reshape(top)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        for i in range(len(bottoms)):
            refuse_gradient(self, i, "input")


@layer("FlowAugmentation")
class FlowAugmentation(Layer):
    """The flow between two images that were transformed: each place goes back into image 0, along the flow of the
    nearest pixel there, and forth into the new image 1."""

    def run(self, flow: np.ndarray, *rows: np.ndarray) -> np.ndarray:
        (top,) = self.plan.top_shapes(flow.shape, *(each.shape for each in rows))
        flow = flow.reshape(legacy_shape(flow.shape))
        sizes, crop = flow.shape[2:], top[2:]
        first, second = (_coefficients(each, len(flow)) for each in rows)
        x, y = _grid(crop)
        made = np.empty(top, self.dtype)
        for steps, before, after, out in zip(flow, first, second, made, strict=True):
            places = _moved(_matrix(before, crop, sizes), x, y)
            columns, lines = (np.trunc(place + _FLOAT(0.5)) for place in places)
            inside = (columns >= 0) & (columns < sizes[1]) & (lines >= 0) & (lines < sizes[0])
            if not inside.all():
                raise InputError("FlowAugmentation: a place of the crop comes from outside of the flow")
            step = steps[:, lines.astype(np.int64), columns.astype(np.int64)]
            there = [(place + along).astype(_FLOAT) for place, along in zip(places, step, strict=True)]
            moved = _moved(_inverse(_matrix(after, crop, sizes)), *there)
            out[...] = np.stack([moved[0] - x, moved[1] - y])
        return made

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        for i in range(len(bottoms)):
            refuse_gradient(self, i, "input")
