"""YOLO v2's layers, which no recording has: numbers worked out by hand from intel/caffe's rules, on both engines."""

import importlib
import math

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, error
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net

SIDE, CLASSES, ANCHORS = 4, 3, 5
BIASES = (1, 1, 2, 1, 1, 2, 3, 3, 0.5, 0.5)
TOLD = " ".join(f"biases: {bias}" for bias in BIASES) + f" side: {SIDE} num_class: {CLASSES}"


def _net(engine: str, layer: str, force: bool = False, **bottoms: np.ndarray) -> Net:
    text = "force_backward: true\n" if force else ""
    for name, value in bottoms.items():
        dims = " ".join(f"dim: {size}" for size in value.shape)
        text += (
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        )
    wired = " ".join(f'bottom: "{name}"' for name in bottoms)
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = caffe.Net.from_message(parse_net(f'{text}layer {{ name: "l" {layer} {wired} top: "y" }}'), 0)
    for name, value in bottoms.items():
        net.blobs[name].data[...] = value
    net.forward()
    return net


def _truths(*rows: tuple) -> np.ndarray:
    """Rows [image, class, x1, y1, x2, y2]."""
    return np.array([(i, c, 0, *box, 0) for i, c, *box in rows], np.float32).reshape(1, 1, -1, 8)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _region(more: str = "") -> str:
    return f'type: "RegionLoss" region_loss_param {{ {TOLD} {more} }}'


@pytest.mark.parametrize("engine", ENGINES)
def test_region_loss_by_hand(engine: str) -> None:
    """One truth of 2 × 1 cells about (1.5, 2.25) cells: anchor 1 of column 1, row 2."""
    x = np.zeros((2, ANCHORS * (CLASSES + 5), SIDE, SIDE), np.float32)
    at = slice(8, 16)
    x[0, at, 2, 1] = 0.3, -4, 0.2, -2, 1, 0.5, 1.5, 0
    rows = _truths((-1, 1, 0, 0, 1, 1), (0, 2, 0.125, 0.4375, 0.625, 0.6875))
    net = _net(
        engine, _region("object_scale: 5 noobject_scale: 2 class_scale: 3 coord_scale: 4"), True, x=x, t=rows
    )
    net.blobs["y"].diff[...] = 0.5
    net.backward()
    # Everywhere else an object is half likely, and no box is like the truth by 0.2 … but some around it.
    nothing = 2 * 0.5 * 0.5 * 0.5
    slopes = np.zeros_like(x)
    slopes[:, 4::8] = nothing
    truth = (0.375, 0.5625, 0.5, 0.25)
    for row, column, n in np.ndindex(SIDE, SIDE, ANCHORS):
        box = ((column + 0.5) / 4, (row + 0.5) / 4, BIASES[2 * n] / 4, BIASES[2 * n + 1] / 4)
        sides = [
            min(box[k] + box[k + 2] / 2, truth[k] + truth[k + 2] / 2)
            - max(box[k] - box[k + 2] / 2, truth[k] - truth[k + 2] / 2)
            for k in (0, 1)
        ]
        shared = sides[0] * sides[1] if min(sides) > 0 else 0
        if shared / (box[2] * box[3] + 0.125 - shared) > 0.2:
            slopes[0, 8 * n + 4, row, column] = 0
    inside, likely = [_sigmoid(0.3), _sigmoid(-4)], _sigmoid(1)
    chances = np.exp([0.5, 1.5, 0])
    chances /= chances.sum()
    slopes[0, at, 2, 1] = [
        -4 * (0.5 - inside[0]) * inside[0] * (1 - inside[0]),
        -4 * (0.25 - inside[1]) * inside[1] * (1 - inside[1]),
        -4 * (0 - 0.2),
        -4 * 1,  # log(1) + 2 is cut to 1
        -5 * 2 * (1 - likely) ** 4 * likely,
        *(3 * (chances - [0, 1, 0])),
    ]
    np.testing.assert_allclose(net.blobs["y"].data, (slopes**2).sum(), rtol=2e-6)
    np.testing.assert_allclose(net.blobs["x"].diff, slopes * 0.5 / 2, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_truth_without_area_takes_the_first_anchor_of_all(engine: str) -> None:
    x = np.zeros((2, ANCHORS * (CLASSES + 5), SIDE, SIDE), np.float32)
    net = _net(engine, _region(), True, x=x, t=_truths((1, 1, 0.4, 0.4, 0.4, 0.4)))
    net.blobs["y"].diff[...] = 2
    net.backward()
    slopes = net.blobs["x"].diff
    assert not slopes[1, 5:8].any() and not slopes[1, :4].any()
    np.testing.assert_allclose(
        slopes[0, :4, 0, 0], [-5 * (0.6 - 0.5) * 0.25] * 2 + [5, 5], rtol=1e-5
    )  # its middle is at 1.6, in column 1 and row 1


@pytest.mark.parametrize("more", ["", "bias_match: 0 thresh: 0.5 noobject_scale: 1"])
def test_region_loss_agrees(more: str) -> None:
    draw = np.random.RandomState(4)
    x = draw.standard_normal((3, ANCHORS * (CLASSES + 5), SIDE, SIDE)).astype(np.float32)
    low = draw.uniform(0, 0.6, (12, 2))
    boxes = np.concatenate([low, low + draw.uniform(0.05, 0.4, (12, 2))], axis=1)
    rows = _truths(*((i % 3, 1 + i % 4, *box) for i, box in enumerate(boxes)))  # class 4 there is not
    nets = [_net(engine, _region(more), True, x=x, t=rows) for engine in ENGINES]
    for net in nets:
        net.blobs["y"].diff[...] = 1
        net.backward()
    one, other = nets
    assert error(other.blobs["y"].data, one.blobs["y"].data) <= ONE_LAYER
    assert error(other.blobs["x"].diff, one.blobs["x"].diff) <= ONE_LAYER


def _eval(more: str = "nms: 0.5") -> str:
    return f'type: "EvalDetection" eval_detection_param {{ {TOLD} num_object: {ANCHORS} {more} }}'


def _detections(*found: tuple) -> np.ndarray:
    """A map where nothing is likely but (row, column, anchor, score of an object, class)."""
    x = np.zeros((1, ANCHORS * (CLASSES + 5), SIDE, SIDE), np.float32)
    x[0, 4::8] = -20
    for row, column, anchor, likely, kind in found:
        x[0, 8 * anchor + 4, row, column] = likely
        x[0, 8 * anchor + 5 + kind, row, column] = 30
    return x


@pytest.mark.parametrize("engine", ENGINES)
def test_eval_detection_by_hand(engine: str) -> None:
    x = _detections(
        (1, 1, 0, 2, 0),  # a cell, the truth's own
        (1, 1, 1, 1, 0),  # overlaps it by half: taken out
        (3, 3, 0, 0, 0),  # of a class with truths, like none of them: neither
        (0, 3, 0, 3, 2),  # of a class without truths: false
        (0, 0, 0, 1, 1),  # true
        (0, 0, 4, 0, 1),  # the same truth, a quarter of it: too little
    )
    cell = (0.25, 0.25, 0.5, 0.5)
    rows = _truths((0, 1, *cell), (0, 1, 0.25, 0.75, 0.5, 1), (0, 2, 0, 0, 0.25, 0.25), (-1, 3, 0, 0, 1, 1))
    data = np.zeros((1, 3, 8, 8), np.float32)
    net = _net(engine, _eval(), x=x, t=rows, data=data)
    top = net.blobs["y"].data
    assert top.shape == (1, CLASSES + SIDE * SIDE * ANCHORS * 4)
    assert top[0, :CLASSES].tolist() == [2, 1, 0]
    found = top[0, CLASSES:].reshape(-1, 4)
    expected = [
        (0, _sigmoid(2), 1, 0),
        (0, _sigmoid(0), 0, 0),
        (1, _sigmoid(1), 1, 0),
        (1, _sigmoid(0), 0, 0),
        (2, _sigmoid(3), 0, 1),
    ]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-6)
    assert not found[5:].any()
    assert not _net(engine, _eval(""), x=x, t=rows).blobs["y"].data[0, CLASSES:].any()  # no nms: nothing
    top = _net(engine, _eval("nms: 0.6 threshold: 0.4"), x=x, t=rows).blobs["y"].data
    np.testing.assert_allclose(
        top[0, CLASSES:].reshape(-1, 4)[:2], [(0, _sigmoid(2), 1, 0), (0, _sigmoid(1), 0, 1)], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["OBJ", "PROB", "MULTIPLY"])
