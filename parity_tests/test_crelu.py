"""C-ReLU in all its forms: the module, the reference's layer, and one written for pycaffe."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import port
import reference.pycaffe
from parity_tests.recordings import NETS
from port.models.crelu import BackgroundMask
from prototxt import InputError, parse_net
from reference.layers.erasing import normalised_attention
from runtime import TEST, TRAIN

CLASSES = 20

# A layer in pycaffe's manner, as users have them: `import caffe`, `eval`, blobs by position, batch 1.
PYCAFFE_LAYER = """
import sys
sys.path.insert(0, "../../python")
import caffe
import numpy as np


class CReLULayer(caffe.Layer):
    def setup(self, bottom, top):
        options = eval(self.param_str)
        self.high, self.low = options["maxt"], options["mint"]
        if len(bottom) != 3 or len(top) != 1:
            raise Exception("three bottoms and one top, please")

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        wanted = bottom[2].data.reshape(-1)
        maps = np.maximum(bottom[1].data[0], 0)
        for k in range(len(maps)):
            if int(wanted[k]) == 1:
                low, high = maps[k].min(), maps[k].max()
                maps[k] = (maps[k] - low) / (high - low + 1e-8)
            else:
                maps[k, ...] = 0
        attention = maps.max(axis=0)
        self.gone = np.where(attention > self.high)
        self.turned = np.where(attention < self.low)
        top[0].data[...] = bottom[0].data
        top[0].data[:, :, self.gone[0], self.gone[1]] = 0
        top[0].data[:, :, self.turned[0], self.turned[1]] *= -1

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff
            bottom[0].diff[0, 0, self.gone[0], self.gone[1]] = 0
            bottom[0].diff[:, :, self.turned[0], self.turned[1]] *= -1
"""

NET = """
force_backward: true
layer {{ name: "in" type: "Input" top: "x" top: "s" top: "l" input_param {{
  shape {{ dim: {n} dim: 5 dim: {h} dim: {w} }} shape {{ dim: {n} dim: 20 dim: {h} dim: {w} }}
  shape {{ dim: {n} dim: 20 }} }} }}
layer {{ name: "mask" type: "Python" bottom: "x" bottom: "s" bottom: "l" top: "y"
  python_param {{ module: "crelu_layer" layer: "CReLULayer" param_str: "{{'maxt': {maxt}, 'mint': {mint}}}" }}
  propagate_down: true propagate_down: false propagate_down: false }}
"""


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, scores and labels of a batch: odd sizes, no to all labels, flat and negative maps too."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = rng.normal(size=(batch, 5, height, width)).astype(np.float32)
    scores = rng.normal(draw(st.sampled_from([0.0, -3.0, 2.0])), 1, (batch, CLASSES, height, width))
    labels = (rng.random((batch, CLASSES)) < draw(st.sampled_from([0.0, 0.1, 1.0]))).astype(np.float32)
    if draw(st.booleans()):
        scores[:, :10] = draw(st.sampled_from([0.0, 1.5, -1.0]))
    return features, scores.astype(np.float32), labels


def _net(caffe: ModuleType, shape: tuple[int, ...], maxt: float, mint: float, **options: object):
    text = NET.format(n=shape[0], h=shape[2], w=shape[3], maxt=maxt, mint=mint)
    return caffe.Net.from_message(parse_net(text), TRAIN, **options)


def _pass(net, features, scores, labels, grad) -> tuple[np.ndarray, np.ndarray]:
    for name, value in zip("xsl", (features, scores, labels), strict=True):
        net.blobs[name].data[...] = value
    net.forward()
    top = net.blobs["y"].data.copy()
    net.blobs["y"].diff[...] = grad
    net.backward()
    return top, net.blobs["x"].diff.copy()


@given(problems(), st.sampled_from([(0.7, 0.05), (0.8, 0.0), (0.5, 0.5)]))
@settings(max_examples=60, deadline=None)
def test_module_equals_reference(problem: tuple, thresholds: tuple[float, float]) -> None:
    features, scores, labels = problem
    grad = np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    top, diff = _pass(
        _net(reference.pycaffe, features.shape, *thresholds, allow_modules=()), features, scores, labels, grad
    )
    x = torch.tensor(features, requires_grad=True)
    y = port.CReLU(*thresholds)(x, torch.tensor(scores), torch.tensor(labels))
    y.backward(torch.tensor(grad))
    assert np.array_equal(y.detach().numpy(), top)
    assert np.array_equal(x.grad.numpy(), diff)


@given(problems())
@settings(max_examples=40, deadline=None)
def test_exact_gradient_and_batches(problem: tuple) -> None:
    """T times the gradient in all channels; and a batch is its images."""
    features, scores, labels = map(torch.tensor, problem)
    layer = port.CReLU(0.7, 0.05, backward="exact")
    x = features.clone().requires_grad_()
    y = layer(x, scores, labels)
    y.sum().backward()
    t = torch.where(features == 0, x.grad, y.detach() / features)
    assert torch.equal(x.grad, t.round()), "T is -1, 0 or 1"
    single = torch.cat(
        [layer(f[None], s[None], n[None]) for f, s, n in zip(features, scores, labels, strict=True)]
    )
    assert torch.equal(y, single)
    released = features.clone().requires_grad_()
    port.CReLU(0.7, 0.05, backward="caffe")(released, scores, labels).sum().backward()
    assert torch.equal(released.grad[:, 0], x.grad[:, 0]), "channel 0 is the one that the release erases"
    erased = (x.grad == 0)[:, 1:]
    assert torch.equal(released.grad[:, 1:][erased].abs(), torch.ones(int(erased.sum())))


@given(problems())
@settings(max_examples=30, deadline=None)
def test_background_mask(problem: tuple) -> None:
    features, scores, labels = problem
    kept = normalised_attention(scores, labels)[:, None] < np.float32(0.375)
    y = BackgroundMask(0.375)(*map(torch.tensor, problem)).numpy()
    assert np.array_equal(y, np.where(kept, features, 0))


def test_no_label_negates_everything_where_mint_is_positive() -> None:
    x, s = torch.rand(1, 5, 4, 4), torch.rand(1, CLASSES, 4, 4)
    none = torch.zeros(1, CLASSES)
    assert torch.equal(port.CReLU(0.7, 0.05)(x, s, none), -x)
    assert torch.equal(port.CReLU(0.8, 0.0)(x, s, none), x)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("crelu_layer", None)


def _layer_files() -> list:
    """Our pycaffe layer; and the authors' own file, where SEENET_RELEASE names a copy of their repository."""
    release = os.environ.get("SEENET_RELEASE")
    skip = pytest.mark.skipif(not release, reason="set SEENET_RELEASE to a copy of the authors' repository")
    return [
        pytest.param(None, id="ours"),
        pytest.param(Path(release or "", "crelu_layer.py"), id="published", marks=skip),
    ]


