"""CaffeNet is an ordinary module: it is exported, compiled, hooked, changed and saved as any other."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parity_tests.test_translate import (
    ALEXNET,
    DENSENET,
    FCN,
    LENET,
    NETWORKS,
    ODD,
    RESNET,
    SQUEEZE_EXCITE,
    TRAINING,
)
from port.net import CaffeNet
from port.translate.inputs import drawn_inputs, fed
from prototxt.errors import InputError
from prototxt.read import parse_net
from runtime.rng import set_random_seed

TEXTS = {
    "lenet": LENET,
    "alexnet": ALEXNET,
    "resnet": RESNET,
    "densenet": DENSENET,
    "fcn": FCN,
    "squeeze_excite": SQUEEZE_EXCITE,
    "odd": ODD,
    "seenet": NETWORKS["seenet"].replace("dim: 500", "dim: 64"),
}


def net_of(text: str, phase: int | None = 1, **settings: str) -> CaffeNet:
    """A net whose weights are the same in each run: a softmax over large scores amplifies some weights' rounding."""
    set_random_seed(1)
    return CaffeNet(fed(parse_net(text), 0 if phase == 0 else 1, {}), phase, **settings)


def inputs_of(net: CaffeNet) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(value) for value in drawn_inputs(net.plan, None, 1).values())


def assert_near(got: dict[str, torch.Tensor], due: dict[str, torch.Tensor]) -> None:
    assert got.keys() == due.keys()
    for name, tensor in due.items():
        assert (got[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max(), name


@pytest.mark.parametrize("name", TEXTS)
def test_export(name: str) -> None:
    net = net_of(TEXTS[name])
    inputs = inputs_of(net)
    assert_near(torch.export.export(net, inputs).module()(*inputs), net(*inputs))


def test_export_of_a_training_net() -> None:
    net = net_of(TRAINING.replace('"Dropout"', '"TanH"'), 0)
    inputs = (torch.randn(6, 3, 20, 20), torch.tensor([0.0, 1, 2, 3, 0, 1]))
    assert_near(torch.export.export(net, inputs).module()(*inputs), net(*inputs))


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", ["lenet", "alexnet", "seenet"])
def test_onnx(name: str, dynamo: bool, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    net = net_of(TEXTS[name])
    inputs, path = inputs_of(net), tmp_path / "net.onnx"
    due = net(*inputs)
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(net, inputs, dynamo=True, verbose=False).save(path)
        else:
            torch.onnx.export(net, inputs, path, dynamo=False)
    session = onnxruntime.InferenceSession(path)
    feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
    assert_near(dict(zip(due, map(torch.from_numpy, session.run(None, feed)), strict=True)), due)


@pytest.mark.parametrize("name", ["lenet", "alexnet", "seenet"])
def test_compile(name: str) -> None:
    net = net_of(TEXTS[name])
    inputs = inputs_of(net)
    torch._dynamo.reset()
    assert_near(torch.compile(net, backend="aot_eager")(*inputs), net(*inputs))


def test_blobs_that_are_not_there() -> None:
    net = net_of(LENET)
    with pytest.raises(InputError, match='no blob "pool_1": do you mean "pool1"'):
        net(*inputs_of(net), blobs=["pool_1"])
    assert "pool1" in net(*inputs_of(net), blobs="pool1")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, 'input "data" is None: cv2.imread'),
        (np.zeros((1, 1, 20, 20)), 'input "data" is an array, not a tensor: give torch.from_numpy'),
        ("cat.jpg", "is a str"),
        (torch.zeros(1, 1, 20, 20, dtype=torch.uint8), "of torch.uint8: give floating point"),
    ],
)
def test_inputs_that_are_no_tensors(given: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        net_of(LENET)(given)


def test_repr_says_what_layers_are() -> None:
    text = repr(net_of(ALEXNET))
    assert "(conv2): Convolution(8 → 12, pad=2, kernel_size=5, group=2)" in text
    assert "(pool5): Pooling(pool=AVE, kernel_size=3, stride=2, pad=1)" in text
    assert "(fc8): InnerProduct(16 → 6)" in text


def test_hooks_get_tensors() -> None:
    net = net_of(TRAINING, 0)
    seen = {}
    for name, layer in net.named_layers().items():
        layer.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
    net(torch.randn(6, 3, 20, 20), torch.zeros(6))
    assert {"conv1", "ip", "loss"} <= seen.keys()
    assert all(isinstance(seen[name], torch.Tensor) for name in ("conv1", "drop", "ip", "loss", "hinge"))


def test_a_layer_is_replaced(tmp_path: Path) -> None:
    net = net_of(LENET)
    flat = net.ip1.weight.shape[1]
    net.ip1 = nn.Linear(flat, 7)
    net.ip2 = nn.Linear(7, 3)
    outputs = net(*inputs_of(net))
    assert outputs["prob"].shape == (4, 3)
    outputs["prob"].square().sum().backward()
    assert net.ip1.weight.grad is not None
    net.save(tmp_path / "net.caffemodel")
    net.ip2 = nn.Sequential(nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))
    net(*inputs_of(net))
    with pytest.raises(InputError, match='"ip2" was replaced'):
        net.save(tmp_path / "net.caffemodel")


@pytest.mark.parametrize("suffix", ["caffemodel", "h5", "safetensors", "pth"])
def test_save(suffix: str, tmp_path: Path) -> None:
    net, other = net_of(LENET), net_of(LENET)
    net.save(tmp_path / f"net.{suffix}")
    assert other.load_weights(tmp_path / f"net.{suffix}") == []
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_phase_that_train_and_eval_choose() -> None:
    net = net_of(DENSENET, None)
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(net(x)["fc6"], net(x)["fc6"])
    evaluated = net(x)["fc6"]
    before = net.named_layers()["conv2_1/x1/bn"].blobs[2].item()
    assert net.train() is net
    trained = net(x)["fc6"]
    assert net.named_layers()["conv2_1/x1/bn"].blobs[2].item() != before
    assert not torch.allclose(evaluated, trained)
    dropping = net_of(ALEXNET, None)
    y = torch.randn(2, 3, 35, 35)
    assert torch.equal(dropping(y)["fc8"], dropping(y)["fc8"])
    dropping.train()
    assert not torch.equal(dropping(y)["fc8"], dropping(y)["fc8"])


def test_a_fixed_phase_is_told_once() -> None:
    net = net_of(LENET)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        net.eval()
        net.train()
        net.train()
    assert len(told) == 1 and "phase is fixed: TEST" in str(told[0].message)
