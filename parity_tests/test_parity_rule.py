"""The rule of `seenet parity`: no alarm for nets that are right, and every planted fault is found.

`python -m parity_tests.test_parity_rule` prints the tables of docs/parity.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import port.pycaffe
from parity_tests.compare import run as run_module
from parity_tests.compare.inputs import fill_weights
from parity_tests.compare.report import CAFFE_NET, NET, ParityReport, verdict
from parity_tests.compare.rule import Errors, chain_error
from parity_tests.compare.run import compare
from port.blobs import Blobs
from port.layer import LAYERS
from port.net import CaffeNet
from port.net_inputs import published_inputs
from prototxt.layers.windows import pooled_sizes, pooling_window
from prototxt.plan import LayerPlan
from runtime import TEST
from weights import LayerWeights
from weights.rebuilt import rebuilt_weights

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


def _at(place: int, like: Tensor) -> Tensor:
    """1 at one place, 0 elsewhere."""
    return (torch.arange(like.numel()) == place).to(like).view(like.shape)


def cut(bits: int) -> Callable[[Tensor], Tensor]:
    """Values without the last `bits` of float32's 23."""
    return lambda x: (x.detach().clone().view(torch.int32) & -(1 << bits)).view(torch.float32)


def _floor_pool(self, right: Callable, x: Tensor) -> Tensor:
    param = self.param.pooling_param
    return F.max_pool2d(x, param.kernel_size, param.stride, param.pad)


def _zero_padded_max(self, right: Callable, x: Tensor) -> Tensor:
    rows, columns = right(self, x).shape[2:]
    return F.max_pool2d(F.pad(x, (1,) * 4), 3, 2, ceil_mode=True)[:, :, :rows, :columns]


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
        MAP + CONV, weight_changed("Convolution", 0, lambda w: w * (1 + 1e-3 * _at(77, w))),
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
        MAP
        + layer("low", "Power", "power_param { shift: -300 }")
        + layer("max", "Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", ("low",)),
        forward("Pooling", _zero_padded_max),
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
    "BatchNorm's eps left out, variance about 5": (
        MAP + NORM, forward("BatchNorm", lambda self, right, x: right(self, x) * (1 + 1e-6)),
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
    "tops cut to 17 bits, Convolution": (MAP + CONV, top_changed("Convolution", cut(6))),
    "all values 2e-6 too large, Convolution": (MAP + CONV, top_changed("Convolution", lambda x: x * (1 + 2e-6))),
    "all values 2e-6 too large, InnerProduct": (SQUARE, top_changed("InnerProduct", lambda x: x * (1 + 2e-6))),
    "all values 1e-6 too large, ReLU": (MAP + layer("relu", "ReLU"), top_changed("ReLU", lambda x: x * (1 + 1e-6))),
    "one value 5e-6 of the maximum off, Convolution": (
        MAP + CONV, top_changed("Convolution", lambda x: x + 5e-6 * x.abs().max() * _at(99, x)),
    ),
}  # fmt: skip


def _copy(message, field: str, name: str, value: float):
    copied = type(message)()
    copied.CopyFrom(message)
    setattr(getattr(copied, field), name, value)
    return copied