@pytest.mark.parametrize("source", _layer_files())
@pytest.mark.parametrize("thresholds", [(0.7, 0.05), (0.8, 0.0)])
def test_layers_written_for_pycaffe_run(
    caffe: ModuleType, on_path: Path, source: Path | None, thresholds: tuple[float, float]
) -> None:
    """The layer file runs unmodified, forward and backward, and equals the built-in one bit for bit."""
    if source:
        shutil.copy(source, on_path / "crelu_layer.py")
    else:
        (on_path / "crelu_layer.py").write_text(PYCAFFE_LAYER)
    rng = np.random.default_rng(3)
    features, grad = rng.normal(size=(2, 1, 5, 7, 6)).astype(np.float32)
    scores = rng.normal(size=(1, CLASSES, 7, 6)).astype(np.float32)
    labels = np.zeros((1, CLASSES), np.float32)
    labels[0, [3, 11]] = 1
    script = _net(caffe, features.shape, *thresholds)
    assert type(script.layers[-1]).__module__ == "crelu_layer"
    builtin = _net(caffe, features.shape, *thresholds, allow_modules=())
    inputs = (features, scores, labels, grad)
    for ours, theirs in zip(_pass(builtin, *inputs), _pass(script, *inputs), strict=True):
        assert np.array_equal(ours, theirs)
    assert "caffe" not in sys.modules, "import caffe is ours only while the layer's module is loaded"


def test_a_prototxt_runs_no_code(caffe: ModuleType, on_path: Path) -> None:
    (on_path / "evil_layer.py").write_text("raise SystemExit('ran')")
    text = NET.format(n=1, h=3, w=3, maxt=0.7, mint=0.05).replace("crelu_layer", "evil_layer")
    with pytest.raises(InputError, match=r'Python module "evil_layer" is not loaded unasked.*--allow-module'):
        caffe.Net.from_message(parse_net(text), TEST, allow_modules=())
    with pytest.raises(InputError, match="not loaded unasked"):
        port.CaffeNet(parse_net(text))


@pytest.mark.parametrize(
    "param_str", ["__import__('os').system('true')", "{'maxt': 0.7}", "{'maxt': 'x', 'mint': 0}"]
)
def test_param_str_is_a_literal(caffe: ModuleType, param_str: str) -> None:
    net = parse_net(NET.format(n=1, h=3, w=3, maxt=0.7, mint=0.05))
    net.layer[1].python_param.param_str = param_str
    with pytest.raises(InputError, match=r'layer "mask": param_str .* a dict \{\'maxt\': …, \'mint\': …\}'):
        caffe.Net.from_message(net, TEST, allow_modules=())


def test_a_missing_module_is_named(caffe: ModuleType) -> None:
    text = NET.format(n=1, h=3, w=3, maxt=0.7, mint=0.05).replace("crelu_layer", "no_such_layer")
    with pytest.raises(InputError, match=r'Python module "no_such_layer".*PYTHONPATH'):
        caffe.Net.from_message(parse_net(text), TEST)


def test_narrow_net_of_any_size_and_labels(caffe: ModuleType) -> None:
    """Sizes that 16 does not divide, non-square, none to all labels: both engines make the promised shapes."""
    net = caffe.Net(str(NETS / "seenet" / "narrow_deploy.prototxt"), TEST, allow_modules=())
    for height, width, labels in ((33, 47, []), (16, 90, [4]), (75, 101, list(range(20))), (17, 17, [0, 19])):
        net.blobs["data"].reshape(1, 3, height, width)
        net.blobs["label"].reshape(1, 1, 1, 20)
        net.blobs["label"].data[...] = 0
        net.blobs["label"].data[..., labels] = 1
        net.forward()
        assert net.blobs["score_b2"].shape == (1, 20, -(-height // 16), -(-width // 16))
