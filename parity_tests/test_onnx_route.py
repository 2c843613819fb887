"""The ONNX route as an outside opinion: what it carries agrees, what it gets wrong is out, the rest is named."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity_tests.compare import onnx_engine, onnx_route
from parity_tests.compare.onnx_route import NotConvertibleError, convert_layers, read_onnx
from parity_tests.compare.report import EngineReport
from parity_tests.compare.run import compare
from parity_tests.recordings import NETS
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError

pytest.importorskip("caffe2onnx", reason="the ONNX route's packages are an extra")
onnx = pytest.importorskip("onnx")

Run = Callable[..., tuple[int, str, str]]

BOTH = pytest.mark.parametrize("engine", ["onnxruntime", "onnx2torch"])

INPUT = 'layer {{ name: "{0}" type: "Input" top: "{0}" input_param {{ shape {{ {1} }} }} }}\n'

CLASSIC = """
name: "classic"
input: "data"  input_shape { dim: 2 dim: 3 dim: 31 dim: 36 }
layer { name: "conv/1" type: "Convolution" bottom: "data" top: "conv/1"
  convolution_param { num_output: 6 kernel_size: 5 stride: 2 pad: 1 group: 3 } }
layer { name: "relu.1" type: "ReLU" bottom: "conv/1" top: "conv/1" }
layer { name: "norm" type: "LRN" bottom: "conv/1" top: "norm" lrn_param { local_size: 3 alpha: 0.01 } }
layer { name: "max" type: "Pooling" bottom: "norm" top: "max" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "floor" type: "Pooling" bottom: "norm" top: "floor"
  pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR } }
layer { name: "padded" type: "Pooling" bottom: "conv/1" top: "padded" pooling_param { kernel_size: 3 pad: 1 } }
layer { name: "up" type: "Deconvolution" bottom: "max" top: "up"
  convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "slice" type: "Slice" bottom: "max" top: "a" top: "b" slice_param { slice_point: 2 } }
