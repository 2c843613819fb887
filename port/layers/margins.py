"""ArcFace's margins (xialuxi/arcface-caffe), in PyTorch."""

import math

import torch
from torch import Tensor

from port.gradient import with_slope
from port.labels import class_numbers
from port.layer import Layer, layer


def _with_margin(x: Tensor, numbers: Tensor, margin: float) -> Tensor:
    """Rows of cosines, the label's angle larger by `margin`; rows with a label below 0 as they are.

    Past π - margin the cosine is less margin · sin(margin), with slope 1; slope 1 also where the sine is 0.
    """
    marked = (numbers >= 0).nonzero().flatten()
    own = x[marked, numbers[marked]]
    cosine = own.detach().clamp(max=1)
    sine = (1 - cosine.square()).sqrt()
    far = cosine <= cosine.new_tensor(math.cos(math.pi - margin))
    moved = torch.where(
        far, cosine - math.sin(math.pi - margin) * margin, cosine * math.cos(margin) - sine * math.sin(margin)
    )
    plain = far | (sine == 0)
    slope = torch.where(plain, 1, math.cos(margin) + math.sin(margin) * cosine / sine.masked_fill(plain, 1))
    moved = with_slope(own, moved, lambda slope: slope, slope)
    return x.index_put((marked, numbers[marked]), moved)


@layer("CosinAddm")
class CosinAddm(Layer):
    """Cosines (num, classes), the label's with the margin `m`."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.reshape(len(x), math.prod(x.shape[1:]))
        numbers = class_numbers(labels.flatten(), rows.shape[1])
        return _with_margin(rows, numbers, self.param.cosin_add_m_param.m).reshape(x.shape)


@layer("AdaCosAddmScale")
class AdaCosAddmScale(Layer):
    """As CosinAddm, times AdaCos's scale, which each pass takes from the last one's.

    The label's own cosine counts as 0 in it, and the mean angle, at most π/4, as the median. It has no gradient.
    """

    scale: Tensor

    def set_up(self) -> None:
        self.scale: Tensor
        first = math.sqrt(2) * math.log(self.param.adacos_add_m_scale_param.num_classes - 1)
        self.register_buffer("scale", torch.tensor(first), persistent=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        rows = x.reshape(len(x), math.prod(x.shape[1:]))
        labels = labels.detach().flatten()
        numbers = class_numbers(labels.where(labels.long() >= 0, 0), rows.shape[1])
        marked = labels.long() >= 0
        with torch.no_grad():
            own = torch.arange(rows.shape[1], device=x.device) == numbers[:, None]
            others = rows.masked_fill(own & marked[:, None], 0)
            angle = rows.acos().mean().clamp(max=math.pi / 4)
            total = (self.scale.to(rows) * others).exp().sum() / len(rows)
            self.scale = total.log() / angle.cos()
        moved = _with_margin(rows, numbers.where(marked, -1), self.param.adacos_add_m_scale_param.m)
        return (moved * self.scale).reshape(x.shape)