def written(folder: Path, text: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


def judged(text: str, folder: Path, seed: int = 0) -> ParityReport:
    return compare(written(folder, text), engines=["port"], seed=seed)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without it, the same net is within."""
    text, plant = FAULTS[fault]
    assert judged(text, tmp_path).within
    plant(monkeypatch)
    report = judged(text, tmp_path)
    (port,) = report.engines
    assert port.out and port.out[0].out == [NET, CAFFE_NET], report.notes


# ---- a fault in CaffeNet alone


class Tampered(CaffeNet):
    """A CaffeNet with one layer, of type PReLU, that computes something else."""

    def __init__(self, *args: object, **settings: object):
        super().__init__(*args, **settings)
        (prelu,) = (x for x in self.layers if x.plan.type == "PReLU")
        right = prelu.forward
        prelu.forward = lambda x: right(x) * (1 + 3e-6)


def test_a_fault_in_caffe_net_alone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = MAP + CONV + layer("prelu", "PReLU", "", ("conv",), "conv") + layer("abs", "AbsVal", "", ("conv",))
    report = judged(text, tmp_path)
    assert report.within and "port: pycaffe's Net and CaffeNet are equal in every blob" in report.notes
    monkeypatch.setattr(run_module, "CaffeNet", Tampered)
    report = judged(text, tmp_path)
    conv, abs_ = report.engines[0].rows
    assert conv.out == [CAFFE_NET] and abs_.within and conv.apart > 0
    assert verdict([conv]) == "OUT: port (CaffeNet)"
    assert any(
        "first in conv by" in x and "CaffeNet is out, pycaffe's Net is within" in x for x in report.notes
    )


def test_a_caffe_net_that_mixes_up_its_blobs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is right, but reads another blob of the same shape."""
    text = (
        MAP
        + layer("a", "Power", "power_param { scale: 2 }")
        + layer("b", "Power", "power_param { scale: 3 }")
        + layer("tanh", "TanH", "", ("a",))
        + layer("abs", "AbsVal", "", ("b",))
    )
    right = Blobs.bottoms

    def bottoms(self: Blobs, plan: LayerPlan) -> tuple[Tensor, ...]:
        return (self[plan.bottoms[0] + 1],) if plan.name == "tanh" else right(self, plan)

    assert judged(text, tmp_path).within
    monkeypatch.setattr(Blobs, "bottoms", bottoms)
    (port,) = judged(text, tmp_path).engines
    assert [(row.blob, row.out) for row in port.out] == [("tanh", [CAFFE_NET])]


# ---- names


NAMES = """
layer { name: "" type: "Input" top: "a/b.c" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "ip" type: "InnerProduct" bottom: "a/b.c" top: "one" inner_product_param { num_output: 6 } }
layer { name: "ip" type: "InnerProduct" bottom: "one" top: "two" inner_product_param { num_output: 6 } }
layer { name: "" type: "InnerProduct" bottom: "two" top: "three" inner_product_param { num_output: 6 } }
layer { name: "" type: "PReLU" bottom: "three" top: "three" }
layer { name: "x.y/z" type: "InnerProduct" bottom: "three" top: "four" inner_product_param { num_output: 6 } }
layer { name: "x.y" type: "InnerProduct" bottom: "four" top: "five" inner_product_param { num_output: 6 } }
"""


def test_layers_are_known_by_index(tmp_path: Path) -> None:
    """Names that repeat, are empty or hold dots and slashes: every layer has weights of its own."""
    path = tmp_path / "net.prototxt"
    path.write_text(NAMES)
    report = compare(path, seed=1)
    assert report.within and list(report.shapes) == ["one", "two", "three", "four", "five"], report.notes
    assert [engine.name for engine in report.engines] == ["port", "reference", "opencv"]
    net = port.pycaffe.Net(str(path), TEST)
    weights = rebuilt_weights(net, 1)
    assert [layer.name for layer in weights] == ["ip", "ip", "", "", "x.y/z", "x.y"]
    assert not np.array_equal(weights[0].blobs[0], weights[1].blobs[0])
    # From a file, by Caffe's rule: the later of one name, to the first layer of that name.
    held, remarks = fill_weights(net, net.plan, [LayerWeights("ip", blobs=x.blobs) for x in weights[:2]], 0)
    assert np.array_equal(held[1][0], weights[1].blobs[0]) and not held[2][0].any()
    assert remarks == ["weights has no weights for ip, , , x.y/z, x.y: filled as the prototxt says"]


@pytest.mark.parametrize("index", [1, 2, 3, 5, 6])
def test_a_fault_in_any_layer_of_one_name_is_found(
    index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self, right: Callable, x: Tensor) -> Tensor:
        return right(self, x) * (1 + 3e-6 * (self.plan.index == index))

    forward("InnerProduct", fault)(monkeypatch)
    (engine,) = judged(NAMES, tmp_path, seed=1).engines
    blob = {1: "one", 2: "two", 3: "three", 5: "four", 6: "five"}[index]
    assert [row.blob for row in engine.out] == [blob]


def test_caffes_own_net_with_layers_of_one_name(tmp_path: Path) -> None:
    """ReLU and Softmax both called `act`: parity_tests/cases/01-duplicate-layer-names."""
    folder = Path(__file__).parent / "cases" / "01-duplicate-layer-names"
    report = compare(folder / "net.prototxt", folder / "net.caffemodel")
    assert report.within, report.notes


# ---- inputs


def test_a_net_is_fed_at_its_own_size(tmp_path: Path) -> None:
    image = np.add.outer(np.add.outer(np.arange(60), np.arange(80)), [0, 30, 60]).astype(np.uint8)
    path = tmp_path / "net.prototxt"
    grey = input_of(2, 1, 20, 30, name="grey") + input_of(2, 4, name="vector")
    path.write_text(
        grey
        + layer("ip", "InnerProduct", "inner_product_param { num_output: 4 }", ("grey",))
        + layer("sum", "Eltwise", "", ("ip", "vector"))
    )
    inputs = published_inputs(path, image)
    assert {name: x.shape for name, x in inputs.items()} == {"grey": (2, 1, 20, 30)}
    grey_values = cv2.cvtColor(cv2.resize(image, (30, 20), interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2GRAY)
    assert abs(inputs["grey"] - (grey_values - 117.2)).max() < 3  # 117.2: the mean's grey
    report = compare(path, inputs=inputs)
    assert report.within and "grey 2×1×20×30, vector 2×4" in report.title
    path.write_text(input_of(1, 3, 12, 17) + CONV)
    assert published_inputs(path, image)["data"].shape == (1, 3, 12, 17)
    assert published_inputs(path, image, test_size=9)["data"].shape == (1, 3, 9, 9)


def test_memory_data_is_fed(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "memory" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 3 channels: 1 height: 9 width: 14 } }\n"
        + CONV
        + layer("ip", "InnerProduct", "inner_product_param { num_output: 2 }", ("conv",))
        + layer("loss", "SoftmaxWithLoss", "", ("ip", "label"))
        + layer("accuracy", "Accuracy", "", ("ip", "label"))
    )
    report = compare(path)
    assert report.within and "data 3×1×9×14, label 3" in report.title, report.notes
    assert {"data", "label", "conv", "ip", "loss", "accuracy"} == set(report.shapes)
    image = np.full((5, 5, 3), 200, np.uint8)
    inputs = published_inputs(path, image)
    assert inputs["data"].shape == (3, 1, 9, 14) and compare(path, inputs=inputs).within


