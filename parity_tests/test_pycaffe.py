"""pycaffe's interface beyond passes and solvers: io, NetSpec, Classifier, drawing, callbacks, sharing, errors."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

import port.pycaffe as caffe
from parity_tests.recordings import ENGINES
from port.pycaffe import layers as L
from port.pycaffe import params as P
from prototxt import parse_net
from prototxt.caffe_pb2 import BlobProto, LayerParameter, NetParameter
from prototxt.errors import InputError
from runtime.python_layer import import_caffe_as
from weights import read_caffemodel, read_hdf5

CAFFE_SOURCE = os.environ.get("CAFFE_SOURCE")

# What the published tests need of `six`, which nothing else here does.
SIX = "def itervalues(d):\n    return iter(d.values())\n"
RUN_TESTS = (
    "import sys, unittest\nunittest.main(module=None, argv=['tests', 'discover', '-s', sys.argv[1]])\n"
)


@pytest.mark.skipif(not CAFFE_SOURCE, reason="set CAFFE_SOURCE to a copy of Caffe 1.0's source")
def test_the_published_tests(tmp_path: Path) -> None:
    """pycaffe's own tests, unmodified, from a copy of Caffe's source. (Python 3.12 lacks what they call.)"""
    (tmp_path / "six.py").write_text(SIX)
    (tmp_path / "run_tests.py").write_text(RUN_TESTS)
    tests = Path(CAFFE_SOURCE, "python", "caffe", "test").resolve()
    command = [sys.executable, "-m", "port.pycaffe", "run_tests.py", str(tests)]
    environment = {**os.environ, "GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and re.search(r"^OK$", done.stderr, re.M), done.stderr[-4000:]
    assert int(re.search(r"Ran (\d+) tests", done.stderr)[1]) >= 52


def net_of(text: str, phase: int = caffe.TEST, engine: ModuleType = caffe):
    return engine.Net.from_message(parse_net(text), phase)


def source(*dims: int, name: str = "data") -> str:
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


IP = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2
    weight_filler { type: "uniform" min: -1 max: 1 } } }
"""


# ---- io


def test_arrays_and_messages() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    blob = caffe.io.array_to_blobproto(array, -array)
    assert np.array_equal(caffe.io.blobproto_to_array(blob), array)
    assert np.array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), -array)
    old = BlobProto(num=1, channels=2, height=3, width=4, data=range(24))
    assert caffe.io.blobproto_to_array(old).shape == (1, 2, 3, 4)
    with pytest.raises(ValueError):
        caffe.io.blobproto_to_array(BlobProto(data=range(24)))
    text = caffe.io.arraylist_to_blobprotovector_str([array, array[0]])
    assert [a.shape for a in caffe.io.blobprotovector_str_to_arraylist(text)] == [(2, 3, 4), (3, 4)]
    pixels = array.astype(np.uint8)
    datum = caffe.io.array_to_datum(pixels, label=7)
    assert datum.data == pixels.tobytes() and not datum.float_data and datum.label == 7
    again = caffe.io.datum_to_array(datum)
    again[0, 0, 0] = 9  # a copy of its own
    assert again.dtype == np.uint8 and np.array_equal(again.ravel()[1:], pixels.ravel()[1:])
    assert np.array_equal(caffe.io.datum_to_array(caffe.io.array_to_datum(array / 3)), array / 3)
    assert not caffe.io.array_to_datum(array).HasField("label")
    with pytest.raises(ValueError):
        caffe.io.array_to_datum(array[0])