def test_eval_detection_agrees(kind: str) -> None:
    draw = np.random.RandomState(8)
    x = draw.standard_normal((2, ANCHORS * (CLASSES + 5), SIDE, SIDE)).astype(np.float32)
    low = draw.uniform(0, 0.6, (12, 2))
    boxes = np.concatenate([low, low + draw.uniform(0.05, 0.4, (12, 2))], axis=1)
    rows = _truths(*((i % 3, 1 + i % 3, *box) for i, box in enumerate(boxes)))
    layer = _eval(f"nms: 0.3 threshold: 0.2 score_type: {kind}")
    one, other = (_net(engine, layer, x=x, t=rows).blobs["y"].data for engine in ENGINES)
    assert one[:, CLASSES:].reshape(-1, 4)[:, 2].sum() > 1
    assert error(other, one) <= ONE_LAYER


MAP = np.zeros((2, ANCHORS * (CLASSES + 5), SIDE, SIDE), np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("layer", "x", "rows", "message"),
    [
        (_region(), MAP[:, 1:], _truths((0, 1, 0, 0, 1, 1)), "the map must be"),
        (_region(), MAP, np.zeros((2, 300, 5), np.float32), "MobileNet-YOLO's, 300 rows"),
        (
            _region('softmax_tree: "a.tree"'),
            MAP,
            _truths((0, 1, 0, 0, 1, 1)),
            "softmax_tree is a fork's setting",
        ),
        (_region(), MAP, _truths((2, 1, 0, 0, 1, 1)), "of image 2, of 2"),
        (_region(), MAP, _truths((0, 1, 0.9, 0, 1.3, 1)), "outside of the image"),
        (_region(), MAP + np.float32(np.nan), _truths((0, 1, 0, 0, 1, 1)), "a score is not a number"),
        (_eval(), MAP, _truths((0, 4, 0, 0, 1, 1)), "of class 4, of 3"),
        (_eval(), MAP, _truths((0, 0, 0, 0, 1, 1)), "of class 0, of 3"),
        (_eval().replace("num_object: 5", "num_object: 3"), MAP, _truths((0, 1, 0, 0, 1, 1)), "at least 5"),
        (_region().replace("biases: 0.5", "", 1), MAP, _truths((0, 1, 0, 0, 1, 1)), "give biases, 2 above 0"),
    ],
)
def test_refuses(engine: str, layer: str, x: np.ndarray, rows: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _net(engine, layer, x=x, t=rows)
