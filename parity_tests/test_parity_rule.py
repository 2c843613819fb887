"""The rule of `seenet parity`: no alarm for nets that are right, and every planted fault is found.

`python -m parity_tests.test_parity_rule` prints the tables of docs/parity.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity_tests.compare.report import CAFFE_NET, NET, ParityReport
from parity_tests.compare.run import compare
from port.layer import LAYERS
from prototxt.layers.windows import pooled_sizes, pooling_window

Patch = Callable[[pytest.MonkeyPatch], None]


def layer(
    name: str, type_: str, settings: str = "", bottoms: Sequence[str] = ("data",), top: str = ""
) -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{type_}" {reads} top: "{top or name}" {settings} }}\n'


def input_of(*shape: int, name: str = "data") -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "in {name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


MAP = input_of(2, 6, 11, 13)


# ---- faults, planted in the port's layers


def forward(type_: str, fault: Callable[..., Tensor | tuple[Tensor, ...]]) -> Patch:
    """`fault(layer, right, *bottoms)` in place of a layer type's forward; `right` is the right one."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        right = LAYERS[type_].forward
        monkeypatch.setattr(LAYERS[type_], "forward", lambda self, *x: fault(self, right, *x))

    return plant


def settings(type_: str, change: Callable[..., None]) -> Patch:
    """`change(layer)` after a layer type's set-up."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        right = LAYERS[type_].set_up

        def set_up(self) -> None:
            right(self)
            change(self)

        monkeypatch.setattr(LAYERS[type_], "set_up", set_up)

    return plant


def top_changed(type_: str, change: Callable[[Tensor], Tensor]) -> Patch:
    return forward(type_, lambda self, right, *x: _first(right(self, *x), change))


def bottom_changed(type_: str, change: Callable[[Tensor], Tensor]) -> Patch:
    return forward(type_, lambda self, right, x: right(self, change(x)))


def weight_changed(type_: str, index: int, change: Callable[[Tensor], Tensor]) -> Patch:
    """The layer computes with another weight than it holds."""

    def fault(self, right: Callable, *x: Tensor) -> Tensor:
        weight = self.owned[index]
        kept = weight.data.clone()
        weight.data.copy_(change(kept))
        try:
            return right(self, *x)
        finally:
            weight.data.copy_(kept)

    return forward(type_, fault)


def _first(tops: Tensor | tuple[Tensor, ...], change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    first, *others = (tops,) if isinstance(tops, Tensor) else tops
    return change(first), *others


def cut(bits: int) -> Callable[[Tensor], Tensor]:
    """Values without the last `bits` of float32's 23."""
    return lambda x: (x.detach().clone().view(torch.int32) & -(1 << bits)).view(torch.float32)


def _floor_pool(self, right: Callable, x: Tensor) -> Tensor:
    param = self.param.pooling_param
    return F.max_pool2d(x, param.kernel_size, param.stride, param.pad)


def _average_without_padding(self, right: Callable, x: Tensor) -> Tensor:
    param = self.param.pooling_param
    shape = pooled_sizes(param, pooling_window(param, *x.shape[2:]), x.shape[2:])
    top = F.avg_pool2d(x, param.kernel_size, param.stride, param.pad, ceil_mode=True, count_include_pad=False)
    assert top.shape[2:] == tuple(shape)
    return top


def _padded_with(mode: str) -> Callable[..., Tensor]:
    def fault(self, right: Callable, x: Tensor) -> Tensor:
        (pad, _) = self.window.pad
        weight, bias = self.blobs
        return F.conv2d(F.pad(x, (pad,) * 4, mode=mode), weight, bias)

    return fault


def _without_eps(self, right: Callable, x: Tensor) -> Tensor:
    means, variances, count = self.blobs
    axes = (1, -1, 1, 1)
    return (x - (means / count).view(axes)) / (variances / count).view(axes).sqrt()


def _mvn_without_eps(self, right: Callable, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) / variance.sqrt()


def _swapped(self) -> None:
    self.window = replace(self.window, stride=self.window.stride[::-1])


def _scaled_message(field: str, name: str, value: float) -> Callable[..., None]:
    return lambda self: setattr(getattr(self.param, field), name, value)


CONV = layer("conv", "Convolution", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }")
IP = layer("ip", "InnerProduct", "inner_product_param { num_output: 48 }")
SQUARE = input_of(5, 48) + IP
NORM = layer("norm", "BatchNorm")
AVE = layer("ave", "Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")
MAX = layer("max", "Pooling", "pooling_param { kernel_size: 3 stride: 2 }")
TIMES = input_of(5, 2, 6) + input_of(5, 2, name="cont")
LSTM = TIMES + layer(
    "lstm", "LSTM", "recurrent_param { num_output: 4 weight_filler { type: 'xavier' } }", ("data", "cont")
)
STRIDES = "convolution_param { num_output: 4 kernel_size: 3 stride_h: 2 stride_w: 1 }"

FAULTS: dict[str, tuple[str, Patch]] = {
    "stride swapped": (MAP + layer("conv", "Convolution", STRIDES), settings("Convolution", _swapped)),
    "bias dropped": (MAP + CONV, weight_changed("Convolution", 1, torch.zeros_like)),
    "bias dropped in one channel": (
        MAP + CONV, weight_changed("Convolution", 1, lambda b: torch.cat([b[:3], 0 * b[3:4], b[4:]])),
    ),
    "bias dropped, InnerProduct": (SQUARE, weight_changed("InnerProduct", 1, torch.zeros_like)),
    "one weight off by 0.1%": (
        MAP + CONV, weight_changed("Convolution", 0, lambda w: w * (1 + 1e-3 * (torch.arange(w.numel()) == 77).view(w.shape))),
    ),
    "kernel transposed": (MAP + CONV, weight_changed("Convolution", 0, lambda w: w.transpose(2, 3))),
    "kernel flipped": (MAP + CONV, weight_changed("Convolution", 0, lambda w: w.flip(2, 3))),
    "weight transposed": (SQUARE, weight_changed("InnerProduct", 0, torch.t)),
    "channels in RGB order": (
        input_of(1, 3, 9, 9) + CONV, bottom_changed("Convolution", lambda x: x.flip(1)),
    ),
    "groups swapped": (
        MAP + layer("conv", "Convolution", "convolution_param { num_output: 8 kernel_size: 3 group: 2 }"),
        weight_changed("Convolution", 0, lambda w: w.roll(4, 0)),
    ),
    "padding repeats the border": (MAP + CONV, forward("Convolution", _padded_with("replicate"))),
    "padding mirrors the border": (MAP + CONV, forward("Convolution", _padded_with("reflect"))),
    "padding on one side": (
        MAP + CONV, bottom_changed("Convolution", lambda x: F.pad(x, (1, -1, 0, 0))),
    ),
    "floor for ceil": (
        input_of(1, 3, 8, 8) + MAX, forward("Pooling", _floor_pool),
    ),
    "average without its padding": (MAP + AVE, forward("Pooling", _average_without_padding)),
    "padding counts as 0 in MAX": (
        MAP + layer("low", "Power", "power_param { shift: -300 }")
        + layer("max", "Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", ("low",)),
        forward("Pooling", lambda self, right, x: right(self, x).clamp(min=-400).where(x.new_zeros(1) > 1, F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2, ceil_mode=True)[:, :, :6, :7])),
    ),
    "AVE for MAX": (MAP + MAX, forward("Pooling", lambda self, right, x: F.avg_pool2d(x, 3, 2, ceil_mode=True))),
    "slope left out": (
        MAP + layer("relu", "ReLU", "relu_param { negative_slope: 0.01 }"),
        forward("ReLU", lambda self, right, x: F.relu(x)),
    ),
    "slope of 0.01001 for 0.01": (
        MAP + layer("relu", "ReLU", "relu_param { negative_slope: 0.01 }"),
        forward("ReLU", lambda self, right, x: F.leaky_relu(x, 0.01001)),
    ),
    "one slope for all channels": (
        MAP + layer("prelu", "PReLU"), weight_changed("PReLU", 0, lambda w: w[:1].expand_as(w).clone()),
    ),
    "ELU's alpha": (
        MAP + layer("elu", "ELU", "elu_param { alpha: 0.7 }"), forward("ELU", lambda self, right, x: F.elu(x)),
    ),
    "BatchNorm's eps left out": (MAP + NORM, forward("BatchNorm", _without_eps)),
    "BatchNorm's eps left out, variance about 10": (
        MAP + NORM, forward("BatchNorm", lambda self, right, x: right(self, x) * (1 + 0.5e-6)),
    ),
    "MVN's eps left out, small values": (
        MAP + layer("small", "Power", "power_param { scale: 1e-6 }") + layer("mvn", "MVN", "", ("small",)),
        forward("MVN", _mvn_without_eps),
    ),
    "LRN's alpha not divided": (
        MAP + layer("lrn", "LRN", "lrn_param { local_size: 5 alpha: 0.0001 }"),
        settings("LRN", lambda self: setattr(self, "param", _copy(self.param, "lrn_param", "alpha", 0.0005))),
    ),
    "LRN's k left out": (
        MAP + layer("lrn", "LRN", "lrn_param { local_size: 5 alpha: 0.0001 k: 2 }"),
        settings("LRN", lambda self: setattr(self, "param", _copy(self.param, "lrn_param", "k", 1))),
    ),
    "Scale's bias dropped": (
        MAP + layer("scale", "Scale", "scale_param { bias_term: true }"), weight_changed("Scale", 1, torch.zeros_like),
    ),
    "Dropout scales in TEST": (MAP + layer("drop", "Dropout"), top_changed("Dropout", lambda x: x * 0.5)),
    "coeff ignored": (
        MAP + layer("sum", "Eltwise", "eltwise_param { coeff: 1 coeff: 0.999 }", ("data", "data")),
        forward("Eltwise", lambda self, right, a, b: a + b),
    ),
    "Concat's order": (
        MAP + layer("half", "Power", "power_param { scale: 0.5 }") + layer("cat", "Concat", "", ("data", "half")),
        forward("Concat", lambda self, right, a, b: torch.cat([b, a], 1)),
    ),
    "Softmax over another axis": (
        input_of(4, 4) + layer("prob", "Softmax"), forward("Softmax", lambda self, right, x: torch.softmax(x, 0)),
    ),
    "sigmoid from a table": (
        MAP + layer("small", "Power", "power_param { scale: 0.02 }") + layer("prob", "Sigmoid", "", ("small",)),
        bottom_changed("Sigmoid", lambda x: (x * 4096).round() / 4096),
    ),
    "kernel flipped, Deconvolution": (
        MAP + layer("up", "Deconvolution", "convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 }"),
        weight_changed("Deconvolution", 0, lambda w: w.flip(2, 3)),
    ),
    "cont ignored": (LSTM, forward("LSTM", lambda self, right, x, cont: right(self, x, torch.ones_like(cont)))),
    "Power's shift dropped": (
        MAP + layer("power", "Power", "power_param { scale: 0.5 shift: 0.001 }"),
        forward("Power", lambda self, right, x: x * 0.5),
    ),
    "TensorFloat-32, Convolution": (MAP + CONV, bottom_changed("Convolution", cut(13))),
    "TensorFloat-32, InnerProduct": (SQUARE, bottom_changed("InnerProduct", cut(13))),
    "bottoms cut to 17 bits, Convolution": (MAP + CONV, bottom_changed("Convolution", cut(6))),
    "tops cut to 19 bits, Convolution": (MAP + CONV, top_changed("Convolution", cut(4))),
    "all values 2e-6 too large, Convolution": (MAP + CONV, top_changed("Convolution", lambda x: x * (1 + 2e-6))),
    "all values 2e-6 too large, InnerProduct": (SQUARE, top_changed("InnerProduct", lambda x: x * (1 + 2e-6))),
    "all values 1e-6 too large, ReLU": (MAP + layer("relu", "ReLU"), top_changed("ReLU", lambda x: x * (1 + 1e-6))),
    "one value 5e-6 of the maximum off, Convolution": (
        MAP + CONV, top_changed("Convolution", lambda x: x + 5e-6 * x.abs().max() * (torch.arange(x.numel()) == 99).view(x.shape)),
    ),
}  # fmt: skip


def _copy(message, field: str, name: str, value: float):
    copied = type(message)()
    copied.CopyFrom(message)
    setattr(getattr(copied, field), name, value)
    return copied


def judged(text: str, folder: Path, seed: int = 0) -> ParityReport:
    path = folder / "net.prototxt"
    path.write_text(text)
    return compare(path, engines=["port"], seed=seed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without it, the same net is within."""
    text, plant = FAULTS[fault]
    assert judged(text, tmp_path).within
    plant(monkeypatch)
    report = judged(text, tmp_path)
    (port,) = report.engines
    assert port.out and port.out[0].out == [NET, CAFFE_NET], report.notes
