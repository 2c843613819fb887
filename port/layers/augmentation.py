"""FlowNet2's augmentation of images and flow, as far as nothing is drawn."""

import numpy as np
import torch
from torch import Tensor

from port.gradient import refuse_if_forced
from port.layer import Layer, being_traced, layer
from prototxt.errors import InputError
from prototxt.layers.augmentation import CHROMATIC, COEFFICIENTS, FACTORS, SPATIAL, crops, keeps_given
from prototxt.layers.declare import Shape, legacy_shape

_NEUTRAL = torch.tensor([float(name in FACTORS) for name in COEFFICIENTS])
_COLOURS = slice(len(SPATIAL), len(SPATIAL) + len(CHROMATIC))


@layer("DataAugmentation")
class DataAugmentation(Layer):
    """A crop, in the middle or as bottom 1's parameters say, less a mean.

    As published, a place ends 0.05 before the last pixel's centre, so that the last row and column are mixed with their
    neighbours.

    Its blobs are the number of passes and, with `recompute_mean`, the mean image and the channels' means of the passes
    up to that number. Traced and exported, the net takes the mean that they hold and counts nothing.
    """

    def set_up(self) -> None:
        for blob in self.owned:
            blob.requires_grad_(False)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        param = self.param.augmentation_param
        images = x.detach().reshape(legacy_shape(tuple(x.shape)))
        rows = images.new_zeros(len(images), len(COEFFICIENTS), 1, 1) if given is None else given.detach()
        top = images
        if crops(param):
            top = self._cropped(images, None if given is None else _coefficients(rows, len(images)))
        top = refuse_if_forced(self, self._centred(top), x, *([] if given is None else [given]))
        return (top, rows) if len(self.plan.tops) > 1 else top

    def _cropped(self, images: Tensor, values: Tensor | None) -> Tensor:
        param = self.param.augmentation_param
        crop = (param.crop_height, param.crop_width)
        if values is None:
            return _middle(images, crop)
        values = torch.where((values - _NEUTRAL).abs() < 1e-3, _NEUTRAL, values)
        changed = values != _NEUTRAL
        others = changed[:, _COLOURS.stop :].any(0).tolist()
        if any(others):
            names = [name for name, there in zip(COEFFICIENTS[_COLOURS.stop :], others, strict=True) if there]
            raise InputError(f"augmentation parameters: {', '.join(names)} are not supported")
        matrices = torch.stack([_matrix(row, crop, images.shape[2:]) for row in values])
        top = _sampled(images, matrices, crop)
        return self._coloured(top, values[:, _COLOURS]) if changed[:, _COLOURS].any() else top

    def _coloured(self, images: Tensor, values: Tensor) -> Tensor:
        """Colours times their factors at the same brightness, then gamma, brightness, contrast."""
        if images.shape[1] != 3:
            raise InputError(
                f"augmentation parameters: colours are changed of 3 channels, not of {images.shape[1]}"
            )
        gamma, brightness, contrast, *factors = values.to(images)[:, :, None, None, None].unbind(1)
        dyed = images * torch.cat(factors, 1)
        dyed = dyed * (images.sum(1, keepdim=True) / (dyed.sum(1, keepdim=True) + 0.01))
        light = _clamped(dyed, 1) ** gamma + brightness
        return _clamped(0.5 + (light - 0.5) * contrast, self.param.augmentation_param.max_multiplier)

    @torch.no_grad()
    def _centred(self, images: Tensor) -> Tensor:
        param = self.param.augmentation_param
        if not being_traced():
            passes = self.blobs[0].trunc_().add_(1).item()
            if passes <= param.recompute_mean:
                _, mean, of_channels = self.blobs
                mean.mul_(passes - 1).add_(images.mean(0)).div_(passes)
                of_channels.copy_(mean.mean((2, 3), keepdim=True))
        if param.recompute_mean:
            return images - self.blobs[1 if param.mean_per_pixel else 2]
        if len(param.mean) == 3 and not param.mean_per_pixel:
            return images - images.new_tensor(list(param.mean))[: images.shape[1], None, None]
        return images.clone()


@layer("GenerateAugmentationParameters")
class GenerateAugmentationParameters(Layer):
    """Bottom 0's parameters as they are, or zeros, which change nothing: none are drawn."""

    def forward(self, first: Tensor, *images: Tensor) -> Tensor:
        num, count = first.shape[0], len(COEFFICIENTS)
        if keeps_given(self.param, tuple(first.shape)):
            top = first.detach().flatten()[: num * count].reshape(num, count, 1, 1)
        else:
            top = first.new_zeros(num, count, 1, 1)
        return refuse_if_forced(self, top, first, *images)


