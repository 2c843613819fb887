"""The layers that end CMU's pose nets (caffe_rtpose), in PyTorch: by its GPU code."""

import torch
import torch.nn.functional as F
from torch import Tensor

from port.layer import Layer, layer
from prototxt.layers.pose import scale_pad


@layer("ImResize")
class ImResize(Layer):
    """One image of several: each without its padding, enlarged by cubic curves, and their mean. No gradient.

    Nearer to the first place than half a place the curve is followed beyond it; at the end the last place is repeated.
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        param = self.param.imresize_param
        height, width = self.plan.top_shapes(tuple(x.shape))[0][2:]
        images = []
        for n, maps in enumerate(x):
            top, left = (scale_pad(param, n, size) for size in maps.shape[1:])
            inner = maps[:, top : maps.shape[1] - top, left : maps.shape[2] - left]
            down, across = _shares(inner.shape[1], height, x), _shares(inner.shape[2], width, x)
            images.append(down @ (inner @ across.T))
        return torch.stack(images).mean(0, keepdim=True)


def _shares(size: int, count: int, like: Tensor) -> Tensor:
    """(count, size): what each of `size` places gives to each of `count`."""
    offset = torch.tensor(float(count)) / size / 2 - 0.5
    place = (torch.arange(count, dtype=torch.float32) - offset) * (torch.tensor(float(size)) / count)
    second = (place.double() + 1e-5).long().clamp(min=0)
    third = (second + 1).clamp(max=size - 1)
    d = (place - second).double()
    weights = (
        ((second - 1).clamp(min=0), ((-0.5 * d + 1) * d - 0.5) * d),
        (second, (1.5 * d - 2.5) * d * d + 1),
        (third, ((-1.5 * d + 2) * d + 0.5) * d),
        ((third + 1).clamp(max=size - 1), (0.5 * d - 0.5) * d * d),
    )
    shares = torch.zeros(count, size, dtype=torch.float64)
    for at, weight in weights:
        shares.scatter_add_(1, at[:, None], weight[:, None])
    return shares.to(like)


@layer("Nms")
class Nms(Layer):
    """The peaks of each part's map above `threshold`: (num, num_parts, max_peaks + 1, 3). No gradient.

    Row 0 begins with their number; then x, y and value of each, in row order. A peak is larger than its 8 neighbours;
    its position is the mean over 7 × 7 places, weighed by values above 0. Quirks of that code: of those places row and
    column 0 do not count, nor rows from the WIDTH on; below the map its memory goes on; items are num_parts maps long.
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        param, (num, _, height, width) = self.param.nms_param, x.shape
        parts, area = param.num_parts, height * width
        memory = x.flatten()
        maps = memory[: num * parts * area].view(num * parts, height, width)
        top = x.new_zeros(num * parts, param.max_peaks + 1, 3)
        if min(height, width) < 3:
            return top.view(num, parts, -1, 3)
        others = [k for k in range(9) if k != 4]
        around = maps.unfold(1, 3, 1).unfold(2, 3, 1).flatten(-2)[..., others]
        inner = maps[:, 1:-1, 1:-1]
        higher = (inner > x.new_tensor(param.threshold)) & (inner[..., None] > around).all(-1)
        part, y, z = F.pad(higher, (1, 1, 1, 1)).nonzero(as_tuple=True)
        counts = torch.bincount(part, minlength=num * parts)
        top[:, 0, 0] = counts.to(top)
        place = torch.arange(len(part), device=x.device) - (counts.cumsum(0) - counts)[part]
        kept = place < param.max_peaks
        part, y, z, place = part[kept], y[kept], z[kept], place[kept]
        near = torch.arange(-3, 4, device=x.device)
        rows, columns = y[:, None, None] + near[:, None], z[:, None, None] + near
        at = part[:, None, None] * area + rows * width + columns
        counted = (rows > 0) & (rows < width) & (columns > 0) & (columns < width) & (at < len(memory))
        values = memory[at.where(counted, 0)].where(counted, 0).clamp(min=0).float()
        total = values.sum((1, 2))
        middle = (
            torch.stack([(values * columns).sum((1, 2)), (values * rows).sum((1, 2))], 1) / total[:, None]
        )
        top[part, place + 1] = torch.cat([middle.to(top), maps[part, y, z][:, None]], 1)
        return top.view(num, parts, -1, 3)
