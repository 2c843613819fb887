"""`seenet parity`: engines that agree, faults that are caught and named, input that is refused."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import port.layer
import port.pycaffe
import reference.pycaffe
from parity_tests.compare.report import Row
from parity_tests.compare.run import ENGINES, compare
from parity_tests.recordings import NETS, he_uniform
from port.layers.erasing import CReLULayer
from port.net_inputs import published_inputs
from prototxt.errors import InputError
from runtime import TEST
from weights import LayerWeights, write_weights
from weights.rebuilt import rebuilt_weights

Run = Callable[..., tuple[int, str, str]]

NARROW = NETS / "seenet" / "narrow_deploy.prototxt"

SMALL = """
name: "small"
input: "data"  input_shape { dim: 2 dim: 3 dim: 21 dim: 26 }
layer { name: "conv/1" type: "Convolution" bottom: "data" top: "conv/1"
  convolution_param { num_output: 6 kernel_size: 5 stride: 2 pad: 1 group: 3 } }
layer { name: "relu.1" type: "ReLU" bottom: "conv/1" top: "conv/1" }
layer { name: "norm" type: "LRN" bottom: "conv/1" top: "norm" lrn_param { local_size: 3 alpha: 0.01 } }
layer { name: "max" type: "Pooling" bottom: "norm" top: "max" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "floor" type: "Pooling" bottom: "norm" top: "floor"
  pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR } }
layer { name: "ave" type: "Pooling" bottom: "max" top: "ave"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "slice" type: "Slice" bottom: "ave" top: "a" top: "b" slice_param { slice_point: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "ave" bottom: "ave" top: "sum" eltwise_param { coeff: 1 coeff: -0.5 } }
layer { name: "join" type: "Concat" bottom: "b" bottom: "sum" bottom: "a" top: "join" }
layer { name: "bn" type: "BatchNorm" bottom: "join" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" inner_product_param { num_output: 7 } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "tanh" type: "TanH" bottom: "ip" top: "tanh" }
layer { name: "prob" type: "Softmax" bottom: "tanh" top: "prob" }
"""

MASKED = """
layer { name: "in" type: "Input" top: "data" top: "tags"
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 11 } shape { dim: 1 dim: 1 dim: 1 dim: 1 } } }
layer { name: "features" type: "Convolution" bottom: "data" top: "features"
  convolution_param { num_output: 5 kernel_size: 3 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "features" top: "features" }
layer { name: "scores" type: "Convolution" bottom: "features" top: "scores"
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "erase" type: "Python" bottom: "features" bottom: "scores" bottom: "tags" top: "erased"
  python_param { module: "crelu_layer" layer: "CReLULayer" param_str: "{'maxt': 0.7, 'mint': 0.2}" } }
layer { name: "scan" type: "Python" bottom: "features" bottom: "scores" bottom: "tags" top: "background"
  python_param { module: "scan_background_layer" layer: "BackgroundMaskLayer" param_str: "{'thresh': 0.4}" } }
layer { name: "out" type: "Convolution" bottom: "erased" bottom: "background" top: "out_b2" top: "out_b3"
  convolution_param { num_output: 4 kernel_size: 1 } }
"""

AMPLIFIED = """
input: "data"  input_shape { dim: 1 dim: 2 }
layer { name: "wide" type: "Power" bottom: "data" top: "wide" power_param { scale: 2 } }
layer { name: "prob" type: "Sigmoid" bottom: "wide" top: "prob" }
"""

NOT_OPENCVS = """
input: "data"  input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
layer { name: "tile" type: "Tile" bottom: "relu" top: "tile" tile_param { tiles: 2 } }
layer { name: "total" type: "Reduction" bottom: "tile" top: "total" }
layer { name: "lrn" type: "LRN" bottom: "relu" top: "lrn" lrn_param { k: 2 } }
layer { name: "tanh" type: "TanH" bottom: "data" top: "tanh" }
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nets, narrow SeeNet's weights, and images, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    texts = {"small": SMALL, "masked": MASKED, "amplified": AMPLIFIED, "limits": NOT_OPENCVS}
    texts["torn"] = SMALL[:-20]
    texts["closed"] = 'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 1 } } }'
    texts["script"] = MASKED.replace("crelu_layer", "os")
    for name, text in texts.items():
        (folder / f"{name}.prototxt").write_text(text)
    net = port.pycaffe.Net(str(NARROW), TEST, allow_modules=())
    weights = rebuilt_weights(net, 3)
    write_weights(folder / "narrow.caffemodel", weights)
    write_weights(folder / "half.safetensors", weights[:13])
    weights[3].blobs[0][0, 0, 0, 0] = np.nan
    write_weights(folder / "nan.caffemodel", weights)
    write_weights(
        folder / "other.caffemodel", [LayerWeights("fc9", "InnerProduct", [np.ones((2, 2), np.float32)])]
    )
    (folder / "cut.caffemodel").write_bytes((folder / "narrow.caffemodel").read_bytes()[:-1000])
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
    for name, picture in {"a": image, "grey": image[:, :, 0], "dot": image[:1, :1]}.items():
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:200])
    return folder


