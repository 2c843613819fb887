"""3×3 convolutions by Winograd's minimal filtering F(4×4, 3×3), for inference in float32 on CPUs.

Each 4×4 tile of outputs is read off a product of two polynomials evaluated at six points in either direction: 36
multiplications for a pair of channels where the sum over the window takes 144. (Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016.) What is saved in time is usually paid for in accuracy: with the customary
points 0, ±1, ±2, ∞ SeeNet's blobs end up two to three times as far from a float64 computation as Caffe's. Two things
keep them as near: the points, and short sums. See `POINTS` and `SUMMED_AT_ONCE`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from port.models.workers import alone, in_parts, workers

OUT, WINDOW = 4, 3
IN = OUT + WINDOW - 1
"""Sides of a tile of outputs, of the kernel, and of the tile of inputs that they need."""

POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
"""Where polynomials are evaluated, next to infinity. Of the points 0, a, -a or -b, c, -c or -d with few bits each,
these gave the smallest error (0.7 of that of 0, 1, -1, 1/2, -2)."""

SUMMED_AT_ONCE = 32
"""How many channels are summed in one chain; never more than an eighth of all, since with few channels the other
engines are nearly exact, too. Chains of 64 have up to 1.5 times the error; shorter ones cost time."""

SMALLEST = 64
"""Maps with fewer positions are left to BLAS and oneDNN, which sum those in shorter chains and are more exact."""

TILES_AT_ONCE = 64
"""Tiles that pass through all stages together, to stay in the processor's caches."""

KEPT_AT_ONCE = 1 << 17
"""Sums that grow together, for the same reason."""


class WinogradConv2dRelu(nn.Module):
    """What a ReLU gives after `nn.Conv2d(…, 3, padding=1)`, to float32's rounding; no gradients.

    Takes four times the memory of the weights, beside them.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        outputs, inputs = conv.weight.shape[:2]
        kernel, window, tile = transforms(POINTS, OUT)
        weight = torch.einsum("ik,ockl,jl->ijco", kernel, conv.weight.detach().double(), kernel)
        self.register_buffer("weight", weight.reshape(IN * IN, inputs, outputs).float())
        self.register_buffer("bias", conv.bias.detach())
        self.register_buffer("window", torch.kron(window, window).float())
        self.register_buffer("tile", torch.kron(tile, tile).float())

    @torch.no_grad()
    @alone()
    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (num, channels, height, width) float32.

        Returns:
            (num, channels, height, width), in memory channels last; of fewer than `SMALLEST` positions, what
            `conv` and a ReLU give.
        """
        num, _, height, width = x.shape
        if height * width < SMALLEST:
            return self.conv(x.contiguous()).relu_()
        down, right = -(-height // OUT), -(-width // OUT)
        x = x.permute(0, 2, 3, 1)
        out = x.new_empty(num, OUT * down, OUT * right, len(self.bias))
        images = max(1, TILES_AT_ONCE // (down * right))
        rows = max(1, TILES_AT_ONCE // right)
        parts = [
            (x[i : i + images], OUT * row, out[i : i + images, OUT * row : OUT * (row + rows)])
            for i in range(0, num, images)
            for row in range(0, down, rows)
        ]
        shares = self._shares(-(-workers() // len(parts)))
        in_parts(self._convolve, [(*part, share) for part in parts for share in shares])
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _shares(self, count: int) -> list[slice]:
        """The output channels in `count` shares: for where there are fewer parts of the image than threads."""
        step = -(-len(self.bias) // count)
        return [slice(start, start + step) for start in range(0, len(self.bias), step)]

    @torch.inference_mode()
    def _convolve(self, x: Tensor, top: int, out: Tensor, share: slice) -> None:
        """From (num, height, width, channels) to (num, 4 · down, 4 · right, channels): these rows, from `top` on."""
        num, down, right = len(out), out.shape[1] // OUT, out.shape[2] // OUT
        windows = _padded(x, top, *out.shape[1:3]).unfold(1, IN, OUT).unfold(2, IN, OUT)
        seen = self.window @ windows.permute(4, 5, 0, 1, 2, 3).reshape(IN * IN, -1)
        products = _products(seen.view(IN * IN, num * down * right, -1), self.weight[:, :, share])
        tiles = self.tile @ products.view(IN * IN, -1)
        tiles = tiles.view(OUT, OUT, num, down, right, -1).permute(2, 3, 0, 4, 1, 5)
        out = out[..., share]
        torch.add(tiles, self.bias[share], out=out.unflatten(2, (right, OUT)).unflatten(1, (down, OUT)))
        out.relu_()


def _padded(x: Tensor, top: int, height: int, width: int) -> Tensor:
    """(num, height + 2, width + 2, channels), contiguous: what these rows of outputs see, 0 outside of x."""
    first, last = max(top - 1, 0), min(top + height + 1, x.shape[1])
    above, below = first - (top - 1), top + height + 1 - last
    return F.pad(x[:, first:last], (0, 0, 1, width + 1 - x.shape[2], above, below)).contiguous()


def _products(seen: Tensor, weight: Tensor) -> Tensor:
    """(36, tiles, inputs) by (36, inputs, outputs), summing `SUMMED_AT_ONCE` channels at a time."""
    inputs = seen.shape[2]
    chain = min(SUMMED_AT_ONCE, -(-inputs // 8))
    products = seen.new_empty(len(seen), seen.shape[1], weight.shape[2])
    step = max(1, KEPT_AT_ONCE // products[0].numel())
    for first in range(0, len(seen), step):
        group = slice(first, first + step)
        for some in range(0, inputs, chain):
            these = slice(some, some + chain)
            products[group].baddbmm_(seen[group, :, these], weight[group, these], beta=int(some > 0))
    return products


def transforms(points: Sequence[float], out: int) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of F(out, 3) in float64, after Toom and Cook, for points and infinity.

    For a kernel g of 3 and a window d of out + 2 numbers, `tile @ ((kernel @ g) * (window @ d))` are the `out` sums
    Σ g[k] · d[i + k].

    Returns:
        kernel (out + 2, 3), window (out + 2, out + 2), tile (out, out + 2).
    """
    n = out + WINDOW - 1
    kernel, window, tile = torch.zeros(n, WINDOW), torch.zeros(n, n), torch.zeros(out, n)
    kernel, window, tile = kernel.double(), window.double(), tile.double()
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        powers = torch.tensor([point**k for k in range(max(out, WINDOW))], dtype=torch.float64)
        kernel[i] = powers[:WINDOW] / math.prod(point - other for other in others)
        window[i, : n - 1] = _polynomial(others)
        tile[:, i] = powers[:out]
    kernel[-1, -1] = tile[-1, -1] = 1
    window[-1] = _polynomial(points)
    return kernel, window, tile


def _polynomial(roots: Sequence[float]) -> Tensor:
    """Coefficients of Π (x - root), the constant first."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients
