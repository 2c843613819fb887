"""The layers that end CMU's pose nets, which no recording has: numbers worked out by hand, on both engines."""

import importlib

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, error
from prototxt import parse_net
from prototxt.errors import InputError


def _run(engine: str, layer: str, x: np.ndarray) -> np.ndarray:
    dims = " ".join(f"dim: {size}" for size in x.shape)
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
        layer {{ name: "l" {layer} bottom: "x" top: "y" }}"""
    net = importlib.import_module(f"{engine}.pycaffe").Net.from_message(parse_net(text), 1)
    net.blobs["x"].data[...] = x
    net.forward()
    return net.blobs["y"].data.copy()


def _curve(v: list, d: float) -> float:
    """The cubic through v[1] and v[2] with the slopes that their neighbours give."""
    slopes = (v[2] - v[0]) / 2, (v[3] - v[1]) / 2
    return (
        v[1] * (2 * d**3 - 3 * d**2 + 1)
        + slopes[0] * (d**3 - 2 * d**2 + d)
        + v[2] * (3 * d**2 - 2 * d**3)
        + slopes[1] * (d**3 - d**2)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_im_resize_by_hand(engine: str) -> None:
    """One row, twice as long: at -1/4, 1/4, 3/4, … of its places; before the first the curve goes on."""
    row = [3, 1, 4, 1, 5]
    x = np.broadcast_to(np.float32(row), (1, 1, 3, 5))
    top = _run(engine, 'type: "ImResize" imresize_param { factor: 2 }', x)
    assert top.shape == (1, 1, 6, 10)
    padded = [row[0], *row, row[-1], row[-1]]
    expected = []
    for i in range(10):
        place = (i - 0.5) / 2
        at = max(int(place), 0)
        expected.append(_curve(padded[at : at + 4], place - at))
    np.testing.assert_allclose(top[0, 0], [expected] * 6, rtol=1e-5)
    turned = _run(engine, 'type: "ImResize" imresize_param { factor: 2 }', x.transpose(0, 1, 3, 2))
    np.testing.assert_allclose(turned[0, 0].T, [expected] * 6, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_scales_lose_their_padding_and_are_averaged(engine: str) -> None:
    draw = np.random.RandomState(1)
    x = draw.standard_normal((2, 3, 20, 30)).astype(np.float32)
    size = "target_spatial_height: 40 target_spatial_width: 60"
    top = _run(engine, f'type: "ImResize" imresize_param {{ {size} start_scale: 1 scale_gap: 0.3 }}', x)
    alone = 'type: "ImResize" imresize_param { %s }'
    whole = _run(engine, alone % size, x[:1])
    inner = _run(engine, alone % size, x[1:, :, 3:17, 4:26])  # 10 · 0.3 and 15 · 0.3 on each side
    np.testing.assert_allclose(top, (whole + inner) / 2, rtol=1e-4, atol=1e-5)


def test_im_resize_agrees() -> None:
    x = np.random.RandomState(3).standard_normal((3, 2, 23, 46)).astype(np.float32)
    layer = 'type: "ImResize" imresize_param { factor: 8 start_scale: 0.9 scale_gap: 0.1 }'
    one, other = (_run(engine, layer, x) for engine in ENGINES)
    assert one.shape == (1, 2, 184, 368)
    assert error(other, one) <= ONE_LAYER


@pytest.mark.parametrize("engine", ENGINES)
def test_nms_by_hand(engine: str) -> None:
    x = np.zeros((1, 3, 12, 16), np.float32)
    x[0, 0, 3, 5] = 0.9
    x[0, 0, 4, 7] = 0.3  # a neighbour's neighbour: a peak of its own, and it draws the first one's middle
    x[0, 0, 0, 9] = 1  # at the border: none
    x[0, 0, 8, 12:14] = 0.8  # two alike: none
    x[0, 1, 10, 2] = 0.5  # the memory goes on below the map: part 2's first rows count
    x[0, 2, 1, 2] = 0.5
    top = _run(engine, 'type: "Nms" nms_param { threshold: 0.2 max_peaks: 1 num_parts: 2 }', x)
    assert top.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(top[0, 0], [[2, 0, 0], [5.5, 3.25, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(top[0, 1], [[1, 0, 0], [2, (10 + 13) / 2, 0.5]], rtol=1e-6)
    many = _run(engine, 'type: "Nms" nms_param { threshold: 0.2 max_peaks: 3 num_parts: 1 }', x)
    np.testing.assert_allclose(
        many[0, 0], [[2, 0, 0], [5.5, 3.25, 0.9], [5.5, 3.25, 0.3], [0, 0, 0]], rtol=1e-6
    )
    tall = x.transpose(0, 1, 3, 2)  # rows from the width on do not count: 12 and 13 are
    top = _run(engine, 'type: "Nms" nms_param { threshold: 0.2 max_peaks: 1 num_parts: 1 }', np.array(tall))
    np.testing.assert_allclose(top[0, 0], [[2, 0, 0], [3.25, 5.5, 0.9]], rtol=1e-6)


def test_nms_agrees() -> None:
    x = np.random.RandomState(3).standard_normal((2, 4, 30, 40)).astype(np.float32)
    layer = 'type: "Nms" nms_param { threshold: 0.5 max_peaks: 20 num_parts: 3 }'
    one, other = (_run(engine, layer, x) for engine in ENGINES)
    assert (one[:, :, 0, 0] > 20).all()
    assert error(other, one) <= ONE_LAYER


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ('type: "ImResize" imresize_param { factor: 0.1 }', "must give a size"),
        ('type: "ImResize" imresize_param { factor: 2 start_scale: 2 }', "are too large"),
        ('type: "Nms" nms_param { num_parts: 4 }', "num_parts 4 is more than the 3 channels"),
    ],
)
def test_refuses(engine: str, layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _run(engine, layer, np.zeros((1, 3, 8, 8), np.float32))
