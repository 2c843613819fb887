"""What SeeNet's convolutions are computed by: PyTorch, or, on CPUs, Winograd's minimal filtering."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from port.devices import check_engine
from port.models.seenet import TRUNK, SeeNet
from port.models.winograd import WinogradConv2dRelu
from port.models.workers import alone, in_parts, workers
from prototxt.errors import InputError

PARTS = 4
"""Of a map for each thread: other work may hold one up, and then the rest of its parts go to another."""

LEAST_ROWS = 16
"""In a part: with fewer, convolutions read too much twice."""


def with_engine(model: SeeNet, engine: str = "torch") -> SeeNet:
    """SeeNet with its convolutions computed by `engine`; for inference.

    Each engine is held to the same rule: against float64 at most 1.5 times the float32 reference's own difference,
    plus 1e-7, for each blob.

    Args:
        model: in evaluation mode; it stays as it is.
        engine: "torch" (the model itself, returned as it is) or "winograd" (the 3×3 convolutions by
            `WinogradConv2dRelu`, the first by `DirectConv2dRelu`, none by PyTorch's
            threads; float32, on CPUs, without gradients; it takes four times the memory of the weights).

    Raises:
        InputError: an engine that there is not, or a model that it does not run.
    """
    check_engine(engine)
    if engine == "torch":
        return model
    weight = model.score_b1.weight
    if model.training or weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise InputError(
            f"engine {engine}: it is for evaluation in float32 on a CPU: use the engine torch for the rest"
        )
    return FastSeeNet(model)


class FastSeeNet(SeeNet):
    """SeeNet whose 3×3 convolutions include their ReLU; they and the poolings go through `in_parts`.

    Args:
        model: in evaluation mode, float32, on a CPU; its other modules are shared.
    """

    def __init__(self, model: SeeNet):
        nn.Module.__init__(self)
        vars(self).update(vars(model))
        self._modules = {name: _with_relu(module) for name, module in model.named_children()}

    @alone()
    def forward(self, data: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return super().forward(data, label)

    @alone()
    def trunk(self, data: Tensor) -> Tensor:
        x = data
        for block, names in enumerate(TRUNK):
            if block:
                x = _pooled(x)
            for name in names:
                x = getattr(self, f"conv{name}")(x)
        return x

    @alone()
    def branch_a(self, features: Tensor) -> Tensor:
        return super().branch_a(features)

    @alone()
    def branch_b(self, features: Tensor, score_b1: Tensor, label: Tensor) -> Tensor:
        return super().branch_b(features, score_b1, label)

    def _convs(self, branch: str, x: Tensor) -> Tensor:
        for name in ("conv1", "conv2"):
            x = getattr(self, f"{name}_{branch}")(x)
        return x


class DirectConv2dRelu(nn.Module):
    """What a ReLU gives after `nn.Conv2d(…, 3, padding=1)`, by PyTorch, some rows at a time; no gradients."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    @torch.no_grad()
    @alone()
    def forward(self, x: Tensor) -> Tensor:
        num, _, height, width = x.shape
        out = x.new_empty(num, self.conv.out_channels, height, width)
        in_parts(self._convolve, [(x[i : i + 1], out[i : i + 1], rows) for i, rows in _rows(x, 1)])
        return out

    @torch.inference_mode()
    def _convolve(self, x: Tensor, out: Tensor, rows: slice) -> None:
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, x.shape[2])
        seen = F.pad(x[:, :, first:last], (0, 0, first - rows.start + 1, rows.stop + 1 - last))
        sums = F.conv2d(seen, self.conv.weight, self.conv.bias, padding=(0, 1))
        torch.clamp(sums, min=0, out=out[:, :, rows])


def _pooled(x: Tensor) -> Tensor:
    """2×2 maxima, rounding up, in the memory layout of x."""
    num, channels, height, width = x.shape
    last = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    out = torch.empty(num, channels, -(-height // 2), -(-width // 2), memory_format=last)

    @torch.inference_mode()
    def pool(i: int, rows: slice) -> None:
        pooled = F.max_pool2d(x[i : i + 1, :, rows], 2, 2, ceil_mode=True)
        out[i : i + 1, :, rows.start // 2 : -(-rows.stop // 2)] = pooled

    in_parts(pool, _rows(x, 2))
    return out


def _rows(x: Tensor, of: int) -> list[tuple[int, slice]]:
    """Parts of images, as the image's number and its rows: `PARTS` for each thread, a multiple of `of` rows in each."""
    num, _, height, _ = x.shape
    step = max(LEAST_ROWS, -(-height * num // (workers() * PARTS)))
    step = -(-step // of) * of
    return [(i, slice(top, min(top + step, height))) for i in range(num) for top in range(0, height, step)]


def _with_relu(module: nn.Module) -> nn.Module:
    """With fewer channels the transforms cost more than they save, in time and, as sums are short, in accuracy."""
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (3, 3):
        return module
    return WinogradConv2dRelu(module) if module.in_channels >= 128 else DirectConv2dRelu(module)
