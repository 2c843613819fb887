"""The engines of SeeNet's convolutions: each as near to float64 as the port itself has to be."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import port
import reference.pycaffe
from parity_tests.recordings import NETS, error, seenet_weights
from port.devices import ENGINES
from port.models.fast import DirectConv2dRelu, with_engine
from port.models.winograd import POINTS, WinogradConv2dRelu, transforms
from prototxt.errors import InputError
from runtime import TEST

ONE_LAYER = 2e-6


def seenet(seed: int) -> tuple[port.SeeNet, list]:
    model = port.SeeNet(background=False).eval()
    weights = seenet_weights(model, seed)
    model.copy_weights(weights)
    return model, weights


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_transforms_make_a_convolution_of_any_numbers() -> None:
    kernel, window, tile = transforms(POINTS, 4)
    numbers, weights = torch.randn(50, 6).double(), torch.randn(50, 3).double()
    sums = ((weights @ kernel.T) * (numbers @ window.T)) @ tile.T
    torch.testing.assert_close(sums, torch.einsum("nik,nk->ni", numbers.unfold(1, 3, 1), weights))


@settings(max_examples=40, deadline=None)
@given(
    engine=st.sampled_from([WinogradConv2dRelu, DirectConv2dRelu]),
    num=st.integers(1, 3),
    height=st.integers(1, 37),
    width=st.integers(1, 37),
    inputs=st.sampled_from([1, 31, 32, 33, 70]),
    outputs=st.sampled_from([1, 5, 64]),
    last=st.booleans(),
    parallel=st.integers(1, 3),
)
def test_one_layer_of_any_shape(engine, num, height, width, inputs, outputs, last, parallel) -> None:
    torch.manual_seed(height * 100 + width)
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    x = torch.randn(num, inputs, height, width)
    x = x.to(memory_format=torch.channels_last) if last else x
    negated = nn.Conv2d(inputs, outputs, 3, padding=1)
    negated.load_state_dict({name: -values for name, values in conv.state_dict().items()})
    with threads(parallel):
        ours = engine(conv)(x) - engine(negated)(x)  # what ReLU leaves of the numbers and of their opposites
        assert torch.get_num_threads() == parallel
    truth = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert error(ours.numpy(), truth.detach().numpy()) <= ONE_LAYER


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("seed", "height", "width"), [(1, 50, 41), (2, 128, 96)])
def test_every_blob_keeps_the_rule(engine: str, seed: int, height: int, width: int) -> None:
    """Against float64 at most 1.5 times the float32 reference's own difference plus 1e-7, and no flip."""
    model, weights = seenet(seed)
    data = np.random.default_rng(seed).normal(0, 60, (1, 3, height, width)).astype(np.float32)
    label = np.zeros((1, 1, 1, 20), np.float32)
    label[..., [3, 14]] = 1
    truth, yardstick = (caffe_blobs(weights, data, label, dtype) for dtype in (np.float64, np.float32))
    blobs: dict[str, torch.Tensor] = {}
    fast = with_engine(model, engine)
    for name, module in fast.named_children():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: blobs.__setitem__(name, output.clone())
        )
    with torch.inference_mode():
        fast(torch.from_numpy(data), torch.from_numpy(label))
    for name, blob in blobs.items():
        ours = (blob.relu() if name.startswith("conv") else blob).numpy()
        allowed = 1.5 * error(yardstick[name], truth[name]) + 1e-7
        assert error(ours, truth[name]) <= allowed, name
    assert blobs.keys() == {name for name, _ in model.named_children() if name != "mask_b3"}
    erased = (blobs["mask_b2"].numpy() == 0).all(1)
    assert erased.any() and np.array_equal(erased, (truth["mask_b2"] == 0).all(1)), (
        "a C-ReLU decision differs"
    )


def caffe_blobs(weights: list, data: np.ndarray, label: np.ndarray, dtype: type) -> dict[str, np.ndarray]:
    net = reference.pycaffe.Net(str(NETS / "seenet" / "deploy.prototxt"), TEST, dtype=dtype)
    for layer in weights:
        for blob, array in zip(net.params[layer.name], layer.blobs, strict=True):
            blob.data[...] = array
    for name, array in (("data", data), ("label", label)):
        net.blobs[name].reshape(*array.shape)
        net.blobs[name].data[...] = array
    net.forward()
    return {name: blob.data for name, blob in net.blobs.items()}


def test_winograd_gives_the_same_maps_and_leaves_the_model_alone() -> None:
    model, _ = seenet(3)
    image = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    before = port.attention_maps(model, image, [14, 3], test_size=128)
    fast = with_engine(model, "winograd")
    maps = port.attention_maps(fast, image, [14, 3], test_size=128)
    assert np.abs(maps - before).max() <= 2e-5
    assert any(isinstance(module, WinogradConv2dRelu) for module in fast.children())
    assert all(isinstance(module, nn.Conv2d) for name, module in model.named_children() if "conv" in name)
    assert np.array_equal(port.attention_maps(model, image, [14, 3], test_size=128), before)


def test_narrow_nets_stay_with_pytorch() -> None:
    fast = with_engine(port.SeeNet(channels=(4, 8, 16, 32, 32)).eval(), "winograd")
    assert not any(isinstance(module, WinogradConv2dRelu) for module in fast.children())


@pytest.mark.parametrize(
    ("model", "engine", "told"),
    [
        (port.SeeNet(channels=(4, 4, 4, 4, 4)).eval(), "fast", "the engines are torch, winograd"),
        (port.SeeNet(channels=(4, 4, 4, 4, 4)), "winograd", "for evaluation"),
        (port.SeeNet(channels=(4, 4, 4, 4, 4)).double().eval(), "winograd", "float32"),
    ],
)
def test_refusals(model: port.SeeNet, engine: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        with_engine(model, engine)


def test_threads_that_start_later_have_pytorchs_number() -> None:
    with threads(3):
        with_engine(port.SeeNet(channels=(4, 4, 4, 4, 4)).eval(), "winograd").trunk(torch.zeros(1, 3, 64, 64))
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
