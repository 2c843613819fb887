"""State dicts in PyTorch's terms load into what torchvision defines, and compute what Caffe's net does."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.test_translate import RESNET, bottleneck, conv, conv_bn, data, fc, pool, relu
from port.net import CaffeNet
from prototxt.errors import InputError
from prototxt.read import parse_net
from weights import LayerWeights, read_weights, write_weights
from weights.convert import convert, convert_command
from weights.torch_names import torch_state

_SIZES = ((4, 4), (6, 6), (8, 8, 8), (10, 10, 10), (10, 10, 10))


def vgg_text() -> str:
    text, last = data(1, 3, 32, 32), "data"
    for i, stage in enumerate(_SIZES, 1):
        for j, outputs in enumerate(stage, 1):
            text += conv(f"conv{i}_{j}", last, outputs, 3, "pad: 1") + relu(f"conv{i}_{j}")
            last = f"conv{i}_{j}"
        text += pool(f"pool{i}", last, "kernel_size: 2 stride: 2")
        last = f"pool{i}"
    return text + fc("fc6", last, 12) + relu("fc6") + fc("fc7", "fc6", 12) + relu("fc7") + fc("fc8", "fc7", 5)


class Vgg(nn.Module):
    """As torchvision lays VGG-16 out, with other widths."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in _SIZES:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(10, 12),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(12, 12),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Block(nn.Module):
    """torchvision's Bottleneck, the stride where He has it."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride or 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    """As torchvision lays ResNets out, one or two blocks to a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 4, 16, 1), Block(16, 4, 16))
        self.layer2 = nn.Sequential(Block(16, 6, 24, 2))
        self.layer3 = nn.Sequential(Block(24, 6, 24, 2))
        self.layer4 = nn.Sequential(Block(24, 8, 32, 2))
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet_text() -> str:
    """He's names: bn2a_branch1 beside res2a_branch1; the first convolution has a bias."""
    text = conv_bn("conv1", "data", 8, 7, "stride: 2 pad: 3").replace(
        "bias_term: false", "bias_filler { value: 3 }", 1
    )
    text += relu("conv1") + pool("pool1", "conv1", "kernel_size: 3 stride: 2")
    text += bottleneck("2a", "pool1", 4, 16, 1) + bottleneck("2b", "res2a", 4, 16)
    text += bottleneck("3a", "res2b", 6, 24, 2) + bottleneck("4a", "res3a", 6, 24, 2)
    text += bottleneck("5a", "res4a", 8, 32, 2) + pool("pool5", "res5a", "pool: AVE global_pooling: true")
    text = text.replace('"conv1/bn"', '"bn_conv1"').replace('"conv1/scale"', '"scale_conv1"')
    for branch in ("1", "2a", "2b", "2c"):
        for block in ("2a", "2b", "3a", "4a", "5a"):
            text = text.replace(f'"res{block}_branch{branch}/bn"', f'"bn{block}_branch{branch}"')
            text = text.replace(f'"res{block}_branch{branch}/scale"', f'"scale{block}_branch{branch}"')
    return data(2, 3, 65, 65) + text + fc("fc1000", "pool5", 5)


def filled(text: str) -> CaffeNet:
    net = CaffeNet(parse_net(text))
    generator = torch.Generator().manual_seed(2)
    for layer in net.layers:
        if layer.plan.type == "BatchNorm":
            for blob, (low, high) in zip(layer.blobs, ((-1, 1), (1, 3), (2, 2)), strict=True):
                blob.uniform_(low, high, generator=generator)
    return net


@pytest.mark.parametrize(
    ("text", "model"), [(vgg_text(), Vgg()), (resnet_text(), ResNet())], ids=["vgg", "resnet"]
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_torchvisions_definition_takes_them(text: str, model: nn.Module, suffix: str, tmp_path: Path) -> None:
    net = filled(text)
    net.save(tmp_path / "net.caffemodel")
    convert(tmp_path / "net.caffemodel", tmp_path / f"net.{suffix}", progress=False, names="torch")
    if suffix == "pth":
        state = torch.load(tmp_path / "net.pth", weights_only=True)
    elif suffix == "npz":
        state = {key: torch.from_numpy(value) for key, value in np.load(tmp_path / "net.npz").items()}
    else:
        from safetensors.torch import load_file

        state = load_file(tmp_path / "net.safetensors")
    model.load_state_dict(state)
    model.eval()
    x = torch.randn(net.blob_shapes["data"], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (due,) = net(x).values()
        assert (model(x) - due).abs().max() <= 1e-5 * due.abs().max()


def test_other_nets_keep_their_names() -> None:
    state = torch_state(filled(RESNET).layer_weights())
    assert {
        "conv1.weight",
        "conv1/bn.running_mean",
        "conv1/bn.weight",
        "res2a_branch1/bn.running_var",
    } <= state.keys()
    assert not any("scale" in key for key in state)
    lone = torch_state([LayerWeights("s", "Scale", [np.ones(2, np.float32), np.zeros(2, np.float32)])])
    assert lone.keys() == {"s.weight", "s.bias"}


def test_googlenet_keeps_its_names_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("conv1/7x7_s2", "inception_3a/5x5", "inception_5b/5x5", "loss3/classifier")
    layers = [LayerWeights(name, "Convolution", [np.ones((2, 3, 5, 5), np.float32)]) for name in names]
    write_weights(tmp_path / "net.caffemodel", layers)
    convert_command(tmp_path / "net.caffemodel", tmp_path / "net.npz", names="torch")
    assert "torchvision's GoogLeNet is another network" in capsys.readouterr().out
    assert set(np.load(tmp_path / "net.npz")) == {f"{name}.weight" for name in names}


@pytest.mark.parametrize("suffix", ["npz", "mat"])
def test_arrays_come_back(suffix: str, tmp_path: Path) -> None:
    blobs = [np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1), np.array([1.5], np.float32)]
    layers = [
        LayerWeights("conv/1.a", "Convolution", blobs),
        LayerWeights(
            "bn", "BatchNorm", [np.ones(1, np.float32), np.ones(1, np.float32), np.ones(1, np.float32)]
        ),
        LayerWeights("p", "PReLU", [np.array(0.25, np.float32)]),
    ]
    write_weights(tmp_path / f"w.{suffix}", layers)
    for old, new in zip(layers, read_weights(tmp_path / f"w.{suffix}"), strict=True):
        assert old.name == new.name
        assert all(
            np.array_equal(a, b) and a.shape == b.shape for a, b in zip(old.blobs, new.blobs, strict=True)
        )


@pytest.mark.parametrize("suffix", ["npz", "mat"])
def test_a_file_that_is_none(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(b"not what it says")
    with pytest.raises(InputError, match=str(path)):
        read_weights(path)


def test_formats_that_hold_no_names_of_pytorch(tmp_path: Path) -> None:
    filled(RESNET).save(tmp_path / "net.caffemodel")
    with pytest.raises(InputError, match=r"\.safetensors, \.pth or \.npz"):
        convert(tmp_path / "net.caffemodel", tmp_path / "net.h5", names="torch")
    with pytest.raises(InputError, match="--names"):
        convert(tmp_path / "net.caffemodel", tmp_path / "net.pth", names="tf")
