"""Of most nets: windows, normalising, cutting, SeeNet's masks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def max_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    down: bool = False,
) -> Tensor:
    """Max pooling with Caffe's sizes, rounded up (or `down`): any padding and stride."""
    sizes, far = caffe_sizes(x, kernel, stride, pad, down)
    least = torch.finfo(torch.float32).min
    x = F.pad(x, (pad[1], far[1], pad[0], far[0]), value=least)
    return F.max_pool2d(x, kernel, stride)[:, :, : sizes[0], : sizes[1]]


def average_pool(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    down: bool = False,
) -> Tensor:
    """Average pooling with Caffe's sizes: over the window within the padded map."""
    sizes, far = caffe_sizes(x, kernel, stride, pad, down)
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
    down: bool = False,
) -> tuple[list[int], list[int]]:
    """Height and width after pooling, and the padding behind the map that they need."""
    sizes, far = [], []
    for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        out = (size + 2 * p - k + (0 if down else s - 1)) // s + 1
        if any(pad) and (out - 1) * s >= size + p:
            out -= 1  # a window that would start in the padding
        sizes.append(out)
        far.append(max(0, (out - 1) * s + k - p - size))
    return sizes, far


def max_unpool(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros but for `x`, each value at the place that its pooling took it from."""
    top = x.new_zeros(*x.shape[:2], size[0] * size[1])
    places = places.detach().flatten(2).long()
    return top.scatter(2, places, x.flatten(2)).unflatten(2, size)


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


class ScaleOver(nn.Module):
    """A learned factor over some axes, with `behind` others behind them; and a term."""

    def __init__(self, shape: tuple[int, ...], behind: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None
        self.shape = (*shape, *[1] * behind)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight.view(self.shape)
        return x if self.bias is None else x + self.bias.view(self.shape)


class BiasOver(nn.Module):
    """A learned term over some axes, with `behind` others behind them."""

    def __init__(self, shape: tuple[int, ...], behind: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))
        self.shape = (*shape, *[1] * behind)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(self.shape)


class EmbedWithBias(nn.Module):
    """A learned row for each index, plus a learned term."""

    def __init__(self, rows: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x.detach().long(), self.weight) + self.bias


class AlwaysDropout(nn.Dropout):
    """Drops in evaluation too: SegNet's `sample_weights_test`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Normalises by stored statistics in training too: Caffe's `use_global_stats`."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


class Normalize(nn.Module):
    """Divides by the length along `axes`, then multiplies by a learned factor."""

    def __init__(self, channels: int, axes: tuple[int, ...] = (1,), eps: float = 1e-10):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.axes, self.eps = axes, eps

    def forward(self, x: Tensor) -> Tensor:
        length = (x.square().sum(self.axes, keepdim=True) + self.eps).sqrt()
        return x / length * self.weight.view(-1, *[1] * (x.ndim - 2))


class Learned(nn.Module):
    """A blob that is learned itself."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self) -> Tensor:
        return self.weight


def pad(x: Tensor, near: int, far: int) -> Tensor:
    """Zeros around a map, or less of it."""
    return F.pad(x, (near, far, near, far))


def reorg(x: Tensor, stride: int) -> Tensor:
    """Darknet's: the values read as fewer channels, and the blocks of those made channels."""
    n, channels, height, width = x.shape
    parts = x.reshape(n, -1, height, stride, width, stride).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, channels * stride**2, height // stride, width // stride)


def reorg_back(x: Tensor, stride: int) -> Tensor:
    """The inverse of Darknet's reorg."""
    n, channels, height, width = x.shape
    parts = x.reshape(n, stride, stride, -1, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, channels // stride**2, height * stride, width * stride)


def top_places(x: Tensor, count: int, values: bool) -> Tensor:
    """Places of each image's largest values, of equal ones the last first; and the values."""
    rows = x.detach().reshape(len(x), -1).flip(1)
    largest, order = rows.sort(dim=1, descending=True, stable=True)
    places = (rows.shape[1] - 1 - order[:, :count]).to(x.dtype)
    if values:
        return torch.stack([places, largest[:, :count]], 1)
    return places[:, None]


def top_along(x: Tensor, axis: int, count: int, values: bool) -> Tensor:
    """Places, or values, of the largest along an axis; of equal ones the last is first."""
    largest, order = x.detach().flip(axis).sort(dim=axis, descending=True, stable=True)
    found = largest if values else (x.shape[axis] - 1 - order).to(x.dtype)
    return found.narrow(axis, 0, count)


def places_of_max(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Max pooling with Caffe's sizes, and where in the map each value was."""
    _, far = caffe_sizes(x, kernel, stride, pad)
    least = torch.finfo(torch.float32).min
    padded = F.pad(x, (pad[1], far[1], pad[0], far[0]), value=least)
    top, index = F.max_pool2d(padded, kernel, stride, return_indices=True)
    rows = index // padded.shape[3] - pad[0]
    columns = index % padded.shape[3] - pad[1]
    return top, (rows * x.shape[3] + columns).to(x.dtype)


def unpool(
    x: Tensor,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """Each value spread over its window in equal parts, and the windows summed."""
    spans = []
    for count, n, k, s in zip(x.shape[2:], size, kernel, stride, strict=True):
        place = torch.arange(n, device=x.device)[:, None]
        start = torch.arange(count, device=x.device) * s
        spans.append(((place >= start) & (place < start + k)).to(x.dtype))
    rows, columns = spans
    return rows @ (x / (rows.sum(0)[:, None] * columns.sum(0))) @ columns.T


def distances(x: Tensor, centres: Tensor, axis: int) -> Tensor:
    """The squared distance of each item to each centre."""
    return (x.flatten(axis)[..., None, :] - centres.flatten(1)).square().sum(-1)


def resize_mask(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resizing: place i comes from i * size / new size."""
    ways = []
    for size, out in zip(x.shape[2:], (height, width), strict=True):
        place = torch.arange(out, device=x.device)[:, None] * (size / out)
        near = (place.clamp(max=size - 1) - torch.arange(size, device=x.device)).abs()
        ways.append((1 - near).clamp(min=0).masked_fill(place > size - 0.5, 0))
    return ways[0] @ (x @ ways[1].T)


def greedy_labels(scores: Tensor, blank: int, merge: bool) -> Tensor:
    """Each stream's best labels without blanks and repetitions, -1 behind the last."""
    steps, streams = scores.shape[:2]
    rows = scores.new_full((streams, steps, 1, 1), -1)
    for row, best in zip(rows, scores.detach().flatten(2).argmax(2).T, strict=True):
        found = best.unique_consecutive() if merge else best
        found = found[found != blank]
        row[: len(found), 0, 0] = found.to(row)
    return rows


def total(x: Tensor, *others: Tensor) -> Tensor:
    """The sum of several."""
    for y in others:
        x = x + y
    return x


def largest(x: Tensor, *others: Tensor) -> Tensor:
    """The largest of several, place by place."""
    for y in others:
        x = torch.where(x > y, x, y)
    return x


def bias_labelled(
    scores: Tensor,
    labels: Tensor,
    background: float,
    others: float,
    ignored: tuple[int, ...],
) -> Tensor:
    """The scores, with a bias on the classes that an image's labels name; 0 is background."""
    numbers = labels.detach().long().flatten(1)
    biases = scores.new_zeros(scores.shape[:2])
    for row, each in zip(biases, numbers, strict=True):
        for number in each[each >= 0].tolist():
            if number not in ignored:
                row[number] += others if number else background
    return scores + biases[:, :, None, None]


def bias_pixels(
    scores: Tensor,
    labels: Tensor,
    others: float,
    ignored: tuple[int, ...],
    background: tuple[int, float] | None = None,
) -> Tensor:
    """The scores, with a bias on each pixel's label, and on the background everywhere."""
    numbers = labels.detach().long().flatten(1)
    counted = torch.ones_like(numbers, dtype=torch.bool)
    for label in (-1, *ignored):
        counted &= numbers != label
    bias = scores.new_zeros(scores.flatten(2).shape)
    if background is not None:
        image, place = counted.nonzero(as_tuple=True)
        bias[image, background[0], place] = background[1]
        counted &= numbers != background[0]
    image, place = counted.nonzero(as_tuple=True)
    bias[image, numbers[counted], place] = others
    return scores + bias.reshape(scores.shape)
