"""The Caffe rules that PyTorch lacks, as a translated model holds them: each is copied, as text, if it is used."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def max_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
) -> Tensor:
    """Max pooling with Caffe's sizes: rounded up, for any padding and stride."""
    sizes, far = caffe_sizes(x, kernel, stride, pad)
    least = torch.finfo(torch.float32).min
    x = F.pad(x, (pad[1], far[1], pad[0], far[0]), value=least)
    return F.max_pool2d(x, kernel, stride)[:, :, : sizes[0], : sizes[1]]


def average_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
) -> Tensor:
    """Average pooling with Caffe's sizes: over the window within the padded map."""
    sizes, far = caffe_sizes(x, kernel, stride, pad)
    near = (pad[1], pad[1], pad[0], pad[0])
    extra = (0, max(far[1] - pad[1], 0), 0, max(far[0] - pad[0], 0))
    counted = F.pad(F.pad(torch.ones_like(x[:1, :1]), near, value=1), extra)
    counts = F.avg_pool2d(counted, kernel, stride, divisor_override=1)
    x = F.pad(F.pad(x, near), extra)
    sums = F.avg_pool2d(x, kernel, stride, divisor_override=1)
    return (sums / counts)[:, :, : sizes[0], : sizes[1]]


def caffe_sizes(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
) -> tuple[list[int], list[int]]:
    """Height and width after pooling, and the padding behind the map that they need."""
    sizes, far = [], []
    for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        out = -(-(size + 2 * p - k) // s) + 1
        if any(pad) and (out - 1) * s >= size + p:
            out -= 1  # a window that would start in the padding
        sizes.append(out)
        far.append(max(0, (out - 1) * s + k - p - size))
    return sizes, far


def max_unpool(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros but for `x`, each value at the place that its pooling took it from."""
    top = x.new_zeros(*x.shape[:2], size[0] * size[1])
    return top.scatter(2, places.flatten(2), x.flatten(2)).unflatten(2, size)


def lrn_within_channel(x: Tensor, size: int, alpha: float, beta: float) -> Tensor:
    """x / (1 + alpha * mean of the squares around it) ** beta."""
    return x * (1 + alpha * F.avg_pool2d(x.square(), size, 1, size // 2)) ** -beta


def mvn(x: Tensor, axes: tuple[int, ...], variance: bool, eps: float) -> Tensor:
    """Each map less its mean and, with `variance`, over its standard deviation."""
    x = x - x.mean(axes, keepdim=True)
    return x / (x.square().mean(axes, keepdim=True).sqrt() + eps) if variance else x


def crop(x: Tensor, like: Tensor, axis: int, *offsets: int) -> Tensor:
    """`x` cut to the sizes of `like` from `axis` on."""
    for i, offset in enumerate(offsets, axis):
        x = x.narrow(i, offset, like.shape[i])
    return x


def arg_max(x: Tensor, axis: int) -> Tensor:
    """The place of the largest value, of equal ones the last, as floating point."""
    last = x.shape[axis] - 1
    return (last - x.flip(axis).argmax(axis, keepdim=True)).to(x.dtype)


def resize(x: Tensor, shrink: int, zoom: int) -> Tensor:
    """Bilinear resizing by whole factors, corner on corner."""
    sizes = [(n - 1) // shrink * zoom + 1 for n in x.shape[2:]]
    return F.interpolate(x, size=sizes, mode="bilinear", align_corners=True)


def attention(scores: Tensor, labels: Tensor) -> Tensor:
    """The labelled classes' score maps, each from 0 to 1, and of these the largest."""
    positive = scores.detach().clamp(min=0)
    low = positive.amin((2, 3), keepdim=True)
    high = positive.amax((2, 3), keepdim=True)
    span = ((high - low).double() + 1e-8).to(scores.dtype)
    labelled = labels.reshape(*scores.shape[:2], 1, 1).trunc() == 1
    return torch.where(labelled, (positive - low) / span, 0.0).amax(1, keepdim=True)


def c_relu(
    features: Tensor,
    scores: Tensor,
    labels: Tensor,
    high: float,
    low: float,
) -> Tensor:
    """SeeNet's C-ReLU: erases where attention is above `high`, negates below `low`."""
    where = attention(scores, labels)
    features = torch.where(where > high, 0.0, features)
    return torch.where(where < low, -features, features)


def background_mask(
    features: Tensor,
    scores: Tensor,
    labels: Tensor,
    threshold: float,
) -> Tensor:
    """Keeps the features where attention is below the threshold."""
    return torch.where(attention(scores, labels) < threshold, features, 0.0)


def softmax_loss(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    ignored: int | None,
    normalization: str,
) -> Tensor:
    """Cross-entropy over `axis`, summed and divided by what `normalization` counts."""
    logs = F.log_softmax(scores, axis).movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    skipped = -(1 << 40) if ignored is None else ignored
    losses = F.nll_loss(logs, numbers, ignore_index=skipped, reduction="none")
    # At most -log(FLT_MIN), and the gradient goes on.
    losses = losses + (losses.clamp(max=87.33654) - losses).detach()
    counts = {
        "VALID": int((numbers != skipped).sum()),
        "FULL": numbers.numel(),
        "BATCH_SIZE": scores.shape[:axis].numel(),
        "NONE": 1,
    }
    return losses.sum() / max(counts[normalization], 1)


def sigmoid_loss(
    scores: Tensor,
    targets: Tensor,
    ignored: int | None,
    normalization: str,
) -> Tensor:
    """Cross-entropy of sigmoid(scores), over what `normalization` counts."""
    targets = targets.detach().reshape(scores.shape)
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    counted = torch.ones_like(targets)
    if ignored is not None:
        counted = (targets.trunc() != ignored).to(targets)
    counts = {
        "VALID": int(counted.sum()),
        "FULL": scores.numel(),
        "BATCH_SIZE": scores.shape[0],
        "NONE": 1,
    }
    return (losses * counted).sum() / max(counts[normalization], 1)


def euclidean_loss(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared distance, per image."""
    return (a - b.reshape(a.shape)).square().sum() / a.shape[0] / 2


def hinge_loss(scores: Tensor, labels: Tensor, squared: bool) -> Tensor:
    """What scores lack to a margin of 1, the label's above, the others' below 0."""
    scores = scores.flatten(1)
    numbers = labels.detach().long().flatten()[: scores.shape[0], None]
    signs = torch.ones_like(scores).scatter(1, numbers, -1.0)
    lacking = F.relu(1 + signs * scores)
    return (lacking.square() if squared else lacking).sum() / scores.shape[0]


def contrastive_loss(a: Tensor, b: Tensor, similar: Tensor, margin: float) -> Tensor:
    """Half the squared distance of similar pairs; of others, half its lack, squared."""
    squares = (a - b.reshape(a.shape)).flatten(1).square().sum(1)
    alike = similar.detach().flatten()[: a.shape[0]].trunc() != 0
    distances = squares.clamp(min=1e-12).sqrt()
    apart = (margin - distances).clamp(min=0).square()
    return torch.where(alike, squares, apart).sum() / a.shape[0] / 2


def accuracy(
    scores: Tensor,
    labels: Tensor,
    axis: int,
    top_k: int,
    ignored: int | None,
) -> Tensor:
    """The share of labels among the `top_k` scores; equal scores count against them."""
    scores = scores.detach().movedim(axis, -1).flatten(0, -2)
    numbers = labels.detach().long().flatten()
    counted = torch.ones_like(numbers)
    if ignored is not None:
        counted = (numbers != ignored).long()
    right = scores.gather(1, (numbers * counted)[:, None])
    hits = counted * ((scores >= right).sum(1) <= top_k)
    return hits.sum().to(scores.dtype) / counted.sum().clamp(min=1)


class Scale(nn.Module):
    """A learned factor for each channel and, with `bias`, a learned term."""

    def __init__(self, channels: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        x = x * self.weight.view(shape)
        return x if self.bias is None else x + self.bias.view(shape)


class Bias(nn.Module):
    """A learned term for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, *[1] * (x.ndim - 2))


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Normalises by stored statistics in training too: Caffe's `use_global_stats`."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


USES = {
    "max_pool": ("caffe_sizes",),
    "average_pool": ("caffe_sizes",),
    "c_relu": ("attention",),
    "background_mask": ("attention",),
}
"""Which rules call others."""
