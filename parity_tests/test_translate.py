"""Translated models compute what CaffeNet does, learn as it does, need torch alone, and read well."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from parity_tests.recordings import NETS
from parity_tests.translated import check_learning, translated
from port import cli
from port.translate.inputs import drawn_inputs, fed
from port.translate.names import Names, identifier, without_what_differs
from port.translate.run import run_translate
from port.translate.settings import TranslateSettings
from prototxt.errors import InputError
from prototxt.read import read_net
from runtime.rng import set_random_seed

# ---- nets, as text


def data(*sizes: int, name: str = "data") -> str:
    dims = " ".join(f"dim: {size}" for size in sizes)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind: str, name: str, bottom: str, top: str = "", param: str = "", extra: str = "") -> str:
    bottoms = " ".join(f'bottom: "{text}"' for text in bottom.split())
    tops = " ".join(f'top: "{text}"' for text in (top or name).split())
    field = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower() + "_param"
    field = {
        "deconvolution_param": "convolution_param",
        "re_lu_param": "relu_param",
        "arg_max_param": "argmax_param",
    }.get(field, field)
    settings = f"{field} {{ {param} }}" if param else ""
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {settings} {extra} }}\n'


def conv(name: str, bottom: str, outputs: int, kernel: int, rest: str = "", extra: str = "") -> str:
    text = f'num_output: {outputs} kernel_size: {kernel} {rest} weight_filler {{ type: "msra" }}'
    return layer("Convolution", name, bottom, param=text, extra=extra)


def fc(name: str, bottom: str, outputs: int, rest: str = "", extra: str = "") -> str:
    text = f'num_output: {outputs} {rest} weight_filler {{ type: "xavier" }} bias_filler {{ value: 0.1 }}'
    return layer("InnerProduct", name, bottom, param=text, extra=extra)


def relu(name: str) -> str:
    return layer("ReLU", f"{name}_relu", name, name)


def pool(name: str, bottom: str, rest: str) -> str:
    return layer("Pooling", name, bottom, param=rest)


def conv_bn(name: str, bottom: str, outputs: int, kernel: int, rest: str = "") -> str:
    return (
        conv(name, bottom, outputs, kernel, f"{rest} bias_term: false")
        + layer("BatchNorm", f"{name}/bn", name, name)
        + layer(
            "Scale", f"{name}/scale", name, name, "bias_term: true filler { type: 'uniform' min: 0.5 max: 1 }"
        )
    )


LENET = (
    data(4, 1, 20, 20)
    + conv("conv1", "data", 8, 5)
    + pool("pool1", "conv1", "kernel_size: 3 stride: 2")
    + conv("conv2", "pool1", 12, 3)
    + pool("pool2", "conv2", "kernel_size: 2 stride: 2")
    + fc("ip1", "pool2", 10)
    + relu("ip1")
    + fc("ip2", "ip1", 5)
    + layer("Softmax", "prob", "ip2")
)

ALEXNET = (
    data(2, 3, 35, 35)
    + conv("conv1", "data", 8, 7, "stride: 2")
    + relu("conv1")
    + layer("LRN", "norm1", "conv1", param="local_size: 5 alpha: 0.0001 beta: 0.75")
    + pool("pool1", "norm1", "pool: MAX kernel_size: 3 stride: 2")
    + conv("conv2", "pool1", 12, 5, "pad: 2 group: 2")
    + relu("conv2")
    + layer("LRN", "norm2", "conv2", param="local_size: 3 norm_region: WITHIN_CHANNEL alpha: 0.1")
    + pool("pool5", "norm2", "pool: AVE kernel_size: 3 stride: 2 pad: 1")
    + fc("fc6", "pool5", 16)
    + relu("fc6")
    + layer("Dropout", "drop6", "fc6", "fc6", "dropout_ratio: 0.4")
    + fc("fc8", "fc6", 6)
)


def inception(name: str, bottom: str, sizes: tuple[int, ...]) -> str:
    one, reduce3, three, reduce5, five, after = sizes
    parts = (
        ("1x1", bottom, one, 1),
        ("3x3_reduce", bottom, reduce3, 1),
        ("3x3", f"{name}/3x3_reduce", three, 3),
    )
    parts += (("5x5_reduce", bottom, reduce5, 1), ("5x5", f"{name}/5x5_reduce", five, 5))
    text = "".join(
        conv(f"{name}/{part}", source, outputs, kernel, f"pad: {kernel // 2}") + relu(f"{name}/{part}")
        for part, source, outputs, kernel in parts
    )
    text += pool(f"{name}/pool", bottom, "kernel_size: 3 stride: 1 pad: 1")
    text += conv(f"{name}/pool_proj", f"{name}/pool", after, 1) + relu(f"{name}/pool_proj")
    branches = " ".join(f"{name}/{part}" for part in ("1x1", "3x3", "5x5", "pool_proj"))
    return text + layer("Concat", f"{name}/output", branches)


GOOGLENET = (
    data(2, 3, 33, 33)
    + conv("conv1/7x7_s2", "data", 8, 7, "stride: 2 pad: 3")
    + relu("conv1/7x7_s2")
    + pool("pool1/3x3_s2", "conv1/7x7_s2", "kernel_size: 3 stride: 2")
    + inception("inception_3a", "pool1/3x3_s2", (4, 3, 5, 2, 4, 3))
    + inception("inception_3b", "inception_3a/output", (5, 4, 6, 1, 3, 4))
    + pool("pool3/3x3_s2", "inception_3b/output", "kernel_size: 3 stride: 2")
    + inception("inception_4a", "pool3/3x3_s2", (6, 3, 6, 2, 4, 4))
    + pool("pool5", "inception_4a/output", "pool: AVE kernel_size: 4 stride: 1")
    + fc("loss3/classifier", "pool5", 7)
    + layer("Softmax", "prob", "loss3/classifier")
)


def bottleneck(name: str, bottom: str, width: int, outputs: int, stride: int = 0, dilation: int = 1) -> str:
    text, shortcut = "", bottom
    if stride:
        shortcut = f"res{name}_branch1"
        text = conv_bn(shortcut, bottom, outputs, 1, f"stride: {stride}")
    text += conv_bn(f"res{name}_branch2a", bottom, width, 1, f"stride: {stride or 1}") + relu(
        f"res{name}_branch2a"
    )
    text += conv_bn(
        f"res{name}_branch2b", f"res{name}_branch2a", width, 3, f"pad: {dilation} dilation: {dilation}"
    )
    text += relu(f"res{name}_branch2b") + conv_bn(f"res{name}_branch2c", f"res{name}_branch2b", outputs, 1)
    return text + layer("Eltwise", f"res{name}", f"{shortcut} res{name}_branch2c") + relu(f"res{name}")


RESNET = (
    data(2, 3, 33, 33)
    + conv_bn("conv1", "data", 8, 7, "stride: 2 pad: 3")
    + relu("conv1")
    + pool("pool1", "conv1", "kernel_size: 3 stride: 2")
    + bottleneck("2a", "pool1", 4, 16, 1)
    + bottleneck("2b", "res2a", 4, 16)
    + bottleneck("3a", "res2b", 6, 24, 2)
    + bottleneck("3b", "res3a", 6, 24, dilation=2)
    + pool("pool5", "res3b", "pool: AVE global_pooling: true")
    + fc("fc1000", "pool5", 5)
)

MOBILENET = data(2, 3, 24, 24) + conv_bn("conv1", "data", 6, 3, "pad: 1 stride: 2") + relu("conv1")
_last = "conv1"
for _name, _inputs, _outputs, _stride in (("2_1", 6, 8, 1), ("2_2", 8, 10, 2), ("3_1", 10, 12, 1)):
    _rest = f"pad: 1 stride: {_stride} group: {_inputs}"
    MOBILENET += conv_bn(f"conv{_name}/dw", _last, _inputs, 3, _rest) + relu(f"conv{_name}/dw")
    _last = f"conv{_name}/sep"
    MOBILENET += conv_bn(_last, f"conv{_name}/dw", _outputs, 1) + relu(_last)
MOBILENET += pool("pool6", _last, "pool: AVE global_pooling: true") + conv("fc7", "pool6", 5, 1)

DENSENET = data(2, 3, 24, 24) + conv("conv1", "data", 8, 3, "stride: 2 pad: 1 bias_term: false")
_last, _channels = "conv1", 8
for _i in range(4):
    _name = f"conv2_{_i + 1}"
    DENSENET += layer("BatchNorm", f"{_name}/x1/bn", _last, f"{_name}/x1/bn")
    DENSENET += layer("Scale", f"{_name}/x1/scale", f"{_name}/x1/bn", f"{_name}/x1/bn", "bias_term: true")
    DENSENET += relu(f"{_name}/x1/bn") + conv_bn(f"{_name}/x1", f"{_name}/x1/bn", 8, 1) + relu(f"{_name}/x1")
    DENSENET += conv(f"{_name}/x2", f"{_name}/x1", 4, 3, "pad: 1 bias_term: false")
    DENSENET += layer("Concat", f"concat_2_{_i + 1}", f"{_last} {_name}/x2")
    _last = f"concat_2_{_i + 1}"
DENSENET += pool("pool", _last, "pool: AVE kernel_size: 2 stride: 2") + fc("fc6", "pool", 5)

FCN = (
    data(1, 3, 40, 40)
    + conv("conv1", "data", 6, 3, "pad: 10")
    + relu("conv1")
    + pool("pool3", "conv1", "kernel_size: 2 stride: 2")
    + conv("conv4", "pool3", 8, 3, "pad: 1")
    + relu("conv4")
    + pool("pool4", "conv4", "kernel_size: 2 stride: 2")
    + conv("fc6", "pool4", 12, 3)
    + layer("Dropout", "drop6", "fc6", "fc6")
    + conv("score_fr", "fc6", 4, 1)
    + layer("Deconvolution", "upscore2", "score_fr", param="num_output: 4 kernel_size: 4 stride: 2 bias_term: false "
            'weight_filler { type: "bilinear" }', extra="param { lr_mult: 0 }")
    + conv("score_pool3", "pool3", 4, 1)
    + layer("Crop", "score_pool3c", "score_pool3 upscore2", param="axis: 2 offset: 1")
    + layer("Eltwise", "fuse", "upscore2 score_pool3c", param="operation: SUM")
    + layer("Deconvolution", "upscore8", "fuse", param="num_output: 4 kernel_size: 4 stride: 2 group: 4")
    + layer("Crop", "score", "upscore8 data", param="axis: 2 offset: 9")
)  # fmt: skip

SQUEEZE_EXCITE = (
    data(2, 3, 16, 16)
    + conv("conv1", "data", 8, 3, "pad: 1")
    + relu("conv1")
    + layer("Power", "small", "conv1", param="scale: 0.02")
    + pool("squeeze", "small", "pool: AVE global_pooling: true")
    + fc("down", "squeeze", 4)
    + relu("down")
    + fc("up", "down", 8)
    + layer("Sigmoid", "gate", "up")
    + layer("Scale", "scaled", "conv1 gate", param="axis: 0")
    + layer("Eltwise", "sum", "scaled conv1", param="operation: SUM coeff: 0.5 coeff: -2")
    + layer("Eltwise", "most", "sum scaled", param="operation: MAX")
    + layer("Eltwise", "times", "most conv1", param="operation: PROD")
)

ODD = (
    data(2, 6, 9, 11)
    + layer("Slice", "parts", "data", "a b c", "axis: 1 slice_point: 1 slice_point: 3")
    + layer("Power", "shifted", "a", param="scale: -0.02 shift: 1.5 power: 2")
    + layer("Exp", "grown", "shifted", param="base: 2 scale: 0.1")
    + layer("Log", "logged", "grown", param="shift: 0.5 base: 10")
    + layer("TanH", "tanh", "logged")
    + layer("AbsVal", "abs", "b")
    + layer("PReLU", "prelu", "c")
    + layer("ELU", "elu", "c", param="alpha: 0.5")
    + layer("BNLL", "bnll", "c")
    + layer("Bias", "bias", "b", param="filler { type: 'uniform' min: -1 max: 1 }")
    + layer("Scale", "scale", "prelu", param="filler { type: 'uniform' min: 0.5 max: 2 }")
    + layer("MVN", "mvn", "elu")
    + layer("Tile", "tiled", "tanh", param="axis: 1 tiles: 3")
    + layer("Concat", "all", "abs bias scale mvn bnll tiled")
    + layer("ReLU", "leaky", "all", param="negative_slope: 0.1")
    + pool("small", "leaky", "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0")
    + pool("wide", "leaky", "kernel_size: 3 stride: 2 pad: 2")
    + pool("mean", "leaky", "pool: AVE kernel_size: 4 stride: 3 pad: 3")
    + layer("Interp", "resized", "small", param="zoom_factor: 2")
    + layer("Reshape", "shaped", "wide", param="shape { dim: 0 dim: 4 dim: -1 dim: 6 }")
    + layer("Flatten", "flat", "mean")
    + layer("Reduction", "reduced", "flat", param="axis: 1 operation: MEAN coeff: 3")
    + layer("Swish", "swish", "flat", param="beta: 0.5")
    + layer("Clip", "clip", "swish", param="min: -1 max: 2")
    + layer("ArgMax", "best", "resized", param="axis: 1")
    + layer("Softmax", "soft", "shaped", param="axis: 2")
    + layer("Threshold", "over", "flat", param="threshold: 0.3")
    + layer("Silence", "none", "over").replace('top: "none"', "")
    + fc("fc", "flat", 5, "transpose: true")
)

_SHARED = [f'param {{ name: "{name}" }}' for name in ("cw", "cb", "fw", "fb")]
SIAMESE = (
    data(4, 2, 12, 12, name="pair")
    + data(4, name="sim")
    + layer("Slice", "slice", "pair", "left right", "axis: 1")
    + "".join(
        conv(f"conv{p}", side, 4, 3, extra=" ".join(_SHARED[:2]))
        + relu(f"conv{p}")
        + fc(f"feat{p}", f"conv{p}", 3, extra=" ".join(_SHARED[2:]))
        for p, side in (("", "left"), ("_p", "right"))
    )
    + layer("ContrastiveLoss", "loss", "feat feat_p sim", param="margin: 20")
)

NAMES = (
    data(2, 3, 8, 8)
    + conv("class", "data", 4, 3)
    + conv("train", "class", 4, 3)
    + layer("Convolution", "", "train", "x", "num_output: 4 kernel_size: 1")
    + conv("forward/a.b", "x", 4, 1)
    + conv("forward_a_b", "forward/a.b", 4, 1)
    + conv("3x3", "forward_a_b", 4, 3, "pad: 1").replace('name: "3x3"', 'name: "class"')
    + relu("3x3")
    + fc("Zähler", "3x3", 3)
    + layer("Softmax", "F", "Zähler")
)

TRAINING = (
    'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } '
    "transform_param { crop_size: 20 mean_value: 104 scale: 0.5 mirror: true } "
    'data_param { batch_size: 6 source: "x" } }\n'
    + conv_bn("conv1", "data", 6, 3)
    + relu("conv1")
    + layer("Dropout", "drop", "conv1", "conv1")
    + conv("frozen", "conv1", 6, 3, extra="param { lr_mult: 0 } param { lr_mult: 0 }")
    + fc("ip", "frozen", 4)
    + layer("SoftmaxWithLoss", "loss", "ip label", extra="loss_weight: 0.3")
    + layer("HingeLoss", "hinge", "ip label", extra="propagate_down: true propagate_down: false")
    + layer("Accuracy", "accuracy", "ip label", extra="include { phase: TEST }")
)

_RECURRENT = 'recurrent_param { num_output: 6 weight_filler { type: "uniform" min: -0.3 max: 0.3 } }'
CAPTIONS = (
    data(5, 2, name="words")
    + data(5, 2, name="cont")
    + data(2, 4, name="image")
    + layer(
        "Embed",
        "embedded",
        "words",
        param='input_dim: 9 num_output: 7 bias_term: false weight_filler { type: "xavier" }',
    )
    + layer("LSTM", "lstm1", "embedded cont", extra=_RECURRENT)
    + layer("LSTM", "lstm2", "lstm1 cont image", extra=_RECURRENT)
    + layer("RNN", "rnn", "lstm2 cont", extra=_RECURRENT)
    + fc("predict", "rnn", 9, "axis: 2")
    + layer("Softmax", "probs", "predict", param="axis: 2")
)

RCNN = (
    data(1, 3, 32, 40)
    + data(3, 5, name="rois")
    + conv("conv1", "data", 6, 3, "stride: 4 pad: 1")
    + relu("conv1")
    + layer(
        "ROIPooling",
        "pool5",
        "conv1 rois",
        extra="roi_pooling_param { pooled_h: 3 pooled_w: 3 spatial_scale: 0.25 }",
    )
    + fc("fc6", "pool5", 8)
    + relu("fc6")
    + layer("Dropout", "drop6", "fc6", "fc6")
    + fc("cls_score", "fc6", 4)
    + fc("bbox_pred", "fc6", 16)
    + layer("Softmax", "cls_prob", "cls_score")
)

_3D = 'weight_filler { type: "gaussian" std: 0.2 } bias_filler { value: 0.1 }'
VIDEO = (
    data(2, 3, 5, 12, 14)
    + data(2, name="label")
    + layer(
        "Convolution3D",
        "conv1a",
        "data",
        extra=f"convolution3d_param {{ num_output: 4 kernel_size: 3 kernel_depth: 3 pad: 1 temporal_pad: 1 {_3D} }}",
    )
    + layer("PReLU", "prelu1", "conv1a", "conv1a")
    + layer(
        "Pooling3D",
        "pool1",
        "conv1a",
        extra="pooling3d_param { pool: MAX kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2 }",
    )
    + layer(
        "Deconvolution3D",
        "up",
        "pool1",
        extra=f"convolution3d_param {{ num_output: 4 kernel_size: 2 kernel_depth: 2 stride: 2 {_3D} }}",
    )
    + layer(
        "Pooling3D",
        "pool2",
        "up",
        extra="pooling3d_param { pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 1 pad: 1 }",
    )
    + fc("fc6", "pool2", 4)
    + layer("FocalLoss", "loss", "fc6 label", extra="focal_loss_param { alpha: 0.5 gamma: 1.5 }")
)

NETWORKS = {
    "lenet": LENET,
    "alexnet": ALEXNET,
    "googlenet": GOOGLENET,
    "resnet": RESNET,
    "mobilenet": MOBILENET,
    "densenet": DENSENET,
    "fcn": FCN,
    "squeeze_excite": SQUEEZE_EXCITE,
    "odd": ODD,
    "siamese": SIAMESE,
    "names": NAMES,
    "training": TRAINING,
    "captions": CAPTIONS,
    "video": VIDEO,
    "rcnn": RCNN,
    "ssd": (NETS / "ssd" / "narrow_deploy.prototxt").read_text(),
    "ssd_training": (NETS / "ssd" / "narrow_train.prototxt").read_text(),
    "seenet": (NETS / "seenet" / "narrow_deploy.prototxt").read_text(),
    "flownet2_s": (NETS / "flownet2_s" / "narrow_deploy.prototxt").read_text(),
    "deeplab": (NETS / "deeplab_largefov" / "narrow_deploy.prototxt").read_text(),
    "deeplab_resnet": (NETS / "deeplab_largefov_resnet101" / "narrow_deploy.prototxt").read_text(),
}
BLOCKS = {
    "googlenet": ["Inception"],
    "resnet": ["Bottleneck", "ProjectedBottleneck"],
    "mobilenet": ["SeparableConv"],
    "densenet": ["DenseLayer"],
    "deeplab_resnet": ["Bottleneck", "ProjectedBottleneck"],
}
IN_TRAINING = ["training", "ssd_training"]


def asked(prototxt: Path, out: Path, **settings: object) -> TranslateSettings:
    return TranslateSettings(prototxt, out, train=prototxt.stem in IN_TRAINING, **settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each network's folder."""
    base = tmp_path_factory.mktemp("translated")
    folders = {}
    for name, text in NETWORKS.items():
        prototxt = base / f"{name}.prototxt"
        prototxt.write_text(text)
        folders[name] = base / name
        assert run_translate(asked(prototxt, folders[name])), name
    return folders


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_learns_as_caffe_net_does(name: str, tmp_path: Path) -> None:
    prototxt = tmp_path / f"{name}.prototxt"
    prototxt.write_text(NETWORKS[name])
    phase = 0 if name in IN_TRAINING else 1
    message = fed(read_net(prototxt), phase, {})
    statistics = {
        entry.name: [np.full(1, value, np.float32) for value in (0.2, 1.0, 2.0)]
        for entry in message.layer
        if entry.type == "BatchNorm"
    }
    set_random_seed(1)
    made = translated(message, phase, statistics)
    learning = check_learning(made, drawn_inputs(made.net.plan, None, 3))
    learns = sum(parameter.requires_grad for parameter in made.model.parameters())
    few = {"ssd": 0, "flownet2_s": 2}  # detections, and what FlowNet2 resamples, have no gradient
    assert learning == few.get(name, learns)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_recognised(written: dict[str, Path], name: str) -> None:
    text = (written[name] / "model.py").read_text()
    assert re.findall(r"^class (\w+)\(", text, re.M)[:-1] in (BLOCKS[name], BLOCKS[name][::-1])