layer { name: "join" type: "Concat" bottom: "b" bottom: "max" bottom: "a" top: "join" }
layer { name: "bn" type: "BatchNorm" bottom: "join" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "fc" inner_product_param { num_output: 7 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
layer { name: "tanh" type: "TanH" bottom: "fc" top: "tanh" }
layer { name: "prob" type: "Softmax" bottom: "tanh" top: "prob" }
"""

WRONG = """
input: "data"  input_shape { dim: 2 dim: 4 dim: 9 dim: 12 }
layer { name: "right" type: "LRN" bottom: "data" top: "right" }
layer { name: "k" type: "LRN" bottom: "data" top: "k" lrn_param { k: 2 } }
layer { name: "within" type: "LRN" bottom: "data" top: "within" lrn_param { norm_region: WITHIN_CHANNEL } }
layer { name: "soft" type: "Softmax" bottom: "data" top: "soft" }
layer { name: "minus" type: "Eltwise" bottom: "data" bottom: "right" top: "minus"
  eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "past" type: "Pooling" bottom: "data" top: "past"
  pooling_param { kernel_size: 2 stride: 2 pad: 1 } }
layer { name: "tanh" type: "TanH" bottom: "data" top: "tanh" }
layer { name: "bn" type: "BatchNorm" bottom: "tanh" top: "bn" }
layer { name: "row" type: "Pooling" bottom: "data" top: "row" pooling_param { kernel_size: 3 pad_h: 1 pad_w: 0 } }
"""

REFUSED = """
input: "data"  input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
layer { name: "product" type: "Eltwise" bottom: "data" bottom: "relu" top: "product"
  eltwise_param { operation: PROD } }
layer { name: "after" type: "Convolution" bottom: "product" top: "after"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "tile" type: "Tile" bottom: "relu" top: "tile" tile_param { tiles: 2 } }
layer { name: "twice" type: "Convolution" bottom: "data" bottom: "relu" top: "one" top: "two"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "tanh" type: "TanH" bottom: "relu" top: "tanh" }
"""

TWO_INPUTS = (
    INPUT.format("a", "dim: 1 dim: 3 dim: 5 dim: 6")
    + INPUT.format("b", "dim: 1 dim: 2 dim: 5 dim: 6")
    + """
layer { name: "pool" type: "Pooling" bottom: "b" top: "pool" pooling_param { kernel_size: 2 } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "relu" }
layer { name: "both" type: "Concat" bottom: "a" bottom: "b" top: "both" }
"""
)

SMALL = INPUT.format("data", "dim: 1 dim: 3 dim: 5 dim: 6") + (
    'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }'
)


def needs(engine: str) -> None:
    """Skip without the package; unlike `importorskip`, without importing it: onnx2torch asks for torchvision."""
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is an extra")


def judged(tmp_path: Path, text: str, engine: str) -> EngineReport:
    needs(engine)
    (tmp_path / "net.prototxt").write_text(text)
    report = compare(tmp_path / "net.prototxt", engines=[engine])
    assert not report.absent
    return report.engines[0]


# ---- what it carries


@BOTH
def test_seenet(engine: str) -> None:
    """Cut at the C-ReLU: every blob, and every decision."""
    needs(engine)
    data = {"data": np.random.default_rng(0).normal(0, 50, (1, 3, 64, 56)).astype(np.float32)}
    report = compare(
        NETS / "seenet" / "narrow_deploy.prototxt", inputs=data, engines=["port", engine], seed=1
    )
    assert report.within and report.positions == {"mask_b2": 4 * 4}
    assert [len(engine.rows) for engine in report.engines] == [26, 26]
    assert not report.engines[1].not_carried and report.engines[1].flips == {"mask_b2": 0}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # onnx2torch's Slice
@BOTH
def test_a_classic_net(tmp_path: Path, engine: str) -> None:
    """Names with dots and slashes, layers in place, odd sizes, a batch, BatchNorm and Scale made one."""
    report = judged(tmp_path, CLASSIC, engine)
    assert report.within and not report.not_carried and len(report.rows) == 13
    assert max(row.relative for row in report.rows) < 1e-5


@BOTH
def test_the_first_layer_may_read_the_second_input(tmp_path: Path, engine: str) -> None:
    report = judged(tmp_path, TWO_INPUTS, engine)
    assert [row.blob for row in report.rows] == ["pool", "relu", "both"] and report.within


def test_the_graph_that_is_made() -> None:
    """Opset 11, nothing but inputs among the inputs, no Pad of 0, and every blob an output."""
    layers = [
        LayerParameter(name="pool", type="Pooling", bottom=["data"], top=["pool"]),
        LayerParameter(name="relu", type="ReLU", bottom=["pool"], top=["pool"]),
        LayerParameter(name="edge", type="Pooling", bottom=["pool"], top=["edge"]),
    ]
    layers[0].pooling_param.kernel_size = layers[2].pooling_param.kernel_size = 2
    layers[2].pooling_param.pad = 1
    net = convert_layers(layers, [], {"data": (1, 2, 6, 6)})
    assert [opset.version for opset in net.model.opset_import] == [11]
    assert [value.name for value in net.model.graph.input] == ["data_input"]
    assert [node.op_type for node in net.model.graph.node] == ["MaxPool", "Relu", "Pad", "MaxPool"]
    assert net.values == {"pool": "relu", "edge": "edge"}
    assert [value.name for value in net.model.graph.output] == ["relu", "edge"]


def test_an_old_node_gets_its_old_opset() -> None:
    """Upsample lost its scales' attribute in opset 9; a MaxPool that rounds up needs 10: both is none."""
    layers = [LayerParameter(name="zoom", type="Interp", bottom=["data"], top=["zoom"])]
    layers[0].interp_param.height = layers[0].interp_param.width = 12
    net = convert_layers(layers, [], {"data": (1, 2, 6, 6)})
    assert [opset.version for opset in net.model.opset_import] == [8]
    layers.append(LayerParameter(name="pool", type="Pooling", bottom=["data"], top=["pool"]))
    layers[1].pooling_param.kernel_size = 2
    with pytest.raises(NotConvertibleError, match=r"^zoom: .* Upsample of it that suits no opset"):
        convert_layers(layers, [], {"data": (1, 2, 6, 6)})


def test_onnx2torch_leaves_no_torchvision_behind() -> None:
    needs("onnx2torch")
    there = "torchvision" in sys.modules
    with onnx_engine._no_torchvision():
        import onnx2torch.node_converters  # noqa: F401
    assert ("torchvision" in sys.modules) == there


# ---- what it gets wrong, and what it cannot


@BOTH
def test_what_it_gets_wrong_is_out(tmp_path: Path, engine: str) -> None:
    report = judged(tmp_path, WRONG, engine)
    assert not report.not_carried
    assert [row.blob for row in report.rows if not row.within] == [
        *("k", "within", "soft", "minus", "past", "bn", "row")
    ]


@BOTH
def test_what_it_cannot_convert_is_named(tmp_path: Path, engine: str) -> None:
    """The layer that is to blame, not the one at which the converter falls; the others are compared."""
    report = judged(tmp_path, REFUSED, engine)
    assert [row.blob for row in report.rows] == ["relu", "tanh"] and report.within
    reasons = report.not_carried
    assert set(reasons) == {"product", "after", "tile", "twice"}
    assert reasons["product"].startswith("caffe2onnx fails with ")
    assert reasons["after"] == 'it comes after "product"'
    assert reasons["tile"] == "caffe2onnx says Failed type not support: Tile"
    assert reasons["twice"].startswith("caffe2onnx makes a Conv of it that suits no opset")
    assert not any("\n" in reason for reason in reasons.values())


def test_deeplab_up_to_its_interp() -> None:
    """With padded pooling, which takes onnx2torch a Pad with a scalar."""
    needs("onnx2torch")
    net = NETS / "deeplab_largefov" / "narrow_deploy.prototxt"
    data = {"data": np.random.default_rng(0).normal(0, 50, (1, 3, 65, 65)).astype(np.float32)}
    (report,) = compare(net, inputs=data, engines=["onnx2torch"]).engines
    assert report.within and len(report.rows) == 22
    assert list(report.not_carried) == ["upscore", "softmax"]


# ---- bad input


def test_a_missing_package_stops_its_engine_alone(
    seenet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    (tmp_path / "net.prototxt").write_text(SMALL)
    arguments = ("parity", "--prototxt", tmp_path / "net.prototxt", "--engines")
    page = tmp_path / "parity.html"
    status, out, err = seenet(*arguments, "port,onnx2torch,opencv,onnxruntime", "--html", page)
    assert (status, err) == (1, "")
    for engine in ("port", "opencv", "onnxruntime"):
        assert re.search(rf"^{engine}: 1 blobs", out, re.M) and f"{engine}: 1 blobs" in page.read_text()
    assert re.search(r"^onnx2torch is not available: onnx2torch must be installed: pip install ", out, re.M)
    status, out, err = seenet(*arguments, "onnx2torch")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: engine onnx2torch: onnx2torch must be installed: pip install ")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "for want of memory"),
        ("raise MemoryError", "for want of memory"),
        ("import no_such_package", "does not run here .*no_such_package.*: pip install"),
    ],
)
def test_a_converter_that_dies_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    needs("onnxruntime")
    (tmp_path / "net.prototxt").write_text(SMALL)
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(onnx_route, "_PROCESS", tmp_path / "script.py")
    report = compare(tmp_path / "net.prototxt", engines=["port", "onnxruntime"])
    assert [engine.name for engine in report.engines] == ["port"] and not report.within
    assert re.search(says, report.absent["onnxruntime"]) and "\n" not in report.absent["onnxruntime"]


def test_too_little_memory_to_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnxruntime")

    def full(model: object, fed: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setitem(onnx_engine._RUNTIMES, "onnxruntime", full)
    (tmp_path / "net.prototxt").write_text(SMALL)
    with pytest.raises(InputError, match="too little memory"):
        compare(tmp_path / "net.prototxt", engines=["onnxruntime"])


def relu_model(opset: int) -> Any:
    value = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")
    }
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "relu", [value["x"]], [value["y"]])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def test_onnx_files(tmp_path: Path) -> None:
    good = relu_model(11).SerializeToString()
    (tmp_path / "good.onnx").write_bytes(good)
    assert read_onnx(tmp_path / "good.onnx").graph.node[0].op_type == "Relu"
    bad = {"old": relu_model(6).SerializeToString(), "cut": good[:-9], "text": b"name: 'net'", "empty": b""}
    for name, content in bad.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(
            InputError, match="follows opset 6, too old" if name == "old" else "corrupt"
        ) as error:
            read_onnx(tmp_path / f"{name}.onnx")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")


def test_a_corrupt_caffemodel_is_refused(seenet: Run, tmp_path: Path) -> None:
    (tmp_path / "cut.caffemodel").write_bytes(b"\x0a\x10half")
    net = NETS / "seenet" / "narrow_deploy.prototxt"
    arguments = ("--weights", tmp_path / "cut.caffemodel", "--engines", "onnxruntime")
    status, out, err = seenet("parity", "--prototxt", net, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "cut.caffemodel" in err