# ---- nets that are right


def lenet(width: int, batch: int) -> str:
    return (
        input_of(batch, 1, 28, 28)
        + layer("conv1", "Convolution", f"convolution_param {{ num_output: {width} kernel_size: 5 }}")
        + layer("pool1", "Pooling", "pooling_param { kernel_size: 2 stride: 2 }", ("conv1",))
        + layer(
            "conv2",
            "Convolution",
            f"convolution_param {{ num_output: {2 * width} kernel_size: 5 }}",
            ("pool1",),
        )
        + layer("pool2", "Pooling", "pooling_param { kernel_size: 2 stride: 2 }", ("conv2",))
        + layer("ip1", "InnerProduct", f"inner_product_param {{ num_output: {20 * width} }}", ("pool2",))
        + layer("relu1", "ReLU", "", ("ip1",), "ip1")
        + layer("ip2", "InnerProduct", "inner_product_param { num_output: 10 }", ("ip1",))
        + layer("prob", "Softmax", "", ("ip2",))
    )


RIGHT = {
    "LeNet": lenet(20, 1),
    "LeNet, narrow": lenet(2, 1),
    "LeNet, a batch": lenet(20, 8),
    "one wide InnerProduct": input_of(1, 60000)
    + layer("ip", "InnerProduct", "inner_product_param { num_output: 3 }")
    + layer("prob", "Softmax", "", ("ip",)),
    "all positive": input_of(1, 9000)
    + layer("abs", "AbsVal")
    + layer("sum", "InnerProduct", "inner_product_param { num_output: 5 }", ("abs",)),
    "one value": MAP + AVE + layer("sum", "Reduction", "", ("ave",)),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("net", RIGHT)
def test_no_alarm_for_a_net_that_is_right(net: str, seed: int, tmp_path: Path) -> None:
    report = judged(RIGHT[net], tmp_path, seed)
    assert report.within, report.notes


@pytest.mark.parametrize(
    ("error", "yardstick", "within"),
    [
        (4.9e-7, 1e-7, True),  # 4 × the yardstick + 4u of 1
        (7e-7, 1e-7, False),
        (2e-7, 0.0, True),  # the reference happens to be exact
        (3e-7, 0.0, False),
        (np.nan, 1e-7, False),
        (np.inf, np.inf, False),
    ],
)
def test_the_rule(error: float, yardstick: float, within: bool) -> None:
    truth = np.ones(100)
    assert Errors.of(truth + error, truth, [np.full(100, yardstick)]).within == within
    assert not Errors.of(truth[:50], truth).within


def test_what_is_beyond_float32_is_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn inputs reach 150: some exponentials are infinite and some logarithms not numbers, as in Caffe."""
    text = MAP + layer("exp", "Exp") + layer("log", "Log")
    report = compare(written(tmp_path, text), engines=["port", "reference"])
    assert report.within, report.notes
    assert "log is not finite in float64 either: the inputs or weights are to blame" in report.remarks
    for type_, wrong in (("Exp", 3e38), ("Log", 0.0)):
        with monkeypatch.context() as patch:
            top_changed(type_, lambda x, wrong=wrong: x.nan_to_num(wrong, wrong))(patch)
            assert [row.blob for row in judged(text, tmp_path).engines[0].out] == [type_.lower()]
    assert not judged(
        text + layer("ip", "InnerProduct", "inner_product_param { num_output: 2 }", ("log",)), tmp_path
    ).within


def test_a_chain_of_sums_is_off_as_much_as_the_rule_says() -> None:
    """Both kinds of sums: of terms that cancel, and of terms that add up."""
    generator = np.random.RandomState(0)
    for shift in (0.0, 1.0):
        terms = generator.standard_normal((200, 5000)) + shift
        terms = terms.astype(np.float32)
        sums = terms.sum(axis=1, dtype=np.float64)
        off = np.add.accumulate(terms, axis=1)[:, -1] - sums
        expected = chain_error(np.abs(terms).sum(axis=1, dtype=np.float64), 5000, sums)
        share = np.sqrt(np.mean(off**2) / np.mean(expected**2))
        assert 0.5 < share < 2, share


if __name__ == "__main__":
    print("| fault | largest error, of the blob's maximum | times what is allowed |\n| --- | --- | --- |")
    with TemporaryDirectory() as scratch:
        for name, (text, plant) in FAULTS.items():
            with pytest.MonkeyPatch.context() as patch:
                plant(patch)
                found = max(
                    judged(text, Path(scratch)).engines[0].rows, key=lambda row: row.faces[NET].alone.excess
                )
                alone = found.faces[NET].alone
                print(f"| {name} | {alone.largest / alone.scale_largest:.1e} | {alone.excess:.2g} |")