def test_engines_agree_on_seenet(seenet: Run, files: Path, tmp_path: Path) -> None:
    page = tmp_path / "parity.html"
    status, out, err = seenet("parity", 
        "--prototxt", NARROW, "--weights", files / "narrow.caffemodel", "--image", files / "a.png",
        "--labels", "person,7", "--test-size", 90, "--html", page,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "port: pycaffe's Net and CaffeNet are equal in every blob" in out
    blobs = [name for name in port.pycaffe.Net(str(NARROW), TEST).blobs if "split" not in name][2:]
    assert [line.split()[0] for line in out.splitlines() if line.rstrip().endswith(("within", "inherited"))][
        : len(blobs)
    ] == blobs
    assert "1×4×90×90" in out and "person, cat" in out
    assert "C-ReLU positions that differ, of 36: port 0, reference 0, opencv 0" in out
    for engine in ("port", "reference", "opencv"):
        assert re.search(rf"^{engine}: 26 blobs in .*: within$", out.replace("\nwithin", "within"), re.M)
    assert "caffe is not compared: genuine pycaffe is not importable here" in out
    text = page.read_text()
    assert all(f"<td>{blob}</td>" in text for blob in blobs) and text.count("<svg") == 1
    assert set(re.findall(r"""https?://[^"' <]+""", text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\((?!#)|src=", text)
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(("name", "blobs"), [("small", 13), ("masked", 6)])
@pytest.mark.parametrize("seed", range(3))
def test_engines_agree_on_other_nets(files: Path, name: str, blobs: int, seed: int) -> None:
    """Odd sizes, two tops, names with dots and slashes; batches, both masks, a label blob declared too small."""
    report = compare(files / f"{name}.prototxt", seed=seed)
    assert report.within, report.notes
    assert [engine.name for engine in report.engines] == ["port", "reference", "opencv"]
    for engine in report.engines:
        assert [row.blob for row in engine.rows] == list(report.shapes) and not engine.not_carried
        assert max(row.relative for row in engine.rows) < 1e-5
    assert len(report.shapes) == blobs
    if name == "masked":
        assert report.positions == {"erase": 2 * 9 * 11, "scan": 2 * 9 * 11}
        assert all(engine.flips == {"erase": 0, "scan": 0} for engine in report.engines)


def test_inputs_follow_the_published_procedure(files: Path) -> None:
    image = cv2.imread(str(files / "a.png"))
    inputs = published_inputs(NARROW, image, [14, 2], test_size=33)
    data = cv2.resize(image.astype(np.float64), (33, 33), interpolation=cv2.INTER_CUBIC)
    data = (data - (104.007, 116.669, 122.679)).transpose(2, 0, 1)
    assert np.array_equal(inputs["data"], data[None].astype(np.float32))
    assert inputs["label"].shape == (1, 1, 1, 20) and np.flatnonzero(inputs["label"]).tolist() == [2, 14]
    assert published_inputs(files / "masked.prototxt", labels=[1]).keys() == {"tags"}


def test_rebuilt_weights_are_the_recordings(files: Path) -> None:
    net = reference.pycaffe.Net(str(NARROW), TEST)
    expected = he_uniform({name: [b.shape for b in blobs] for name, blobs in net.params.items()}, 5)
    for layer in rebuilt_weights(net, 5):
        assert all(map(np.array_equal, layer.blobs, expected.pop(layer.name)))
    assert not expected
    small = {
        layer.name: layer
        for layer in rebuilt_weights(reference.pycaffe.Net(files / "small.prototxt", TEST), 0)
    }
    mean, variance, factor = small["bn"].blobs
    assert abs(mean).max() < 0.1 and abs(variance - 1).max() < 0.1 and factor.tolist() == [1]


# ---- faults


def replaced(monkeypatch: pytest.MonkeyPatch, after: Callable[[port.pycaffe.Net, str], None]) -> None:
    """Let `after(net, layer)` tamper with the port each time that a layer has run."""

    class Net(port.pycaffe.Net):
        def _forward(self, start: int, end: int) -> float:
            loss = super()._forward(start, end)
            after(self, self._layer_names[end])
            return loss

    module = SimpleNamespace(Net=Net, set_random_seed=port.pycaffe.set_random_seed)
    monkeypatch.setitem(sys.modules, "tampered", module)
    monkeypatch.setitem(ENGINES, "port", "tampered")


def test_a_corrupted_weight_is_caught(
    seenet: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(net: port.pycaffe.Net, layer: str) -> None:
        if layer == "conv2_2":
            net.params["conv3_1"][0].data[0, 0, 1, 1] += 1e-3

    replaced(monkeypatch, corrupt)
    page = tmp_path / "parity.html"
    arguments = ("--prototxt", NARROW, "--weights", files / "narrow.caffemodel", "--image", files / "a.png")
    status, out, err = seenet(
        "parity", *arguments, "--test-size", 64, "--engines", "port,opencv", "--html", page
    )
    assert (status, err) == (1, "")
    assert re.search(r"^port: 26 blobs .* out, the first conv3_1 by ", out, re.M)
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert lines["pool2"].rstrip().endswith("within")
    assert lines["conv3_1"].rstrip().endswith("OUT: port (pycaffe's Net)")
    assert 'class="out">OUT' in page.read_text()


def test_a_layer_that_rounds_more_coarsely_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors such as reduced-precision arithmetic makes, far below what any picture would show."""

    def coarsen(net: port.pycaffe.Net, layer: str) -> None:
        if layer == "conv4_2":
            data = net.blobs["conv4_2"].data
            data[...] = (data.view(np.int32) & ~0x3F).view(np.float32)

    replaced(monkeypatch, coarsen)
    (engine,) = compare(NARROW, engines=["port"]).engines
    assert engine.out[0].blob == "conv4_2" and engine.out[0].relative < 1e-5
    assert not engine.within


def test_a_flipped_decision_is_caught(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    class Bolder(CReLULayer):
        def set_up(self, *shapes: tuple[int, ...]) -> None:
            super().set_up(*shapes)
            self.mask.maxt = 0.6

    monkeypatch.setitem(port.layer.PYTHON_LAYERS, ("crelu_layer", "CReLULayer"), Bolder)
    report = compare(files / "masked.prototxt")
    ours, theirs, opencv = report.engines
    assert ours.flips["erase"] > 0 == ours.flips["scan"] and ours.out[0].blob == "erased"
    assert theirs.within and opencv.within and not report.within
    assert any(f"port {ours.flips['erase']}, reference 0, opencv 0" in note for note in report.notes)


def test_nothing_that_is_not_a_number_is_within(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    def spoil(net: port.pycaffe.Net, layer: str) -> None:
        if layer == "ave":
            net.blobs["ave"].data[0, 0, 0, 0] = np.nan

    replaced(monkeypatch, spoil)
    (engine,) = compare(files / "small.prototxt", engines=["port"]).engines
    assert engine.out[0].blob == "ave" and np.isinf(engine.out[0].difference)


@pytest.mark.parametrize(("tampered", "by", "out"), [("wide", 1e-5, []), ("prob", 1e-6, ["prob"])])
def test_what_is_inherited_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, files: Path, tampered: str, by: float, out: list[str]
) -> None:
    """1e-5 beside a value of 1000 is nothing; a sigmoid makes 2e-6 of 1 of it, by no fault of its own."""

    def nudge(net: port.pycaffe.Net, layer: str) -> None:
        if layer == tampered:
            net.blobs[layer].data[0, 1] += by

    replaced(monkeypatch, nudge)
    data = {"data": np.array([[500, 0.25]], np.float32)}
    (engine,) = compare(files / "amplified.prototxt", inputs=data, engines=["port"]).engines
    assert [row.blob for row in engine.out] == out


@pytest.mark.parametrize(
    ("engine", "largest", "difference", "own", "within"),
    [
        ("opencv", 2.0, 1.9e-5, 1e-9, True),
        ("opencv", 2.0, 2.1e-5, 1e-5, False),
        ("reference", 2.0, 2.1e-5, 2.1e-5, False),
    ],
)
def test_the_rule_for_others(
    engine: str, largest: float, difference: float, own: float, within: bool
) -> None:
    assert Row(engine, "blob", largest, difference, own).within == within


# ---- engines that cannot, or are not there


def test_what_opencv_does_not_carry_is_named(seenet: Run, files: Path) -> None:
    status, out, err = seenet(
        "parity", "--prototxt", files / "limits.prototxt", "--engines", "reference,opencv"
    )
    assert (status, err) == (0, "")
    assert re.search(r"^reference: 5 blobs", out, re.M) and re.search(r"^opencv: 2 blobs", out, re.M)
    for layer, why in {
        "tile": "OpenCV says",
        "total": 'it comes after "tile"',
        "lrn": "OpenCV does not heed k",
    }.items():
        assert f"not supported by opencv: {layer} ({why}" in out
    assert re.search(r"^ *total .*–", out, re.M)


def test_genuine_caffe_joins_where_it_is_importable(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    genuine = SimpleNamespace(
        Net=lambda file, phase: reference.pycaffe.Net(file, phase), set_random_seed=lambda seed: None
    )
    monkeypatch.setitem(sys.modules, "caffe", genuine)
    assert [engine.name for engine in compare(files / "small.prototxt").engines][-1] == "caffe"
    asked = compare(files / "small.prototxt", engines=["caffe", "port"])
    assert [engine.name for engine in asked.engines] == ["caffe", "port"] and asked.within
    # It would import a prototxt's modules by itself, so not before they are allowed.
    masked = compare(files / "masked.prototxt")
    assert len(masked.engines) == 3 and "--allow-module crelu_layer" in masked.remarks[0]
    with pytest.raises(InputError, match="--allow-module"):
        compare(files / "masked.prototxt", engines=["caffe"])
    allowed = ["crelu_layer", "scan_background_layer"]
    assert compare(files / "masked.prototxt", engines=["caffe"], allow_modules=allowed).within


def test_weights_that_a_file_lacks_are_the_same_everywhere(files: Path) -> None:
    report = compare(NARROW, files / "half.safetensors", {"data": np.ones((1, 3, 32, 32), np.float32)})
    assert report.within and "has no weights for conv1_b1" in report.remarks[-1]


# ---- bad input

BAD = {
    "no such net": ("--prototxt", "{}/none.prototxt"),
    "a net cut short": ("--prototxt", "{}/torn.prototxt"),
    "no inputs": ("--prototxt", "{}/closed.prototxt"),
    "a script's layer": ("--prototxt", "{}/script.prototxt"),
    "no such weights": ("--prototxt", "{}/small.prototxt", "--weights", "{}/none.caffemodel"),
    "weights cut short": ("--prototxt", str(NARROW), "--weights", "{}/cut.caffemodel"),
    "NaN": ("--prototxt", str(NARROW), "--weights", "{}/nan.caffemodel"),
    "another net's weights": ("--prototxt", str(NARROW), "--weights", "{}/other.caffemodel"),
    "other shapes": ("--prototxt", str(NETS / "seenet/deploy.prototxt"), "--weights", "{}/narrow.caffemodel"),
    "no such engine": ("--prototxt", "{}/small.prototxt", "--engines", "port,tensorflow"),
    "no engine": ("--prototxt", "{}/small.prototxt", "--engines", ","),
    "caffe": ("--prototxt", "{}/small.prototxt", "--engines", "caffe"),
    "no such class": ("--prototxt", str(NARROW), "--labels", "unicorn"),
    "class 20": ("--prototxt", str(NARROW), "--labels", "20"),
    "no label input": ("--prototxt", "{}/small.prototxt", "--labels", "cat"),
    "no image input": ("--prototxt", "{}/amplified.prototxt", "--image", "{}/a.png"),
    "image of one pixel": ("--prototxt", str(NARROW), "--image", "{}/dot.png"),
    "grey image": ("--prototxt", str(NARROW), "--image", "{}/grey.png"),
    "torn image": ("--prototxt", str(NARROW), "--image", "{}/torn.png"),
    "another size": ("--prototxt", "{}/small.prototxt", "--image", "{}/a.png", "--test-size", "64"),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(seenet: Run, files: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    page = tmp_path / "parity.html"
    status, out, err = seenet("parity", *(part.format(files) for part in arguments), "--html", page)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) > 20
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_page(seenet: Run, files: Path, tmp_path: Path) -> None:
    status, _, err = seenet("parity", "--prototxt", files / "small.prototxt", "--html", tmp_path)
    assert status == 2 and "is a folder" in err and not list(tmp_path.iterdir())


def test_inputs_by_name(files: Path) -> None:
    with pytest.raises(InputError, match='no input "image", but data'):
        compare(files / "small.prototxt", inputs={"image": np.zeros((1, 3, 8, 8), np.float32)})


def test_progress_reaches_the_end_of_every_engine(files: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    compare(files / "small.prototxt", progress=lambda what, done, total: seen.update({what: (done, total)}))
    assert list(seen) == ["truth (float64)", "reference", "port", "port, CaffeNet", "opencv"]
    assert all(done == total > 0 for done, total in seen.values())
