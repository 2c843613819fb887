"""Optical flow: FlowNet2's and PWC-Net's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def crop_middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle, at half pixels where the sizes differ by an odd number. Places end 1.05 before the far side."""
    for axis, out in zip((2, 3), size, strict=True):
        place = torch.arange(out, device=x.device) + (x.shape[axis] - out) / 2
        place = place.clamp(max=x.shape[axis] - 1.05)
        part = (place - place.floor()).to(x.dtype).reshape(-1, *(1,) * (3 - axis))
        near, far = (x.index_select(axis, place.long() + step) for step in (0, 1))
        x = (1 - part) * near + part * far
    return x.detach()


class MeanImage(nn.Module):
    """Subtracts the mean image of all passes up to a number, or each channel's mean, whether it trains or not."""

    def __init__(self, shape: tuple[int, int, int], until: int, per_pixel: bool):
        super().__init__()
        self.until, self.per_pixel = until, per_pixel
        self.passes = nn.Parameter(torch.zeros(1, 1, 1, 1), requires_grad=False)
        self.mean = nn.Parameter(torch.zeros(1, *shape), requires_grad=False)
        channels = torch.zeros(1, shape[0], 1, 1)
        self.channel_mean = nn.Parameter(channels, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach()
        if not torch.compiler.is_compiling():
            self.passes += 1
            n = self.passes.item()
            if n <= self.until:
                self.mean.mul_(n - 1).add_(x.mean(0)).div_(n)
                self.channel_mean.copy_(self.mean.mean((2, 3), keepdim=True))
        return x - (self.mean if self.per_pixel else self.channel_mean)


def channel_norm(x: Tensor) -> Tensor:
    """The length of the channels' vector at each place."""
    return x.square().sum(1, keepdim=True).sqrt()


def warp(image: Tensor, flow: Tensor, far_side: bool, fill: float = 0.0) -> Tensor:
    """Each place taken, bilinearly, from where the flow points; `fill` if that is outside."""
    height, width = image.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    if far_side:  # outside begins behind the last pixel, not at its centre
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    else:
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    spans = torch.tensor([width - 1, height - 1], device=flow.device).clamp(min=1)
    grid = torch.stack([x, y], -1) * 2 / spans - 1
    moved = F.grid_sample(image, grid, padding_mode="border", align_corners=True)
    return torch.where(inside[:, None], moved, fill)


def correlation(
    a: Tensor,
    b: Tensor,
    pad: int,
    reach: int,
    kernel: int,
    stride: int,
    step: int,
) -> Tensor:
    """For each displacement up to `reach` the mean product of both images' patches."""
    a, b = F.pad(a, [pad] * 4), F.pad(b, [pad] * 4)
    height, width = a.shape[2] - 2 * reach, a.shape[3] - 2 * reach
    shifts = range(reach - reach // step * step, 2 * reach + 1, step)
    here = a[:, :, reach : reach + height, reach : reach + width]
    shown = [b[:, :, y : y + height, x : x + width] for y in shifts for x in shifts]
    products = [(here * moved).mean(1) for moved in shown]
    patches = F.avg_pool2d(torch.stack(products, 1), kernel, 1)
    return patches[:, :, ::stride, ::stride]


def resample(x: Tensor, size: tuple[int, int], kind: str, antialias: bool) -> Tensor:
    """FlowNet2's resizing, with wider kernels where it shrinks. It has no gradient."""
    ratios = [a / b for a, b in zip(x.shape[2:], size, strict=True)]
    ways: list[Tensor] = []
    for n, out, ratio in zip(x.shape[2:], size, ratios, strict=True):
        other = ratios[1 - len(ways)]
        # As published, each axis has the other one's offset.
        place = torch.arange(out, device=x.device) * ratio + (other / 2 - 0.5)
        nearest = (place.abs() + 0.5).floor() * place.sign()
        each = torch.arange(n, device=x.device)
        if kind == "NEAREST":
            ways.append((nearest.clamp(0, n - 1)[:, None] == each).to(x.dtype))
            continue
        stretch = ratio if antialias and max(ratios) > 1 else 1.0
        wide = -int(-(4 if kind == "CUBIC" else 2) * stretch // 1) if ratio >= 1 else 2
        d = ((place[:, None] - each) / stretch).abs()
        weights = (1 - d).clamp(min=0)
        if kind == "CUBIC":
            near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
            weights = torch.where(d <= 1, near, torch.where(d < 2, far, 0))
        weights = weights.where((nearest[:, None] - each).abs() <= wide, 0)
        total = weights.sum(1, keepdim=True)
        ways.append(torch.where(total != 0, weights / total, 0))
    return ways[0] @ x.detach() @ ways[1].T


def downsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrinks by tents, corner on corner, leaving out NaN. It has no gradient."""
    x = x.detach()
    if x.shape[2:] == size:
        return x
    ways: list[Tensor] = []
    for n, out in zip(x.shape[2:], size, strict=True):
        place = torch.arange(out, device=x.device)[:, None] / (out - 1) * (n - 1)
        near = (torch.arange(n, device=x.device) - place).abs() / ((n - 1) / (out - 1))
        ways.append((1 - near).clamp(min=0))
    rows, columns = ways
    unknown = x.isnan()
    known = rows @ (~unknown).to(x.dtype) @ columns.T
    missing = rows @ unknown.to(x.dtype) @ columns.T
    mean = rows @ x.where(~unknown, 0) @ columns.T / known
    return mean.where(missing / known <= 0.5, torch.nan)