def test_what_a_reader_sees(written: dict[str, Path]) -> None:
    text = (written["googlenet"] / "model.py").read_text()
    assert "self.inception_3b = Inception(16, 5, 4, 6, 1, 3, 4)" in text
    assert "x = self.inception_3a(x)  # (N, 16, 8, 8)" in text
    names = (written["names"] / "model.py").read_text()
    assert all(
        f"self.{name} = " in names for name in ("class_", "train_", "conv", "forward_a_b", "forward_a_b_2")
    )
    siamese = (written["siamese"] / "model.py").read_text()
    assert siamese.count("nn.Conv2d") == 1 and siamese.count("self.conv(") == 2
    training = (written["training"] / "model.py").read_text()
    assert 'LOSS_WEIGHTS: dict[str, object] = {"loss": 0.3, "hinge": 1.0}' in training
    assert '"then_subtract": (104.0,)' in training and "lr_mult: 0" in training


def _installed_files(package: str, found: dict[str, Path]) -> dict[str, Path]:
    """The top-level files and folders of a package and of all that it requires."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return found
    if f"dist:{package}" in found:
        return found
    found[f"dist:{package}"] = Path()
    for file in distribution.files or ():
        top = file.parts[0]
        if top not in ("..", "__pycache__"):
            found[top] = Path(distribution.locate_file(top))
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            _installed_files(re.split(r"[^\w.-]", requirement)[0], found)
    return found


_ALONE = """
import runpy, sys
site, run_tests, *folders = sys.argv[1:]
sys.path = [path for path in sys.path if "site-packages" not in path] + [site]
for folder in folders:
    for name in ("model", "test_model"):
        sys.modules.pop(name, None)
    sys.path.insert(0, folder)
    runpy.run_path(f"{folder}/test_model.py" if run_tests == "1" else f"{folder}/model.py", run_name="__main__")
    sys.path.remove(folder)
