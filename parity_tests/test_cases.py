"""Inputs that once failed, with what genuine Caffe 1.0 gives for them (`cases/` has the files), and their kinds."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import port.pycaffe
import reference.pycaffe
from port.export.writers import export_onnx
from port.net import CaffeNet
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver
from port.training.net import TrainingNet
from prototxt import parse_net, read_solver
from runtime import TEST, TRAIN
from runtime.rng import set_random_seed
from weights import LayerWeights, read_weights, write_caffemodel, write_weights

CASES = Path(__file__).parent / "cases"
NAMES, WRITES, OVERWRITTEN, LOST = (
    "01-duplicate-layer-names",
    "02-python-layer-writes-its-bottom",
    "03-python-layer-reads-overwritten-top",
    "04-reshape-then-flatten-gradient",
)


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Make a copy of a case's folder the current one, and put it on Python's path."""
    modules: list[str] = []

    def copied(case: str) -> Path:
        folder = tmp_path / case
        shutil.copytree(CASES / case, folder)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        modules.extend(path.stem for path in folder.glob("*.py"))
        return folder

    yield copied
    for module in modules:
        sys.modules.pop(module, None)


def printed_losses(solver: str, gradient: str = "caffe") -> list[float]:
    """The losses of one training, as its log has them."""
    losses: list[float] = []
    log = CaffeLog()
    log.write = lambda line: losses.append(float(line.split(" = ")[1])) if ", loss = " in line else None
    modules = [path.stem for path in Path().glob("*.py")]

    def make_net(source) -> TrainingNet:
        net = TrainingNet(
            source.net, source.phase, source.level, source.stages, log=log, allow_modules=modules
        )
        net.net.gradient = gradient
        return net

    Solver(read_solver(solver), make_net, log=log, where=solver).solve()
    return losses


@pytest.mark.parametrize(
    ("case", "solver", "printed"),
    [
        (NAMES, "train.solver", "0.844533 1.24329 0.980052 0.423416 0.304"),
        (NAMES, "train_dup_weights.solver", "0.844533 1.24329 0.980052 0.423416 0.304"),
        (NAMES, "dup_solver", "1.32641 1.20159 1.09271 0.999402"),
        (WRITES, "solver", "3.67529 3.43532 3.56061 3.4683 3.51784 3.36446 3.43691"),
        (OVERWRITTEN, "solver", "0.78409 0.794613 0.323425 0.159687 0.0782588 0.0420389 0.0242745"),
        (LOST, "solver", "1.07097 0.655507 0.45615 0.267277 0.275378 0.119979 0.147027"),
    ],
)
def test_training_prints_what_caffe_prints(enter, case: str, solver: str, printed: str) -> None:
    enter(case)
    wanted = [float(value) for value in printed.split()]
    assert printed_losses(f"{solver}.prototxt") == pytest.approx(wanted, rel=2e-5)
    scripted = port.pycaffe.SGDSolver(f"{solver}.prototxt")
    scripted.solve()
    by_weight = [
        weight * float(scripted.net._blobs[i].data) for i, weight in scripted.net.plan.loss_weights.items()
    ]
    assert sum(by_weight) == pytest.approx(wanted[-1], rel=2e-5)


def test_the_exact_gradient_goes_on_below_a_reshape(enter) -> None:
    enter(LOST)
    losses = printed_losses("solver.prototxt", gradient="exact")
    assert losses[:3] == pytest.approx([1.07097, 0.622726, 0.42744], rel=2e-5)


# ---- Layers of one name


@pytest.mark.parametrize("caffe", [port.pycaffe, reference.pycaffe], ids=["port", "reference"])
def test_two_layers_of_one_name_are_two_layers(enter, caffe: ModuleType, tmp_path: Path) -> None:
    enter(NAMES)
    x = (np.random.RandomState(0).randn(1, 3, 6, 6) * 20).astype(np.float32)
    wanted = [[4.482e-03, 9.955e-01, 1.2606e-09]]
    net = caffe.Net("net.prototxt", "net.caffemodel", TEST)
    assert np.allclose(net.forward(data=x)["prob"], wanted, rtol=2e-4)
    module = CaffeNet("net.prototxt")
    module.load_weights("net.caffemodel")
    assert np.allclose(module(torch.from_numpy(x))["prob"].detach(), wanted, rtol=2e-4)


def test_an_exported_net_has_both_layers_of_one_name(enter, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    enter(NAMES)
    x = (np.random.RandomState(0).randn(1, 3, 6, 6) * 20).astype(np.float32)
    module = CaffeNet("net.prototxt")
    module.load_weights("net.caffemodel")
    path = tmp_path / "net.onnx"
    export_onnx(module, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))
    assert np.allclose(results["prob"], [[4.482e-03, 9.955e-01, 1.2606e-09]], rtol=2e-4)