@pytest.mark.parametrize("shape, size", [((10, 13, 3), (7, 5)), ((6, 5, 3), (17, 9)), ((8, 8, 1), (3, 20))])
def test_resizing_is_that_of_the_time(shape: tuple, size: tuple) -> None:
    """scikit-image's `resize` until 0.14 was this warp: bilinear, zeros outside, no smoothing."""
    transform = pytest.importorskip("skimage.transform")
    image = np.random.RandomState(0).rand(*shape).astype(np.float32) * 200 - 50
    low, high = image.min(), image.max()
    y, x = shape[0] / size[0], shape[1] / size[1]
    onto = transform.AffineTransform(matrix=[[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
    normal = ((image - low) / (high - low)).astype(float)
    expected = transform.warp(normal, onto, output_shape=size, order=1, mode="constant") * (high - low) + low
    assert np.abs(caffe.io.resize_image(image, size) - expected).max() <= 1e-7 * 200


def test_resizing_what_is_no_photograph() -> None:
    assert np.array_equal(caffe.io.resize_image(np.full((4, 4, 3), 7.0), (2, 9)), np.full((2, 9, 3), 7.0))
    ramp = np.tile(np.linspace(0, 1, 5)[:, None, None], (1, 3, 21))
    resized = caffe.io.resize_image(ramp, (9, 3))
    assert resized.dtype == np.float32 and np.allclose(resized[:, 0, 0], np.linspace(0, 1, 9))
    corners = caffe.io.resize_image(np.eye(4)[:, :, None], (2, 2), interp_order=0)
    assert corners.shape == (2, 2, 1)


def test_images_in_files(tmp_path: Path) -> None:
    pixels = np.random.RandomState(1).randint(0, 256, (5, 6, 4)).astype(np.uint8)
    for name, array in (("c", pixels[..., :3]), ("a", pixels), ("g", pixels[..., 0])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), array)
    cv2.imwrite(str(tmp_path / "w.png"), pixels[..., 0].astype(np.uint16) * 257)
    rgb = pixels[:, :, 2::-1] / 255
    for name in ("c", "a"):
        assert np.array_equal(caffe.io.load_image(str(tmp_path / f"{name}.png")), rgb.astype(np.float32))
    grey = caffe.io.load_image(tmp_path / "c.png", color=False)
    assert grey.shape == (5, 6, 1) and np.allclose(grey[..., 0], rgb @ [0.2125, 0.7154, 0.0721])
    for name in ("g", "w"):
        assert caffe.io.load_image(tmp_path / f"{name}.png", color=False).shape == (5, 6, 1)
        image = caffe.io.load_image(tmp_path / f"{name}.png")
        assert image.shape == (5, 6, 3) and np.allclose(image[..., 2], pixels[..., 0] / 255)
    photo = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    photo.convert("CMYK").save(tmp_path / "print.jpg")
    told = np.asarray(Image.open(tmp_path / "print.jpg").convert("RGB")) / 255
    assert np.array_equal(caffe.io.load_image(tmp_path / "print.jpg"), told.astype(np.float32))
    photo.save(
        tmp_path / "film.gif", save_all=True, append_images=[photo.transpose(Image.Transpose.ROTATE_180)]
    )
    with pytest.raises(ValueError, match=r"film\.gif: holds several images"):
        caffe.io.load_image(tmp_path / "film.gif")
    with pytest.raises(FileNotFoundError):
        caffe.io.load_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: does not decode"):
        caffe.io.load_image(tmp_path / "text.png")


def test_transformer() -> None:
    transformer = caffe.io.Transformer({"data": (2, 3, 4, 5)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([104.0, 117.0, 123.0]))
    transformer.set_input_scale("data", 0.5)
    image = np.random.RandomState(0).rand(4, 5, 3)
    blob = transformer.preprocess("data", image)
    expected = (image.transpose(2, 0, 1)[::-1] * 255 - np.array([[[104]], [[117]], [[123]]])) / 2
    assert blob.dtype == np.float32 and np.abs(blob - expected).max() <= 1e-4
    assert np.abs(transformer.deprocess("data", blob[np.newaxis]) - image).max() <= 1e-6
    assert transformer.preprocess("data", np.random.rand(9, 9, 3)).shape == (3, 4, 5)
    transformer.set_mean("data", np.stack([np.full((8, 8), c) + np.eye(8) for c in (1.0, 2.0, 3.0)]))
    assert transformer.mean["data"].shape == (3, 4, 5)
    for call, arguments in (
        (transformer.preprocess, ("other", image)),
        (transformer.set_transpose, ("data", (1, 0))),
        (transformer.set_channel_swap, ("data", (1, 0))),
        (transformer.set_mean, ("data", np.zeros(4))),
        (transformer.set_mean, ("data", np.zeros((1, 3, 4, 5)))),
    ):
        with pytest.raises(Exception, match=r"not one of|number of dimensions|Mean"):
            call(*arguments)


def test_oversampling() -> None:
    images = np.random.RandomState(0).rand(2, 7, 8, 3).astype(np.float32)
    crops = caffe.io.oversample(images, (4, 4))
    assert crops.shape == (20, 4, 4, 3)
    assert np.array_equal(crops[2], images[0, 3:, :4]) and np.array_equal(crops[4], images[0, 1:5, 2:6])
    assert np.array_equal(crops[15:], crops[10:15, :, ::-1])


# ---- NetSpec


def test_net_spec_writes_a_net() -> None:
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        ntop=2, shape=[{"dim": [2, 1, 8, 8]}, {"dim": [2]}], transform_param={"scale": 0.5}
    )
    n.conv = L.Convolution(n.data, kernel_size=3, num_output=4, param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n["pool"] = L.Pooling(n.conv, kernel_size=2, stride=2, pool=P.Pooling.AVE)
    n.relu = L.ReLU(n["pool"], in_place=True)
    n.ip = L.InnerProduct(L.Dropout(n.relu), num_output=3, weight_filler={"type": "xavier"})
    n.loss = L.SoftmaxWithLoss(n.ip, n.label, loss_weight=2, include={"phase": caffe.TRAIN})
    n.quiet = L.Silence(n.ip, ntop=0)
    net = n.to_proto()
    names = ["data", "conv", "pool", "relu", "Dropout1", "ip", "loss", "quiet"]
    assert [layer.name for layer in net.layer] == names
    by_name = {layer.name: layer for layer in net.layer}
    assert list(by_name["data"].top) == ["data", "label"]
    assert list(by_name["relu"].top) == list(by_name["relu"].bottom) == ["pool"]
    assert list(by_name["Dropout1"].bottom) == ["pool"]
    assert [spec.lr_mult for spec in by_name["conv"].param] == [1, 2]
    assert by_name["pool"].pooling_param.pool == 1 and by_name["loss"].include[0].phase == 0
    assert list(by_name["conv"].convolution_param.kernel_size) == [3]
    assert not by_name["quiet"].top
    assert "ip" in caffe.Net.from_message(parse_net(str(net)), caffe.TRAIN).params
    assert [x.name for x in n.ip.to_proto().layer] == [
        "DummyData1",
        "Convolution1",
        "Pooling1",
        "ReLU1",
        "Dropout1",
        "InnerProduct1",
    ]
    assert caffe.to_proto(n.conv, n.pool).layer[2].name == "Pooling1"


def test_net_spec_refuses() -> None:
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    with pytest.raises(AttributeError):
        L.ReLU(pair[0], no_such_field=1).to_proto()


def test_a_net_deeper_than_the_stack() -> None:
    top = L.Input(shape={"dim": [1]})
    for _ in range(3000):
        top = L.ReLU(top)
    assert top.to_proto().layer[-1].name == "ReLU3000"


def test_coordinates_of_the_published_fcn() -> None:
    """FCN-32s pads its first convolution by 100 and crops by 19."""
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, 500, 500]})
    top = n.data
    for block, convolutions in enumerate((2, 2, 3, 3, 3)):
        for i in range(convolutions):
            pad = 100 if block == i == 0 else 1
            top = L.ReLU(L.Convolution(top, kernel_size=3, pad=pad, num_output=1), in_place=True)
        top = L.Pooling(top, kernel_size=2, stride=2)
    n.score = L.Convolution(L.Dropout(L.Convolution(top, kernel_size=7, num_output=1)), kernel_size=1)
    n.up = L.Deconvolution(n.score, convolution_param={"kernel_size": 64, "stride": 32})
    crop = caffe.coord_map.crop(n.up, n.data)
    assert crop.fn.type_name == "Crop" and crop.fn.params["crop_param"] == {"axis": 2, "offset": [19]}
    with pytest.raises(AssertionError, match="scale mismatch"):
        caffe.coord_map.crop(n.score, n.data)
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        caffe.coord_map.coord_map_from_to(L.InnerProduct(n.up), n.data)
    with pytest.raises(caffe.coord_map.AxisMismatchException):
        caffe.coord_map.compose((1, 1, 0), (2, 1, 0))


