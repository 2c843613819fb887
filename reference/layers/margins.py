"""ArcFace's margins (xialuxi/arcface-caffe)."""

import math

import numpy as np

from reference.checks import class_indices
from reference.layer import Arrays, Layer, flat_from, layer


class _Margin(Layer):
    """Cosines of angles, of which the label's is made cos(angle + m); beyond π - m less m · sin(π - m) instead.

    Its slope is cos m + sin m · cos / sin, and 1 beyond, or where the sine is 0.
    """

    margin: float

    def moved(self, x: np.ndarray, labels: np.ndarray, ignored: int | None = None) -> np.ndarray:
        kind = self.dtype.type
        rows = flat_from(x, 1).copy()
        indices, marked = class_indices(labels.reshape(-1), rows.shape[1], ignored)
        self.at = np.flatnonzero(marked), indices[marked]
        cosine = np.minimum(rows[self.at], kind(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            sine = np.sqrt(kind(1) - cosine * cosine)
            far = cosine <= kind(math.cos(math.pi - self.margin))
            cos_m, sin_m = kind(math.cos(self.margin)), kind(math.sin(self.margin))
            beyond = cosine - kind(math.sin(math.pi - self.margin) * self.margin)
            rows[self.at] = np.where(far, beyond, cosine * cos_m - sine * sin_m)
            self.slope = np.where(far | (sine == 0), kind(1), cos_m + sin_m * cosine / sine)
        return rows

    def sloped(self, dy: np.ndarray) -> np.ndarray:
        dx = flat_from(dy, 1).copy()
        dx[self.at] *= self.slope
        return dx.reshape(dy.shape)


@layer("CosinAddm")
class CosinAddm(_Margin):
    """The margin alone."""

    def set_up(self) -> None:
        self.margin = float(np.float32(self.param.cosin_add_m_param.m))

    def run(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self.moved(x, labels).reshape(x.shape)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [self.sloped(top_diffs[0]), None]


@layer("AdaCosAddmScale")
class AdaCosAddmScale(_Margin):
    """The margin, and all times a scale that each pass computes from the last one's.

    It is log(mean over items of Σ exp(scale · cosine)) / cos(median), where the label's own cosine counts as 0, and
    the "median" is the mean of all angles, at most π/4. The first is √2 · log(num_classes - 1).
    """

    def set_up(self) -> None:
        param = self.param.adacos_add_m_scale_param
        self.margin = float(np.float32(param.m))
        self.scale = self.dtype.type(math.sqrt(2) * math.log(param.num_classes - 1))

    def run(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        kind = self.dtype.type
        rows = self.moved(x, np.where(labels.astype(np.int64) < 0, -1, labels), -1)
        others = flat_from(x, 1).copy()
        others[self.at] = 0
        with np.errstate(invalid="ignore"):
            angle = np.arccos(x).sum(dtype=self.dtype) / kind(x.size)
        middle = np.cos(angle if angle <= math.pi / 4 or np.isnan(angle) else kind(math.pi / 4))
        total = np.exp(self.scale * others).sum(dtype=self.dtype)
        self.scale = np.log(total / kind(len(rows))) / middle
        return (self.scale * rows).reshape(x.shape)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [self.sloped(self.scale * top_diffs[0]), None]
