"""Mean fields of fully connected CRFs: DenseCRF and MultiStageMeanfield. The lattice is computed on the CPU."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from port.gradient import refuse_gradient
from port.layer import Layer, layer
from prototxt.layers.declare import legacy_shape
from prototxt.layers.meanfield import counted_size
from runtime.permutohedral import Permutohedral

Filter = Callable[[Tensor], Tensor]

_LEAST = float(np.finfo(np.float32).tiny)


@torch.no_grad()
def mean_field(unary: Tensor, start: Tensor, filters: Sequence[tuple[Filter, Tensor]], steps: int) -> Tensor:
    """Scores (classes, pixels) after `steps`; each filter's output is multiplied by its (classes, classes) matrix."""
    for _ in range(steps):
        shares = start.softmax(0)
        start = unary + sum(matrix @ filter_(shares) for filter_, matrix in filters)
    return start


def gaussian(features: Tensor) -> Filter:
    """Sums over all pixels by a Gaussian kernel in these features (features, pixels), over the kernel's own sum."""
    lattice = Permutohedral(features.detach().cpu().numpy().T)

    def filtered(values: Tensor) -> Tensor:
        return torch.from_numpy(lattice.filter(values.detach().cpu().numpy())).to(values)

    norm = filtered(torch.ones(1, features.shape[1], dtype=torch.float64)) + 1e-20
    return lambda values: filtered(values) / norm.to(values)


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """(2, pixels): x and y"""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()]).to(like.device, torch.float32)


@layer("DenseCRF")
class DenseCRF(Layer):
    """The mean field's probabilities, or their logarithms: DeepLab's, of Potts models by place and by colour.

    The first image's colours serve the whole batch, as published. No gradient comes back, and nothing says so.
    """

    @torch.no_grad()
    def forward(self, scores: Tensor, sizes: Tensor, images: Tensor | None = None) -> Tensor:
        param = self.param.dense_crf_param
        scores = scores.reshape(legacy_shape(tuple(scores.shape)))
        height, width = scores.shape[2:]
        top = torch.zeros_like(scores)
        for i, size in enumerate(sizes.reshape(len(scores), -1)):
            rows, columns = (int(n) for n in size[:2])
            rows, columns = counted_size(rows, columns, height, width)
            unary = scores[i, :, :rows, :columns].flatten(1)
            places = _places(rows, columns, scores)
            models = [(places / xy, w) for xy, w in zip(param.pos_xy_std, param.pos_w, strict=True)]
            for xy, rgb, w in zip(param.bi_xy_std, param.bi_rgb_std, param.bi_w, strict=True):
                colours = images[0, :, :rows, :columns].flatten(1).float()
                models.append((torch.cat([places / xy, colours / rgb]), w))
            potts = torch.eye(len(unary), dtype=unary.dtype, device=unary.device)
            filters = [(gaussian(features), weight * potts) for features, weight in models]
            shares = mean_field(unary, unary, filters, param.max_iter).softmax(0)
            if not param.output_probability:
                shares = shares.clamp(min=_LEAST).log()
            top[i, :, :rows, :columns] = shares.reshape(-1, rows, columns)
        return top


@layer("MultiStageMeanfield")
class MultiStageMeanfield(Layer):
    """CRF-RNN's mean field of learned weights, which begin at the settings' diagonals. Inference only."""

    def set_up(self) -> None:
        param = self.param.multi_stage_meanfield_param
        with torch.no_grad():
            for blob, value in zip(
                self.blobs, (param.spatial_filter_weight, param.bilateral_filter_weight, -1.0), strict=True
            ):
                if not blob.any():
                    blob.copy_(value * torch.eye(blob.shape[-1]))

    def forward(self, unary: Tensor, first: Tensor, images: Tensor) -> Tensor:
        param = self.param.multi_stage_meanfield_param
        places = _places(unary.shape[2], unary.shape[3], unary)
        by_place, by_colour, compatibility = (blob.detach()[0, 0] for blob in self.blobs)
        spatial = gaussian(places / param.theta_gamma)
        tops = []
        for own, start, image in zip(unary.detach(), first.detach(), images.detach(), strict=True):
            colours = image.flatten(1).float() / param.theta_beta
            bilateral = gaussian(torch.cat([places / param.theta_alpha, colours]))
            filters = [(spatial, -compatibility @ by_place), (bilateral, -compatibility @ by_colour)]
            tops.append(
                mean_field(own.flatten(1), start.flatten(1), filters, param.num_iterations).reshape(own.shape)
            )
        top = refuse_gradient(self, torch.stack(tops), unary, 0, "unary terms")
        return refuse_gradient(self, top, first, 1, "first scores")