# ---- nets


def test_more_inputs_than_a_batch(caffe: ModuleType) -> None:
    loss = 'layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" loss_weight: 1 }'
    net = net_of("force_backward: true " + source(3, 2) + IP + loss, engine=caffe)
    data = np.random.RandomState(0).rand(7, 2).astype(np.float32)
    weights = net.params["ip"][0].data
    outs = net.forward_all(blobs=["ip"], data=data)
    assert np.allclose(outs["ip"], data @ weights.T, atol=1e-6) and outs["sum"].shape == (3,)
    outs, diffs = net.forward_backward_all(blobs=["ip"], data=data)
    assert len(outs["ip"]) == len(diffs["data"]) == 7
    assert np.allclose(diffs["data"], weights.sum(0), atol=1e-6)
    batches = list(net._batch({"data": data}))
    assert [len(batch["data"]) for batch in batches] == [3, 3, 3] and not batches[2]["data"][1:].any()
    for wrong, what in (({"other": data}, "do not match net inputs"), ({"data": data}, "not batch sized")):
        with pytest.raises(Exception, match=what):
            net.forward(**wrong)


def test_callbacks_and_indices(caffe: ModuleType) -> None:
    net = net_of(source(2, 2) + IP + source(2, 2, name="target") + LOSS, caffe.TRAIN, caffe)
    assert [net._bottom_ids(i) for i in range(4)] == [[], [0], [], [1, 2]] and net._top_ids(3) == [3]
    assert net._blob_loss_weights == [0, 0, 0, 3] and net.blob_loss_weights["loss"] == 3
    assert [layer.type for layer in net.layers] == ["Input", "InnerProduct", "Input", "EuclideanLoss"]
    assert net.layer_dict["ip"].blobs[0] is net.params["ip"][0]
    net.forward()
    told = []
    for when in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, when)(lambda layer, when=when: told.append((when, layer)))
    net.forward(start="ip", end="ip")
    net.backward()
    assert told[:2] == [("before_forward", 1), ("after_forward", 1)]
    assert told[2:] == [(when, i) for i in (3, 2, 1, 0) for when in ("before_backward", "after_backward")]


LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" loss_weight: 3 }'


def test_what_a_script_writes_is_what_the_net_reads(caffe: ModuleType) -> None:
    net = net_of(source(2, 2) + IP, engine=caffe)
    held = net.params["ip"][0].data
    held[...] = [[1, 2], [3, 4]]
    net.blobs["data"].data[...] = 1
    assert net.forward()["ip"].tolist() == [[3, 7], [3, 7]]
    with pytest.raises(AttributeError):
        net.blobs["data"].data = held
    other = net_of(source(1, 2) + IP, engine=caffe)
    other.share_with(net)
    held[0] = 5
    other.blobs["data"].data[...] = 1
    assert other.forward()["ip"].tolist() == [[10, 7]]
    other.params["ip"][0].data[...] = 0
    assert not held.any()


def test_a_view_of_a_blob_shows_later_passes(caffe: ModuleType) -> None:
    """Also where nobody had a view before, and the blob's memory was another."""
    relu = 'layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }\n'
    text = source(2, 3) + IP + relu + IP.replace('"ip"', '"ip2"').replace('"data"', '"ip"')
    net, draw = net_of(text, engine=caffe), np.random.RandomState(0)
    given = [draw.randn(2, 3).astype(np.float32) for _ in range(4)]
    weight = [net.params[name][0].data for name in ("ip", "ip2")]

    def due(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = np.maximum(x @ weight[0].T, 0)
        return hidden, hidden @ weight[1].T

    last = net.blobs["ip2"].data
    for x in given[:3]:
        net.forward(data=x)
        np.testing.assert_allclose(last, due(x)[1], atol=1e-6)
    hidden = net.blobs["ip"].data
    np.testing.assert_allclose(hidden, due(given[2])[0], atol=1e-6)
    net.forward(data=given[3])
    np.testing.assert_allclose(hidden, due(given[3])[0], atol=1e-6)
    assert np.shares_memory(hidden, net.blobs["ip"].data)
    hidden[...] = 1
    net.forward(start="ip2")
    np.testing.assert_allclose(last, np.ones((2, 2)) @ weight[1].T, atol=1e-6)


def test_backward_without_forward() -> None:
    net = net_of("force_backward: true " + source(2, 2) + IP)
    net.blobs["ip"].diff[...] = [[1, 0], [0, 1]]
    assert np.array_equal(net.backward(start="ip")["data"], net.params["ip"][0].data)


def test_saving_goes_by_the_method_not_the_name(caffe: ModuleType, tmp_path: Path) -> None:
    shared = IP.replace("inner_product_param", 'param { name: "w" } inner_product_param')
    twice = shared + shared.replace('"ip"', '"again"')
    net = net_of(source(1, 2) + twice, engine=caffe)
    net.save(str(tmp_path / "weights.bin"))
    assert [layer.name for layer in read_caffemodel(tmp_path / "weights.bin")] == ["ip", "again"]
    net.save_hdf5(str(tmp_path / "weights"))
    by_name = {layer.name: layer for layer in read_hdf5(tmp_path / "weights")}
    assert by_name["ip"].blobs[0] is not None and by_name["again"].blobs[0] is None
    with h5py.File(tmp_path / "weights") as file:
        assert set(file["data"]) == {"data", "data_data_0_split", "ip", "again"}
    loaded = [net_of(source(1, 2) + twice, engine=caffe) for _ in range(2)]
    loaded[0].copy_from(str(tmp_path / "weights.bin"))
    loaded[1].load_hdf5(str(tmp_path / "weights"))
    for other in loaded:
        for name, blobs in net.params.items():
            for mine, theirs in zip(blobs, other.params[name], strict=True):
                assert np.array_equal(mine.data, theirs.data)


def test_errors_are_of_pycaffes_types(caffe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(source(1, 2) + IP)
    name = str(tmp_path / "net.prototxt")
    for arguments in (
        ("nothing.prototxt", 1),
        (name, 1, 0, None, "nothing.caffemodel"),
        (name, "nothing", 1),
    ):
        with pytest.raises(RuntimeError, match=r"nothing.*: cannot be read"):
            caffe.Net(*arguments)
    net = caffe.Net(name, caffe.TEST)
    with pytest.raises(RuntimeError, match="nothing: cannot be read"):
        net.copy_from("nothing")
    with pytest.raises(ValueError, match="nowhere"):
        net.forward(start="nowhere")
    with pytest.raises(KeyError):
        net.forward(blobs=["nowhere"])


def test_memory_data_refuses() -> None:
    with pytest.raises(RuntimeError, match="no MemoryData"):
        net_of(source(1)).set_input_arrays(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    layer = 'layer { name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param { %s } }'
    net = net_of(layer % "batch_size: 2 channels: 1 height: 2 width: 2")
    for data in (np.zeros((2, 1, 2, 2)), np.zeros((2, 1, 2, 3), "f4"), np.zeros((3, 1, 2, 2), "f4")):
        with pytest.raises(RuntimeError):
            net.set_input_arrays(data, np.zeros(len(data), np.float32))


# ---- Python layers

PYTHON = """
import caffe, numpy as np

class Grow(caffe.Layer):
    def setup(self, bottom, top):
        assert self.param_str == self.param_str_ == "3"
        self.blobs.add_blob(2)
        self.blobs[0].data[...] = int(self.param_str)
        self.passes = 0
    def reshape(self, bottom, top):
        self.passes += 1
        top[0].reshape(self.passes, 2)
    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.sum(0)
"""


@pytest.fixture
def grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prototxt of a layer with weights whose top gets a row longer with each pass."""
    (tmp_path / "grow_layer.py").write_text(PYTHON)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "grow_layer", raising=False)
    return 'layer { name: "grow" type: "Python" top: "data" \
        python_param { module: "grow_layer" layer: "Grow" param_str: "3" } }\n'


def test_a_python_layer_that_changes_shape(caffe: ModuleType, grow: str) -> None:
    net = net_of(grow + IP, engine=caffe)
    for rows in (2, 3, 4):
        out = net.forward()["ip"]
        assert out.shape == (rows, 2) == net.blobs["ip"].shape
        assert np.allclose(out, 3 * net.params["ip"][0].data.sum(1))


def test_a_python_layer_learns(grow: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        grow + 'layer { name: "loss" type: "Reduction" bottom: "data" top: "loss" loss_weight: 1 }'
    )
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.5 lr_policy: "fixed" max_iter: 9 snapshot_prefix: "{tmp_path}/s"'
    )
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    told = []
    solver.add_callback(
        lambda: told.append("start"), lambda: told.append(solver.net.params["grow"][0].diff[0])
    )
    solver.step(2)
    assert told == ["start", 2, "start", 3]
    assert solver.net.params["grow"][0].data.tolist() == [3 - 0.5 * (2 + 3)] * 2
    assert (solver.param.base_lr, solver.param.max_iter, solver.lr) == (0.5, 9, 0.5)


# ---- Classifier, Detector

SOFT = """layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE
    global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 4
    weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, str]:
    """A small classifier's prototxt and weights."""
    text, weights = str(tmp_path / "deploy.prototxt"), str(tmp_path / "net.caffemodel")
    Path(text).write_text(source(3, 3, 8, 8) + SOFT)
    caffe.Net(text, caffe.TEST).save(weights)
    return text, weights


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_classifier(model: tuple[str, str]) -> None:
    mean = np.array([100.0, 110.0, 120.0])
    net = caffe.Classifier(*model, image_dims=(12, 13), mean=mean, raw_scale=255, channel_swap=(2, 1, 0))
    images = [np.random.RandomState(i).rand(12, 13, 3).astype(np.float32) for i in range(2)]
    (weight, bias), rgb = (blob.data for blob in net.params["fc"]), np.stack(images)

    def expected(crops: np.ndarray) -> np.ndarray:
        pooled = (crops[..., ::-1].astype(np.float64) * 255 - mean).mean((1, 2))
        return softmax(pooled @ weight.T.astype(np.float64) + bias)

    centre = net.predict(images, oversample=False)
    assert np.abs(centre - expected(rgb[:, 2:10, 2:10])).max() <= 1e-5
    ten = net.predict(images)
    crops = caffe.io.oversample(images, (8, 8))
    assert np.abs(ten - expected(crops).reshape(2, 10, 4).mean(1)).max() <= 1e-5
    whole = caffe.Classifier(*model)
    assert tuple(whole.image_dims) == (8, 8)
    assert whole.predict([np.random.rand(30, 20, 3)]).shape == (1, 4)


def test_detector(model: tuple[str, str], tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (20, 24, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    windows = np.array([[2, 3, 12, 15], [0, 0, 20, 24], [4, 4, 12, 12]])
    net = caffe.Detector(*model, raw_scale=255)
    found = net.detect_windows([(str(tmp_path / "photo.png"), windows)])
    assert [list(item["window"]) for item in found] == windows.tolist()
    assert all(item["filename"].endswith("photo.png") for item in found)
    image = caffe.io.load_image(tmp_path / "photo.png")
    (weight, bias) = (blob.data for blob in net.params["fc"])
    pooled = (image[4:12, 4:12] * 255).mean((0, 1), keepdims=True)[0]
    assert np.abs(found[2]["prediction"] - softmax(pooled @ weight.T + bias)[0]).max() <= 1e-5

    mean = np.array([100.0, 110.0, 120.0])
    padded = caffe.Detector(*model, mean=mean, raw_scale=255, channel_swap=(2, 1, 0), context_pad=2)
    assert padded.crop_mean.shape == (1, 1, 3)
    assert np.allclose(padded.crop_mean.ravel(), mean[::-1] / 255)
    # Half of the net's 8 pixels are context: a window of 9 rows grows by 5 on each side, here over the edge.
    crop = padded.crop(image, np.array([0, 6, 8, 14]))
    assert crop.shape == (8, 8, 3) and np.allclose(crop[:2], padded.crop_mean)
    inside = caffe.io.resize_image(image[0:14, 2:20], (6, 8))
    assert crop[2:].shape == inside.shape and np.isfinite(crop).all()
    assert padded.detect_windows([(str(tmp_path / "photo.png"), windows)])[1]["prediction"].shape == (4,)


# ---- drawing

DRAWN = """name: "Drawn"
layer { name: "in" type: "Data" top: "x" include { phase: TRAIN } data_param { batch_size: 8 } }
layer { name: "in" type: "Input" top: "x" include { phase: TEST } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "y" param { lr_mult: 2 }
    convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
layer { name: "pool" type: "Pooling" bottom: "y" top: "z" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "z" bottom: "x" top: "s" }
"""


def test_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = parse_net(DRAWN)
    text = caffe.draw.draw_net(net, "TB", "raw", caffe.TEST, display_lrm=True).decode()
    assert text.startswith('digraph "Drawn" {\nrankdir=TB;') and "in_Data" not in text
    assert '[label="conv (Convolution) kernel size: 3 stride: 1 pad: 0 lr mult: 2.0, 1.0"' in text
    assert (
        '"pool_Pooling" [label="pool (Pooling MAX)' in text and '"s_blob" [label="s", shape=ellipse]' in text
    )
    assert '"conv_Convolution" -> "y_blob" [label="5"];' in text
    assert '"y_blob" -> "relu_ReLU"' in text and '"relu_ReLU" -> "y_blob"' in text
    assert r"conv\n(Convolution)" in caffe.draw.draw_net(net, "LR", "dot").decode()
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no Graphviz
    caffe.draw.draw_net_to_file(net, str(tmp_path / "net.svg"))
    svg = (tmp_path / "net.svg").read_text()
    assert "<svg" in svg and "(Convolution)" in svg and "Batch 8" in svg
    for rankdir in ("LR", "RL", "TB", "BT"):
        picture = cv2.imdecode(np.frombuffer(caffe.draw.draw_net(net, rankdir), np.uint8), cv2.IMREAD_COLOR)
        assert (picture.shape[0] < picture.shape[1]) == (rankdir in ("LR", "RL"))
        assert (picture == (0x50, 0x50, 0xFF)).all(2).any()  # a convolution's red
    for ext, rankdir in (("xyz", "LR"), ("png", "down")):
        with pytest.raises(InputError, match=r"xyz cannot be drawn|is none of"):
            caffe.draw.draw_net(net, rankdir, ext)
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(ImportError, match="pip install pydot"):
        caffe.draw.get_pydot_graph(net, "LR")
    caffe.draw.draw_net(NetParameter(), "LR")
    with pytest.raises(ValueError, match="learning rate multiplier"):
        caffe.draw.get_layer_lr_mult(LayerParameter(type="ReLU"))


# ---- the module


@pytest.mark.parametrize("engine", ENGINES)
def test_what_scripts_import(engine: str) -> None:
    module = importlib.import_module(f"{engine}.pycaffe")
    with import_caffe_as(module):
        script: dict = {}
        exec(
            "import caffe.io\nimport caffe.draw\nimport caffe.proto.caffe_pb2\n"
            "from caffe import layers as L, params as P\nfrom caffe.proto import caffe_pb2\n"
            "from caffe.coord_map import crop\nfrom caffe.net_spec import Top\nfrom caffe.io import Transformer\n"
            "from caffe.pycaffe import Net\nnet = caffe.to_proto(L.Input())\n",
            script,
        )
    assert script["caffe"] is module and script["Net"] is module.Net
    assert script["caffe_pb2"] is module.proto.caffe_pb2 and script["net"].layer[0].name == "Input1"
    assert "caffe" not in sys.modules


def test_the_rest_of_the_module(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert caffe.__version__ == "1.0.0" and not caffe.has_nccl()
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    with pytest.raises(InputError, match="torchrun"):
        caffe.set_solver_count(2)
    with pytest.raises(RuntimeError, match="NCCL is not supported"):
        caffe.NCCL.new_uid()
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    timer.stop()
    assert 0 < timer.ms < 1000 and timer.ms == timer.ms
    try:
        caffe.init_log(0)
        caffe.log("hello")
        caffe.init_log(1, True)
        caffe.log("unheard")
    finally:
        caffe.init_log()
    assert re.fullmatch(r"I\d{4} [\d:.]+ +\d+ _caffe\.cpp:68\] hello\n", capsys.readouterr().err)
