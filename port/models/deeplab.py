"""DeepLab-LargeFOV, the segmentation net that proxy labels train, on VGG-16 and on ResNet-101."""

import os
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from port.copying import copy_by_name
from port.layers.interp import resize_bilinear
from port.models.seenet import TRUNK
from prototxt.errors import InputError
from weights import LayerWeights, check_finite, read_weights

BACKBONES = ("vgg16", "resnet101")

ZOOM = 8
"""What the scores are enlarged by: a map of n comes out as (n - 1) · 8 + 1."""

UNITS = {
    "2": ("a", "b", "c"),
    "3": ("a", *(f"b{i}" for i in range(1, 4))),
    "4": ("a", *(f"b{i}" for i in range(1, 23))),
    "5": ("a", "b", "c"),
}
"""ResNet-101's bottleneck units by block, as the released caffemodels name them."""


class DeepLabLargeFOV(nn.Module):
    """DeepLab-LargeFOV as the SeeNet group released it with OAA ([O]).

    The state dict's keys are Caffe's layer names: `conv1_1.weight` … `fc7.bias`, `score.bias`; on ResNet-101
    `bn2a_branch1.mean`, `.variance`, `.factor`, `scale2a_branch1.weight`, … Works on batches, any size from
    1×1, CPU and CUDA, under autograd.

    Training mode differs from evaluation by VGG-16's dropout only. ResNet-101's statistics and scales are
    what a file gave: [O] never updates them, and neither does an optimiser here.

    Args:
        backbone: "vgg16" or "resnet101".
        num_classes: channels of the score maps, the background's included.
        width: channels of the first convolution; all others are in proportion. 64 is as published.
        dropout: after fc6 and fc7, on VGG-16, in training mode.

    Raises:
        InputError: another backbone.
    """

    def __init__(
        self, backbone: str = "vgg16", num_classes: int = 21, *, width: int = 64, dropout: float = 0.5
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise InputError(f'backbone "{backbone}": must be one of {", ".join(BACKBONES)}')
        self.backbone, self.num_classes, self.dropout = backbone, num_classes, dropout
        if backbone == "vgg16":
            self._add_vgg16(width)
        else:
            self._add_resnet101(width)
        self.score = nn.Conv2d(16 * width, num_classes, 1)
        self._initialise()

    def forward(self, data: Tensor) -> Tensor:
        """
        Args:
            data: (num, 3, height, width), BGR minus the mean (104.008, 116.669, 122.675).

        Returns:
            The blob upscore, before any softmax: (num, classes, rows, columns). Rows and columns are 1 more
            than multiples of 8; where height and width are that too, they are the same, and otherwise Caffe's
            roundings add up: pad the data. [O]'s loss is `F.cross_entropy(upscore, label, ignore_index=255)`.
        """
        score = self.score(self.features(data))
        return resize_bilinear(score, *((size - 1) * ZOOM + 1 for size in score.shape[2:]))

    def features(self, data: Tensor) -> Tensor:
        """What the scores are read from, at an eighth of the size: fc7, or pyram_conv2."""
        return self._vgg16(data) if self.backbone == "vgg16" else self._resnet101(data)

    @classmethod
    def from_caffemodel(cls, path: str | os.PathLike, **settings: object) -> "DeepLabLargeFOV":
        """The net with the weights of a file in any format that `weights` reads, in evaluation mode.

        Backbone, classes and width are read off the file; `settings` are the constructor's others.

        Raises:
            InputError: an unreadable file, NaN or infinite weights, or layers of the net that it lacks.
        """
        where = os.fspath(path)
        source = read_weights(path)
        check_finite(source, where)
        shapes = {layer.name: layer.blobs[0].shape for layer in source if layer.blobs}
        backbone = "vgg16" if "conv1_1" in shapes else "resnet101"
        first = "conv1_1" if backbone == "vgg16" else "conv1"
        with torch.device("meta"):
            needed = dict(cls(backbone, width=1).named_children())
        missing = [name for name in needed if name not in shapes]
        if missing:
            some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            raise InputError(
                f"{where}: not the weights of DeepLab-LargeFOV on {backbone}: {some} missing. To start a training "
                "from a classifier's weights, use load_trunk"
            )
        model = cls(backbone, shapes["score"][0], width=shapes[first][0], **settings)
        model.copy_weights(source, where)
        return model.eval()

    def load_trunk(self, path: str | os.PathLike) -> list[str]:
        """Start from a classifier: copy the backbone's layers, by name, and nothing above it.

        Unlike Caffe, which refuses a file whose fc6 has another shape, this takes VGG-16 as it was released.

        Returns:
            The layers of the file that were not copied.

        Raises:
            InputError: an unreadable file, a shape that differs, or a layer of the backbone that it lacks.
        """
        where = os.fspath(path)
        source = read_weights(path)
        trunk = [name for name, _ in self.named_children() if name not in self._new_layers]
        missing = sorted(set(trunk) - {layer.name for layer in source})
        if missing:
            raise InputError(f"{where}: not {self.backbone}'s weights: {missing[0]} is missing")
        self.copy_weights([layer for layer in source if layer.name in trunk], where)
        return [layer.name for layer in source if layer.name not in trunk]

    def copy_weights(self, source: list[LayerWeights], where: str = "weights") -> list[str]:
        """Copy weights by layer name, as Caffe does. Returns the layers that the net lacks.

        Raises:
            InputError: a shape that differs.
        """
        blobs = {name: list(module.state_dict().values()) for name, module in self.named_children()}
        return copy_by_name(source, blobs, where)

    # ---- VGG-16

    def _add_vgg16(self, width: int) -> None:
        below = 3
        for names, times in zip(TRUNK, (1, 2, 4, 8, 8), strict=True):
            dilation = 2 if names[0] == "5_1" else 1
            for name in names:
                conv = nn.Conv2d(below, times * width, 3, padding=dilation, dilation=dilation)
                self.add_module(f"conv{name}", conv)
                below = times * width
        self.fc6 = nn.Conv2d(below, 16 * width, 3, padding=12, dilation=12)
        self.fc7 = nn.Conv2d(16 * width, 16 * width, 1)

    def _vgg16(self, x: Tensor) -> Tensor:
        for block, names in enumerate(TRUNK):
            for name in names:
                x = F.relu(getattr(self, f"conv{name}")(x), inplace=True)
            x = F.max_pool2d(x, 3, 2 if block < 3 else 1, padding=1, ceil_mode=True)
        x = F.avg_pool2d(x, 3, 1, padding=1)  # Caffe's divisor is 9 at the border too, and so is PyTorch's
        for conv in (self.fc6, self.fc7):
            x = F.dropout(F.relu(conv(x), inplace=True), self.dropout, self.training)
        return x

    # ---- ResNet-101

    def _add_resnet101(self, width: int) -> None:
        self._add_normalised("conv1", "_conv1", nn.Conv2d(3, width, 7, 2, padding=3, bias=False))
        below = width
        for block, units in UNITS.items():
            inner = width * 2 ** (int(block) - 2)
            dilation = {"4": 2, "5": 4}.get(block, 1)
            for unit in units:
                stride = 2 if block + unit == "3a" else 1
                convs = {
                    "branch2a": nn.Conv2d(below, inner, 1, stride, bias=False),
                    "branch2b": nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False),
                    "branch2c": nn.Conv2d(inner, 4 * inner, 1, bias=False),
                }
                if unit == "a":
                    convs = {"branch1": nn.Conv2d(below, 4 * inner, 1, stride, bias=False), **convs}
                for branch, conv in convs.items():
                    self._add_normalised(f"res{block}{unit}_{branch}", f"{block}{unit}_{branch}", conv)
                below = 4 * inner
        self.pyram_conv1 = nn.Conv2d(below, 16 * width, 3, padding=12, dilation=12, bias=False)
        self.pyram_conv2 = nn.Conv2d(16 * width, 16 * width, 1, bias=False)

    def _resnet101(self, data: Tensor) -> Tensor:
        x = F.relu(self._normalised("conv1", "_conv1", data), inplace=True)
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        for block, units in UNITS.items():
            for unit in units:
                x = self._bottleneck(block + unit, x)
        for conv in (self.pyram_conv1, self.pyram_conv2):
            x = F.relu(conv(x), inplace=True)
        return x

    def _bottleneck(self, unit: str, x: Tensor) -> Tensor:
        def branch(name: str, x: Tensor) -> Tensor:
            return self._normalised(f"res{unit}_{name}", f"{unit}_{name}", x)

        shortcut = branch("branch1", x) if unit.endswith("a") else x
        for name in ("branch2a", "branch2b"):
            x = F.relu(branch(name, x), inplace=True)
        return F.relu(shortcut + branch("branch2c", x), inplace=True)

    def _add_normalised(self, name: str, norm: str, conv: nn.Conv2d) -> None:
        self.add_module(name, conv)
        self.add_module(f"bn{norm}", BatchNorm(conv.out_channels))
        self.add_module(f"scale{norm}", Scale(conv.out_channels))

    def _normalised(self, name: str, norm: str, x: Tensor) -> Tensor:
        """Convolution, BatchNorm and Scale: the blob before its ReLU."""
        conv, statistics = getattr(self, name), getattr(self, f"bn{norm}")
        return getattr(self, f"scale{norm}")(conv(x), *statistics())

    # ---- First values

    @property
    def _new_layers(self) -> Iterable[str]:
        return (
            ("fc6", "fc7", "score") if self.backbone == "vgg16" else ("pyram_conv1", "pyram_conv2", "score")
        )

    def _initialise(self) -> None:
        """[O]'s fillers for the new layers. The trunk is meant to be loaded; until then, He's rule."""
        for name, module in self.named_children():
            if not isinstance(module, nn.Conv2d):
                continue
            if name.startswith("pyram"):
                bound = (3 / module.weight[0].numel()) ** 0.5  # Caffe's xavier
                nn.init.uniform_(module.weight, -bound, bound)
            elif self.backbone == "vgg16" and name in self._new_layers:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class BatchNorm(nn.Module):
    """Caffe's three blobs: sums of means and of variances, and what to divide both by.

    Before a file is loaded they stand for mean 0 and variance 1.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("factor", torch.ones(1))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Mean and variance; where `factor` is 0, nothing was summed up, and they are 0."""
        share = torch.where(self.factor == 0, 0, 1 / self.factor)
        return self.mean * share, self.variance * share


class Scale(nn.Module):
    """Caffe's Scale with a bias, over what BatchNorm gives; frozen, as [O] trains it (lr_mult 0)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)

    def forward(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """(x - mean) / √(variance + 1e-5) · weight + bias, in one pass over x."""
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=1e-5)
