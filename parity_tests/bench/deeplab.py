"""What DeepLabLargeFOV costs: python -m parity_tests.bench.deeplab [--backbone resnet101] [--device cuda]

Inference at 513² beside the same layers written directly in PyTorch with the same weights, in turn, medians.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import port
from parity_tests.bench.timing import timed
from port.models.deeplab import BACKBONES, UNITS
from port.models.seenet import TRUNK

MOST = 1.1
"""What the module may cost, in direct passes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", choices=BACKBONES, default="vgg16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = port.DeepLabLargeFOV(options.backbone).eval().to(options.device)
    with torch.no_grad():
        model.score.bias.fill_(1)  # what is compared is then not all but 0
        for module in model.children():
            if isinstance(module, port.models.deeplab.Scale):
                module.weight.fill_(0.5)  # without statistics from a file, activations grow from unit to unit
    direct = (direct_vgg16 if options.backbone == "vgg16" else direct_resnet101)(model).eval()
    data = 60 * torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    nets = {"DeepLabLargeFOV": model, "directly": direct}
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    with torch.inference_mode():
        ours, theirs = model(data), direct(data)
        print(
            f"largest difference: {float((ours - theirs).abs().max() / theirs.abs().max()):.1e} of the largest score"
        )
        for _ in range(options.turns):
            for name, net in nets.items():
                seconds[name].append(timed(lambda net=net: net(data), options.device))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(f"{options.backbone}, {tuple(data.shape)} on {options.device}, {torch.get_num_threads()} threads")
    print("; ".join(f"{name}: {median:.3f} s" for name, median in medians.items()))
    print(f"ratio: {medians['DeepLabLargeFOV'] / medians['directly']:.3f} (must be at most {MOST})")


class Residual(nn.Module):
    """A bottleneck as torchvision has it, normalised by nn.BatchNorm2d."""

    def __init__(self, shortcut: nn.Module, *layers: nn.Module):
        super().__init__()
        self.shortcut, self.layers = shortcut, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.layers(x) + self.shortcut(x))


class Enlarged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        height, width = ((size - 1) * 8 + 1 for size in x.shape[2:])
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def direct_vgg16(model: port.DeepLabLargeFOV) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block, names in enumerate(TRUNK):
        for name in names:
            layers += [model.get_submodule(f"conv{name}"), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2 if block < 3 else 1, 1, ceil_mode=True))
    layers.append(nn.AvgPool2d(3, 1, 1))
    for conv in (model.fc6, model.fc7):
        layers += [conv, nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, model.score, Enlarged())


def direct_resnet101(model: port.DeepLabLargeFOV) -> nn.Sequential:
    layers = [
        *normalised(model, "conv1", "_conv1"),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    ]
    for block, units in UNITS.items():
        for unit in units:
            first, second, third, *shortcut = (
                normalised(model, f"res{block}{unit}_{branch}", f"{block}{unit}_{branch}")
                for branch in ("branch2a", "branch2b", "branch2c", "branch1")[: 4 if unit == "a" else 3]
            )
            relus = (nn.ReLU(inplace=True), nn.ReLU(inplace=True))
            path = nn.Sequential(*shortcut[0]) if shortcut else nn.Identity()
            layers.append(Residual(path, *first, relus[0], *second, relus[1], *third))
    for conv in (model.pyram_conv1, model.pyram_conv2):
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, model.score, Enlarged())


def normalised(model: port.DeepLabLargeFOV, name: str, norm: str) -> tuple[nn.Module, nn.Module]:
    conv, scale = model.get_submodule(name), model.get_submodule(f"scale{norm}")
    batch_norm = nn.BatchNorm2d(conv.out_channels, eps=1e-5).to(conv.weight.device)
    batch_norm.running_mean, batch_norm.running_var = model.get_submodule(f"bn{norm}")()
    batch_norm.weight, batch_norm.bias = scale.weight, scale.bias
    return conv, batch_norm


if __name__ == "__main__":
    main()