@layer("FlowAugmentation")
class FlowAugmentation(Layer):
    """The flow between image 0 and image 1 after each was transformed by its parameters.

    Each new place goes back into image 0, takes the nearest pixel's flow, and goes into the new image 1.
    """

    def forward(self, flow: Tensor, *rows: Tensor) -> Tensor:
        param = self.param.augmentation_param
        crop = (param.crop_height, param.crop_width)
        steps = flow.detach().reshape(legacy_shape(tuple(flow.shape))).float()
        first, second = (
            torch.stack([_matrix(row, crop, steps.shape[2:]) for row in _coefficients(each, len(steps))])
            for each in rows
        )
        here = _grid(crop).to(steps.device).expand(len(steps), -1, -1)  # (num, 3, places): x, y, 1
        back = _applied(first.to(steps.device), here)
        column, line = (back + 0.5).trunc().long().unbind(1)
        height, width = steps.shape[2:]
        if ((column < 0) | (column >= width) | (line < 0) | (line >= height)).any():
            raise InputError("FlowAugmentation: a place of the crop comes from outside of the flow")
        along = steps.flatten(2).gather(2, (line * width + column)[:, None].expand(-1, 2, -1))
        there = torch.cat([back + along, here[:, 2:]], 1)
        top = _applied(_inverse(second).to(steps.device), there) - here[:, :2]
        return refuse_if_forced(self, top.reshape(-1, 2, *crop).to(flow.dtype), flow, *rows)


def _clamped(x: Tensor, most: float) -> Tensor:
    """Between 0 and `most`, which is also what stands for NaN."""
    return torch.fmax(torch.fmin(x, x.new_tensor(most)), x.new_tensor(0))


def _coefficients(rows: Tensor, num: int) -> Tensor:
    """(num, 42) on the CPU, factors where the rows hold their logarithms."""
    rows = rows.detach().cpu().flatten()[: num * len(COEFFICIENTS)].reshape(num, -1)
    return torch.where(_NEUTRAL == 1, rows.exp(), rows).float()


def _middle(images: Tensor, crop: tuple[int, int]) -> Tensor:
    """The middle of the images, at half pixels where the sizes differ by an odd number."""
    for axis, out in zip((2, 3), crop, strict=True):
        size = images.shape[axis]
        place = torch.arange(out, dtype=torch.float32, device=images.device) + (size - out) / 2
        place = place.clamp(max=_last(size))
        before = place.floor()
        part = (place - before).to(images.dtype).reshape(-1, *(1,) * (3 - axis))
        near, far = (images.index_select(axis, before.long() + step) for step in (0, 1))
        images = (1 - part) * near + part * far
    return images


def _last(size: int) -> float:
    """The furthest place, in single precision as published."""
    return float(np.float32(size) - np.float32(1.05))


def _matrix(row: Tensor, crop: tuple[int, int], sizes: Shape) -> Tensor:
    """(2, 3): of a place in the crop, (x, y, 1), its place in the image."""
    mirror, dx, dy, angle, zoom_x, zoom_y = row[: len(SPATIAL)]
    height, width = crop
    x, y = torch.tensor([1, 0, -width / 2]), torch.tensor([0, 1, -height / 2])
    if mirror != 0:
        x = -x
    x, y = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    behind = torch.tensor([0.0, 0.0, 1.0])
    x = (x + behind * (dx * width)) * (1 / zoom_x) + behind * (sizes[1] / 2)
    y = (y + behind * (dy * height)) * (1 / zoom_y) + behind * (sizes[0] / 2)
    return torch.stack([x, y])


def _inverse(matrices: Tensor) -> Tensor:
    (a, c, e), (b, d, f) = (row.unbind(1) for row in matrices.unbind(1))
    inverse = torch.stack([torch.stack([d, -c, c * f - d * e], 1), torch.stack([-b, a, b * e - a * f], 1)], 1)
    return inverse / (a * d - b * c)[:, None, None]


def _grid(crop: tuple[int, int]) -> Tensor:
    """(3, height · width): x, y and 1 of each place."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in crop), indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(x.numel())])


def _applied(matrices: Tensor, places: Tensor) -> Tensor:
    """(num, 2, places), term by term: a matrix product might round otherwise on some devices."""
    x, y, _ = places.unbind(1)
    return torch.stack([x * row[:, :1] + y * row[:, 1:2] + row[:, 2:] for row in matrices.unbind(1)], 1)


def _sampled(images: Tensor, matrices: Tensor, crop: tuple[int, int]) -> Tensor:
    """Bilinear samples at single-precision places."""
    height, width = images.shape[2:]
    grid = _grid(crop).to(images.device).expand(len(images), -1, -1)
    column, line = _applied(matrices.to(images.device), grid).unbind(1)
    column, line = (_clamped(place, _last(size)) for place, size in ((column, width), (line, height)))
    left, above = column.floor(), line.floor()
    a, b = ((place - whole).to(images.dtype)[:, None] for place, whole in ((column, left), (line, above)))
    index = (above.long() * width + left.long())[:, None].expand(-1, images.shape[1], -1)
    flat = images.flatten(2)
    near, right, low, corner = (flat.gather(2, index + step) for step in (0, 1, width, width + 1))
    top = (1 - a) * (1 - b) * near + a * b * corner + (1 - a) * b * low + a * (1 - b) * right
    return top.reshape(*images.shape[:2], *crop)