TWO = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "b"
  inner_product_param { num_output: 2 bias_term: false weight_filler { value: 7 } } }
layer { name: "ip" type: "InnerProduct" bottom: "b" top: "c"
  inner_product_param { num_output: 2 bias_term: false weight_filler { value: 8 } } }
"""


def ip(*values: float) -> list[LayerWeights]:
    return [LayerWeights("ip", "InnerProduct", [np.full((2, 2), value, np.float32)]) for value in values]


def test_every_source_layer_of_a_name_goes_to_the_first_target_layer(tmp_path: Path) -> None:
    write_caffemodel(tmp_path / "two.caffemodel", ip(1, 2))
    write_weights(tmp_path / "one.h5", ip(3))
    for file, wanted in (("two.caffemodel", [2, 8]), ("one.h5", [7, 3])):  # by HDF5, to the last
        for caffe in (port.pycaffe, reference.pycaffe):
            net = caffe.Net.from_message(parse_net(TWO), TEST)
            net.copy_from(str(tmp_path / file))
            assert [layer.blobs[0].data[0, 0] for layer in net.layers if len(layer.blobs)] == wanted
        module = CaffeNet(parse_net(TWO))
        module.load_weights(tmp_path / file)
        assert [layer.blobs[0][0, 0].item() for layer in module.layers if layer.blobs] == wanted


def test_nets_share_as_they_copy() -> None:
    nets = [port.pycaffe.Net.from_message(parse_net(TWO), TEST) for _ in range(2)]
    nets[1].layers[1].blobs[0].data[...] = 5
    nets[0].share_with(nets[1])
    assert [layer.blobs[0].data[0, 0] for layer in nets[0].layers if len(layer.blobs)] == [8, 8]


@pytest.mark.parametrize(
    "names", [("", ""), ("x", "x"), ("a.b", "a/b"), ("forward", "__init__"), ("ip", "ip#2")]
)
def test_any_names_have_keys_of_their_own(names: tuple[str, str], tmp_path: Path) -> None:
    text = TWO.replace('"ip"', "%s") % tuple(f'"{name}"' for name in names)
    module = CaffeNet(parse_net(text))
    keys = list(module.state_dict())
    assert len(keys) == 2 and keys[0] == f"{names[0]}.weight"
    with torch.no_grad():
        module.layers[2].blobs[0].fill_(3)
    write_weights(tmp_path / "w.pth", module.layer_weights())
    assert list(torch.load(tmp_path / "w.pth")) == keys
    again = CaffeNet(parse_net(text))
    again.load_weights(tmp_path / "w.pth")
    assert again.layers[2].blobs[0][0, 0] == 3
    assert CaffeNet(parse_net(text)).load_state_dict(module.state_dict())


def test_hdf5_cannot_hold_two_layers_of_one_name(tmp_path: Path) -> None:
    net = port.pycaffe.Net.from_message(parse_net(TWO), TEST)
    with pytest.raises(ValueError, match=r'two layers named "ip": write \.caffemodel'):
        net.save_hdf5(str(tmp_path / "w.h5"))


# ---- A net saves one way


def test_every_save_has_what_set_up_put_into_the_message(tmp_path: Path) -> None:
    text = """
    layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
    """
    net = port.pycaffe.Net.from_message(parse_net(text), TRAIN)
    net.save(str(tmp_path / "a.caffemodel"))
    reference.pycaffe.Net.from_message(parse_net(text), TRAIN).save(str(tmp_path / "b.caffemodel"))
    write_weights(tmp_path / "c.caffemodel", CaffeNet(parse_net(text), TRAIN).layer_weights())
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()
    files = [read_weights(tmp_path / f"{name}.caffemodel", with_empty=True) for name in "ac"]
    assert [layer.name for layer in files[0]] == [layer.name for layer in files[1]]
    saved = (tmp_path / "c.caffemodel").read_bytes()
    assert saved.count(b"\x32\x05\x1d\x00\x00\x00\x00") == 3  # BatchNorm's param { lr_mult: 0 }
    assert b"\x2d\x00\x00\x80\x3f" in saved  # loss_weight: 1


# ---- Memory that blobs share, and scripts that write into it

SCRIPTS = '''
import caffe
import numpy as np


class Clamp(caffe.Layer):
    """Writes into its bottom."""

    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        x = bottom[0].data
        x[x < -0.2] = -0.2
        top[0].data[...] = np.exp(x)
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * np.exp(bottom[0].data)


class Tanh(caffe.Layer):
    """Its backward reads its top; works in place, too."""

    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = np.tanh(bottom[0].data)
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * (1 - top[0].data ** 2)


class Scaled(caffe.Layer):
    """Has a weight, whose gradient it adds up; keeps a view of its bottom."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 1.5
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        self.seen = bottom[0].data
        top[0].data[...] = self.seen * self.blobs[0].data[0]
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += np.sum(self.seen * top[0].diff)
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data[0]
'''

STEPS = {
    "ReLU": 'type: "ReLU" relu_param { negative_slope: 0.1 }',
    "Sigmoid": 'type: "Sigmoid"',
    "Power": 'type: "Power" power_param { scale: 0.5 shift: 0.1 }',
    "Scale": 'type: "Scale" scale_param { axis: 1 filler { value: 0.7 } }',
    "InnerProduct": 'type: "InnerProduct" inner_product_param { num_output: 6 weight_filler { type: "xavier" } }',
    "Reshape": 'type: "Reshape" reshape_param { shape { dim: 0 dim: 2 dim: -1 } }',
    "Flatten": 'type: "Flatten"',
    "Concat": 'type: "Concat"',
    "Slice": 'type: "Slice"',
    "Clamp": 'type: "Python" python_param { module: "case_scripts" layer: "Clamp" }',
    "Tanh": 'type: "Python" python_param { module: "case_scripts" layer: "Tanh" }',
    "Scaled": 'type: "Python" python_param { module: "case_scripts" layer: "Scaled" }',
}
IN_PLACE = ("ReLU", "Sigmoid", "Power", "Scale", "Tanh")


@st.composite
def chains(draw: st.DrawFn) -> str:
    """Nets of a first InnerProduct, up to six steps, some in place, some blobs read twice, and two losses."""
    text = """
    layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 3 dim: 4 } shape { dim: 3 dim: 6 } } }
    layer { name: "first" type: "InnerProduct" bottom: "x" top: "b0"
      inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
    """
    blob = "b0"
    twice: list[str] = []
    for i, step in enumerate(draw(st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=6))):
        in_place = step in IN_PLACE and blob not in twice and draw(st.booleans())
        top = blob if in_place else f"b{i + 1}"
        text += f'layer {{ name: "l{i}" bottom: "{blob}" top: "{top}" {STEPS[step]} }}\n'
        if not in_place and not twice and draw(st.integers(0, 3)) == 0:
            twice.append(blob)
        blob = top
    text += f"""
    layer {{ name: "flat" type: "InnerProduct" bottom: "{blob}" top: "out"
      inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
    layer {{ name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "t" top: "loss" }}
    """
    for other in twice:
        text += f"""
        layer {{ name: "side" type: "InnerProduct" bottom: "{other}" top: "side"
          inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "loss2" type: "EuclideanLoss" bottom: "side" bottom: "t" top: "loss2" }}
        """
    return text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=chains(), seed=st.integers(0, 99))
def test_gradients_are_what_caffes_memory_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, text: str, seed: int
) -> None:
    """CaffeNet's graph against the reference, whose layers work on blobs of shared memory as Caffe's do."""
    folder = tmp_path_factory.getbasetemp() / "scripts"
    folder.mkdir(exist_ok=True)
    (folder / "case_scripts.py").write_text(SCRIPTS)
    monkeypatch.syspath_prepend(str(folder))
    generator = np.random.RandomState(seed)
    x, t = generator.randn(3, 4).astype(np.float32), generator.randn(3, 6).astype(np.float32)

    set_random_seed(seed)
    blobs = reference.pycaffe.Net.from_message(parse_net(text), TRAIN)
    set_random_seed(seed)
    module = CaffeNet(parse_net(text), TRAIN, allow_modules=["case_scripts"])
    for _ in range(2):  # the second pass meets what the first left in memory
        blobs.clear_param_diffs()
        blobs.forward(x=x, t=t)
        blobs.backward()
        module.zero_grad()
        outputs = module(torch.from_numpy(x), torch.from_numpy(t))
        module.loss(outputs).backward()
    assume(all(np.isfinite(blobs.blobs[name].data).all() for name in outputs))
    assume(all(np.isfinite(weight.diff).all() for layer in blobs.layers for weight in layer.blobs))
    for name, value in outputs.items():
        assert near(value.detach().numpy(), blobs.blobs[name].data), name
    for plan, layer, theirs in zip(module.plan.layers, module.layers, blobs.layers, strict=True):
        for mine, weight in zip(layer.blobs, theirs.blobs, strict=True):
            gradient = np.zeros_like(weight.diff) if mine.grad is None else mine.grad.numpy()
            assert near(gradient, weight.diff), f"{plan.name}: {gradient} {weight.diff}"
    sys.modules.pop("case_scripts", None)


def near(mine: np.ndarray, theirs: np.ndarray) -> bool:
    return np.abs(mine - theirs).max() <= 2e-5 * np.abs(theirs).max() + 1e-7