assert not {"port", "prototxt", "safetensors"} & set(sys.modules)
"""


@pytest.mark.parametrize("with_numpy", [False, True])
def test_models_need_torch_alone(written: dict[str, Path], tmp_path: Path, with_numpy: bool) -> None:
    found: dict[str, Path] = {}
    for package in ("torch", *(["numpy"] if with_numpy else [])):
        _installed_files(package, found)
    for name, path in found.items():
        if not name.startswith("dist:") and path.exists() and (with_numpy or not name.startswith("numpy")):
            (tmp_path / name).symlink_to(path)
    command = [sys.executable, "-I", "-W", "ignore", "-c", _ALONE, str(tmp_path), str(int(with_numpy))]
    ran = subprocess.run([*command, *map(str, written.values())], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_ruff_has_nothing_to_say(written: dict[str, Path]) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    for arguments in (["check"], ["format", "--check"], ["format", "--check", "--line-length", "110"]):
        folders = map(str, written.values())
        ran = subprocess.run(
            [ruff, *arguments, "--isolated", *folders], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout[-2000:]


@pytest.mark.slow
def test_types_are_right(written: dict[str, Path], tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    files = []
    for name, folder in written.items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text((folder / "model.py").read_text())
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            data(2, 3)
            + data(2, name="label")
            + layer("CenterLoss", "c", "data label", param="num_output: 4"),
            "CenterLoss",
        ),
        (
            data(1, 3, 8, 8)
            + data(1, 1, 8, 8, name="parts")
            + layer("SuperpixelPoolingTest", "p", "data parts"),
            "SuperpixelPoolingTest",
        ),
        (
            data(2, 3, 4, 5) + layer("BN", "bn", "data", "bn m v", extra="bn_param { bn_mode: INFERENCE }"),
            "BN",
        ),
        (
            data(1, 3) + layer("BatchNorm", "bn", "data", param="use_global_stats: false"),
            "BatchNorm of one value",
        ),
    ],
)
def test_a_layer_without_counterpart_is_named(tmp_path: Path, text: str, told: str) -> None:
    prototxt, out = tmp_path / "net.prototxt", tmp_path / "out"
    prototxt.write_text(text)
    ran = CliRunner().invoke(cli.app, ["translate", str(prototxt), "--out", str(out)])
    assert isinstance(ran.exception, InputError) and not out.exists()
    assert told in str(ran.exception) and "net.prototxt:" in str(ran.exception)


@pytest.mark.parametrize("name", ["2Net", "a-b", "class", "Tensor"])
def test_a_bad_class_name(tmp_path: Path, name: str) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(LENET)
    ran = CliRunner().invoke(
        cli.app, ["translate", str(prototxt), "--out", str(tmp_path / "o"), "--class-name", name]
    )
    assert isinstance(ran.exception, InputError) and name in str(ran.exception)


def test_a_folder_that_exists(tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(LENET)
    with pytest.raises(InputError, match="exists already"):
        run_translate(asked(prototxt, tmp_path))
    (tmp_path / "empty").mkdir()
    assert run_translate(asked(prototxt, tmp_path / "empty", class_name="Digits"))
    assert "class Digits(nn.Module):" in (tmp_path / "empty" / "model.py").read_text()


def test_a_data_layer_of_unknown_shape(tmp_path: Path) -> None:
    prototxt = tmp_path / "training.prototxt"
    prototxt.write_text(TRAINING.replace("crop_size: 20", ""))
    with pytest.raises(InputError, match="--input-shape data=6"):
        run_translate(asked(prototxt, tmp_path / "out"))
    assert run_translate(asked(prototxt, tmp_path / "out", input_shapes={"data": (6, 3, 20, 20)}))


@pytest.mark.parametrize(
    ("name", "kind", "due"),
    [
        ("conv1/3x3", "Convolution", "conv1_3x3"),
        ("1x1", "Convolution", "conv_1x1"),
        ("lambda", "InnerProduct", "lambda_"),
        ("parameters", "Scale", "parameters_"),
        ("", "InnerProduct", "fc"),
        ("///", "ReLU", "relu"),
        ("größe", "ReLU", "gr_e"),
    ],
)
def test_names(name: str, kind: str, due: str) -> None:
    assert identifier(name, kind) == due


def test_equal_names_are_numbered() -> None:
    names = Names()
    assert [names.give("a"), names.give("a"), names.give("a_2"), names.give("a")] == [
        "a",
        "a_2",
        "a_2_2",
        "a_3",
    ]
    assert without_what_differs(["res2a_branch2b", "res3a_branch2b"]) == "res_branch2b"
