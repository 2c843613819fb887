"""What Caffe's blobs and gradients do that the mathematics does not ask for; judged on genuine Caffe 1.0."""

from types import ModuleType

import numpy as np
import pytest

from prototxt import parse_net
from pycaffe import TRAIN, Net


def net_of(caffe: ModuleType, text: str, shape: tuple[int, ...], seed: int = 0) -> Net:
    dims = " ".join(f"dim: {size}" for size in shape)
    head = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'
    net = caffe.Net.from_message(parse_net(f"force_backward: true\n{head}{text}"), TRAIN)
    net.blobs["x"].data[...] = np.random.RandomState(seed).standard_normal(shape)
    return net


def layer(kind: str, bottom: str, top: str, settings: str = "") -> str:
    return f'layer {{ name: "{top}_{kind}" type: "{kind}" bottom: "{bottom}" top: "{top}" {settings} }}\n'


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Reshape", "reshape_param { shape { dim: 6 dim: -1 } }"),
        ("Flatten", ""),
        ("Split", ""),
        ("Concat", ""),
        ("Slice", ""),
    ],
)
def test_tops_lie_in_the_bottom_s_memory(kind: str, settings: str, caffe: ModuleType):
    net = net_of(caffe, layer(kind, "x", "y", settings) + layer("ReLU", "y", "y"), (2, 3, 4))
    before = net.blobs["x"].data.copy()
    net.forward()
    assert np.array_equal(net.blobs["x"].data, before.clip(0)), (
        "in place on the top is in place on the bottom"
    )
    assert np.shares_memory(net.blobs["x"].data, net.blobs["y"].data)
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert np.array_equal(net.blobs["x"].diff.ravel(), (before > 0).ravel())


def test_several_tops_have_memory_of_their_own(caffe: ModuleType):
    text = (
        'layer { name: "cut" type: "Slice" bottom: "x" top: "y" top: "z" slice_param { slice_point: 1 } }\n'
    )
    net = net_of(caffe, text + layer("ReLU", "y", "y"), (2, 3, 4))
    before = net.blobs["x"].data.copy()
    net.forward()
    assert np.array_equal(net.blobs["x"].data, before)


@pytest.mark.parametrize(
    ("shape", "settings", "replaced"),
    [
        ((1, 3, 4, 5), "", True),  # all axes before the factor's are 1
        ((2, 3, 4, 5), "", False),
        ((2, 3), "scale_param { axis: 0 num_axes: -1 }", True),
        ((1, 1, 4, 5), "", False),  # a single number for several values
        ((1, 1), "", True),
        ((2, 3, 4), "scale_param { num_axes: 0 }", False),
        ((2, 3), "scale_param { axis: 0 num_axes: 1 bias_term: true }", True),
    ],
)
def test_scale_of_one_image_forgets_the_gradient_before(
    shape: tuple[int, ...], settings: str, replaced: bool, caffe: ModuleType
):
    net = net_of(caffe, layer("Scale", "x", "y", settings), shape)
    diffs = []
    for _ in range(2):
        net.forward()
        net.blobs["y"].diff[...] = 1
        net.backward()
        diffs.append([blob.diff.copy() for blob in net.params["y_Scale"]])
    (factor, *bias), (factor_again, *bias_again) = diffs
    assert np.allclose(factor_again, factor if replaced else 2 * factor, rtol=1e-5)
    assert factor.sum() == pytest.approx(net.blobs["x"].data.sum(), rel=1e-4)
    assert all(np.allclose(again, 2 * first) for first, again in zip(bias, bias_again, strict=True))


@pytest.mark.parametrize("normalize", [True, False])
def test_mvn_in_place_loses_most_of_its_gradient(normalize: bool, caffe: ModuleType):
    settings = f"mvn_param {{ normalize_variance: {str(normalize).lower()} }}"
    net = net_of(caffe, layer("MVN", "x", "x", settings), (2, 3, 4, 5))
    x = net.blobs["x"].data.astype(np.float64)
    net.forward()
    slope = np.random.RandomState(1).standard_normal(x.shape).astype(np.float32)
    net.blobs["x"].diff[...] = slope
    net.backward()
    if normalize:
        deviation = np.sqrt(mean((x - mean(x)) ** 2)) + 1e-9
        y = (x - mean(x)) / deviation
        wanted = -2 * y * mean(slope * y) / deviation
    else:
        wanted = slope - mean(slope)
    assert np.abs(net.blobs["x"].diff - wanted).max() <= 2e-6 * np.abs(wanted).max()


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(2, 3), keepdims=True)


def test_dummy_data_fills_constants_once(caffe: ModuleType):
    text = (
        'layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 3 } '
        'data_filler { value: 7 } data_filler { type: "uniform" } } }\n'
    )
    net = caffe.Net.from_message(parse_net(text), TRAIN)
    assert (net.blobs["a"].data == 7).all()
    net.blobs["a"].data[...] = 5
    net.forward()
    drawn = net.blobs["b"].data.copy()
    net.forward()
    assert (net.blobs["a"].data == 5).all(), "what a script writes stays"
    assert (net.blobs["b"].data != drawn).all()
