"""MS-CNN's layers, which no recording has: numbers worked out by hand from the published rules, on both engines."""

import importlib
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, error
from port.report.summary import summarise
from port.report.survey import survey
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.rng import CaffeRNG, caffe_rng

TRAIN, TEST = 0, 1


def _net(
    engine: str, layer: str, tops: int, phase: int = TRAIN, force: bool = False, **settings: object
) -> Net:
    """A net of one layer over inputs; `settings` are the bottoms, arrays, and the engine's own settings."""
    bottoms = {name: value for name, value in settings.items() if isinstance(value, np.ndarray)}
    own = {name: value for name, value in settings.items() if name not in bottoms}
    text = "force_backward: true\n" if force else ""
    for name, value in bottoms.items():
        dims = " ".join(f"dim: {size}" for size in value.shape)
        text += (
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        )
    wired = "".join(f'bottom: "{name}" ' for name in bottoms) + "".join(f'top: "y{i}" ' for i in range(tops))
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(7)
    net = caffe.Net.from_message(parse_net(f'{text}layer {{ name: "l" {layer} {wired} }}'), phase, **own)
    for name, value in bottoms.items():
        net.blobs[name].data[...] = value
    return net


def _run(
    engine: str, layer: str, tops: int = 1, phase: int = TRAIN, **bottoms: np.ndarray
) -> list[np.ndarray]:
    net = _net(engine, layer, tops, phase, **bottoms)
    net.forward()
    return [net.blobs[f"y{i}"].data.copy() for i in range(tops)]


# ---- BoxOutput

BOXES = 'type: "BoxOutput" box_output_param { field_w: 20 field_h: 10 downsample_rate: 8 min_size: 5 %s}'


def _places(*columns: tuple) -> np.ndarray:
    """A map of one row from its places' channels."""
    return np.array(columns, np.float32).T[None, :, None]


@pytest.mark.parametrize("engine", ENGINES)
def test_box_output_by_hand(engine: str) -> None:
    """Centres at 4, 12, 20, 28 of an image 32 wide and 8 high; boxes are clamped to half a field's shift, and cut."""
    x = _places(
        (0, 2, 0.1, 0, 0, 0),  # 20 × 10 at (-4, -1): its width is cut after it was moved to 0
        (0, 3, 9, 0, math.log(0.5), 0),  # moved by 10, not 180: 10 × 10 at (17, -1)
        (0, 1, 0, 0, 0, 0),  # 12 wide from 10 to the image's end, overlaps the second by more than 0.3
        (1, 0.5, 0, 0, 0, 0),  # the background is likelier
    )
    regions, scored = _run(engine, BOXES % "iou_thr: 0.3 ", 2, x=x)
    np.testing.assert_allclose(scored[:, :, 0, 0], [[0, 17, 0, 27, 8, 3], [0, 0, 0, 20, 8, 2]], rtol=1e-6)
    np.testing.assert_array_equal(regions, scored[:, :5])
    (all_,) = _run(engine, BOXES % 'nms_type: "IOMU" iou_thr: 1 fg_thr: -1 ', x=x)
    assert all_[:, 1:, 0, 0].tolist() == [[17, 0, 27, 8], [0, 0, 20, 8], [10, 0, 30, 8], [18, 0, 32, 8]]
    (first,) = _run(engine, BOXES % "max_nms_num: 1 ", x=x)
    assert first[:, 1, 0, 0].tolist() == [17]
    regions, scored = _run(engine, BOXES % "fg_thr: 5 ", 2, x=x)
    assert regions.ravel().tolist() == [0, 1, 1, 10, 10] and not scored.any() and scored.shape == (1, 6, 1, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_equal_scores_the_later_place_comes_first(engine: str) -> None:
    x = np.zeros((1, 6, 1, 3), np.float32)
    x[0, 1] = 1
    (regions,) = _run(engine, BOXES % "iou_thr: 1 ", x=x)
    assert regions[:, 1, 0, 0].tolist() == [10, 2, 0]


def test_box_output_of_several_maps_agrees() -> None:
    draw = np.random.RandomState(3)
    layer = (
        'type: "BoxOutput" bbox_reg_param { bbox_mean: 0.1 bbox_mean: 0 bbox_mean: 0.2 bbox_mean: 0 bbox_std: 0.1 '
        "bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.3 } box_output_param { fg_thr: -0.5 iou_thr: 0.4 "
        "field_w: 40 field_w: 60 field_h: 30 field_h: 80 downsample_rate: 8 downsample_rate: 16 "
        "max_nms_num: 300 max_post_nms_num: 90 }"
    )
    a, b = (draw.standard_normal(s).astype(np.float32) for s in ((2, 8, 12, 20), (2, 8, 6, 10)))
    one, other = (_run(engine, layer, 2, a=a, b=b) for engine in ENGINES)
    assert len(one[0]) > 100
    for mine, hers in zip(one, other, strict=True):
        assert error(hers, mine) <= ONE_LAYER


# ---- DetectionLoss and DetectionAccuracy

FIELD = "cls_num: 3 field_w: 20 field_h: 10 downsample_rate: 8"


def _labels(*places: tuple) -> np.ndarray:
    return _places(*places)


def _softmax_loss(scores: tuple, label: int) -> float:
    return math.log(sum(map(math.exp, scores))) - scores[label]


@pytest.mark.parametrize("engine", ENGINES)
def test_detection_loss_by_hand(engine: str) -> None:
    x = _places((1, 2, 0, 0.1, 0, 0.2, 0.9), (0, 1, 0, 0, 0, 0, 0), (2, 0, 1, 0, 0, 0, 0))
    labels = _labels((2, 8, 4, 20, 40, 0.8), (0, 0, 0, 0, 0, 0.1), (0, 12, 4, 20, 10, 0.6))
    # Place 0 is at 4, its truth's shift 0.2 and 0, its scales 0 and log 4; 0.9 is clamped to log 2. Place 2 is
    # background that overlaps a truth, and does not count.
    classes = [_softmax_loss((1, 2, 0), 2), _softmax_loss((0, 1, 0), 0)]
    far = math.log(4) - math.log(2)
    boxes = [0.1**2 / 2, 0, 0.2**2 / 2, far**2 / 2]
    settings = f'type: "DetectionLoss" detection_loss_param {{ {FIELD} sample_mode: "all" lambda: 0.5 %s}} %s'
    (top,) = _run(engine, settings % ("", ""), x=x, labels=labels)
    expected = 0.5 * sum(boxes) / 4
    np.testing.assert_allclose(top.ravel(), [sum(classes) / 2 + expected, expected], rtol=2e-6)
    (top,) = _run(engine, settings % ("iou_weighted: true ", ""), x=x, labels=labels)
    np.testing.assert_allclose(top.ravel()[0], (0.8 * classes[0] + classes[1]) / 2 + expected, rtol=2e-6)
    # One positive of two that count weighs a fifth of 2, the negative four fifths.
    (top,) = _run(engine, settings % ("pos_neg_weighted: true iou_weighted: true ", ""), x=x, labels=labels)
    np.testing.assert_allclose(
        top.ravel()[0], (0.4 * classes[0] + 1.6 * classes[1]) / 2 + expected, rtol=2e-6
    )
    statistics = "bbox_reg_param { bbox_mean: 0.1 bbox_std: 0.1 bbox_mean: 0 bbox_std: 0.4 bbox_mean: 0.2 "
    statistics += "bbox_std: 0.5 bbox_mean: 0 bbox_std: 0.5 }"
    (top,) = _run(engine, settings % ("", statistics), x=x, labels=labels)
    # Shifts by a mean of 0.05 and a deviation of 0.2 are within ±(0.5 ∓ 0.05) / 0.2, all that is here.
    d = [0.1 - 1, 0, 0.2 + 0.4, 0.9 - math.log(4) / 0.5]
    smooth = sum(v * v / 2 if abs(v) < 1 else abs(v) - 0.5 for v in d)
    np.testing.assert_allclose(top.ravel()[1], 0.5 * smooth / 4, rtol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_negatives_are_drawn_or_the_hardest(engine: str) -> None:
    draw = np.random.RandomState(1)
    x = draw.standard_normal((1, 7, 3, 5)).astype(np.float32)
    labels = np.zeros((1, 6, 3, 5), np.float32)
    labels[0, :, 1, 2] = 1, 20, 12, 20, 10, 0.9
    labels[0, 5, 2, 4] = 0.7  # overlaps a truth: never a negative
    losses = np.array([_softmax_loss(x[0, :3, i // 5, i % 5].tolist(), int(i == 7)) for i in range(15)])
    rng = CaffeRNG(7)
    # One positive, bg_multiple 4; but 4 for each class are drawn at least, 8 here. Of a class: 4.
    drawn = {int(word) % 15 for word in rng.words(8)} - {7, 14}
    mixed = {int(word) % 15 for word in rng.words(8)} - {7, 14}
    flat = x[0].reshape(7, 15)
    hardest = set()
    for k in (1, 2):
        order = [i for i in np.argsort(-flat[k]).tolist() if i not in (7, 14)]
        hardest |= set(order[:4])
    layer = f'type: "DetectionLoss" detection_loss_param {{ {FIELD} sample_mode: "%s" lambda: 0 }}'
    net = _net(engine, layer % "random", 1, x=x, labels=labels)
    net.forward()
    places = [7, *drawn]
    np.testing.assert_allclose(net.blobs["y0"].data.ravel()[0], losses[places].mean(), rtol=2e-6)
    net.forward()  # the generator goes on
    places = [7, *mixed]
    np.testing.assert_allclose(net.blobs["y0"].data.ravel()[0], losses[places].mean(), rtol=2e-6)
    (top,) = _run(engine, layer % "bootstrap", x=x, labels=labels)
    np.testing.assert_allclose(top.ravel()[0], losses[[7, *hardest]].mean(), rtol=2e-6)
    (top,) = _run(engine, layer % "mixture", x=x, labels=labels)
    np.testing.assert_allclose(top.ravel()[0], losses[[7, *(drawn | hardest)]].mean(), rtol=2e-6)
    (top,) = _run(engine, layer % "none of them", x=x, labels=labels)
    np.testing.assert_allclose(top.ravel()[0], np.delete(losses, 14).mean(), rtol=2e-6)


def _random_maps() -> tuple[np.ndarray, np.ndarray]:
    """Predictions within the clamps, and labels near them."""
    draw = np.random.RandomState(5)
    x = draw.uniform(-0.4, 0.4, (2, 7, 4, 5))
    labels = np.zeros((2, 6, 4, 5))
    labels[:, 0] = draw.randint(0, 3, (2, 4, 5)) * draw.randint(0, 2, (2, 4, 5))
    labels[:, 1:3] = draw.uniform(-5, 45, (2, 2, 4, 5))
    labels[:, 3:5] = draw.uniform(5, 40, (2, 2, 4, 5))
    labels[:, 5] = draw.uniform(0, 0.8, (2, 4, 5))
    return x, labels


SETTINGS = [
    'sample_mode: "all"',
    'sample_mode: "all" bb_smooth: false lambda: 2',
    'sample_mode: "bootstrap" bg_multiple: 1 pos_neg_weighted: true',
    'sample_mode: "mixture" bg_multiple: 2 iou_weighted: true pos_neg_weighted: true bg_threshold: 0.4',
    'sample_mode: "random" bg_multiple: 1',
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("more", ["", "loss_param { ignore_label: 2 }"])
def test_detection_loss_agrees_and_has_the_slopes_of_its_first_value(settings: str, more: str) -> None:
    layer = f'type: "DetectionLoss" detection_loss_param {{ {FIELD} {settings} }} {more} propagate_down: true'
    layer += " propagate_down: false"
    x, labels = _random_maps()
    found = []
    for engine in ENGINES:
        net = _net(engine, layer, 1, force=True, x=x.astype(np.float32), labels=labels.astype(np.float32))
        net.forward()
        net.blobs["y0"].diff[...] = np.array([0.7, 5]).reshape(1, 1, 1, 2)  # the second is not read
        net.backward()
        found.append((net.blobs["y0"].data.copy(), net.blobs["x"].diff.copy()))
    for mine, hers in zip(*found, strict=True):
        assert error(hers, mine) <= ONE_LAYER
    gradient = found[0][1]
    for index in [
        (0, 1, 2, 3),
        (1, 0, 0, 0),
        (1, 2, 3, 1),
        (0, 3, 1, 1),
        (0, 6, 2, 2),
        (1, 4, 3, 4),
        (0, 0, 0, 2),
    ]:
        sides = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[index] += step
            net = _net("reference", layer, 1, x=moved, labels=labels, dtype=np.float64)
            net.forward()
            sides.append(float(net.blobs["y0"].data.ravel()[0]))
        assert abs(0.7 * (sides[0] - sides[1]) / 2e-6 - gradient[index]) < 1e-6, index


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_negative_that_counts_weights_are_infinite_as_published(engine: str) -> None:
    x = np.zeros((1, 7, 1, 2), np.float32)
    labels = _labels((1, 4, 4, 20, 10, 0.9), (0, 0, 0, 0, 0, 0.6))
    layer = (
        f'type: "DetectionLoss" detection_loss_param {{ {FIELD} sample_mode: "all" pos_neg_weighted: true }}'
    )
    layer += " propagate_down: true propagate_down: false"
    net = _net(engine, layer, 1, force=True, x=x, labels=labels)
    net.forward()
    assert np.isfinite(net.blobs["y0"].data).all()
    net.blobs["y0"].diff[...] = 1
    net.backward()
    diff = net.blobs["x"].diff[0, :, 0]
    assert np.isfinite(diff[:, 0]).all() and np.isnan(diff[:3, 1]).all() and not diff[3:, 1].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_detection_accuracy_by_hand(engine: str) -> None:
    x = _places(
        (0, 2, 1, 0, 0, 0, 0),  # right
        (1, 1, 0, 0, 0, 0, 0),  # of equal scores the higher class wins: wrong
        (3, 0, 0, 0, 0, 0, 0),  # overlaps a truth: not counted
        (0, 0, 5, 0, 0, 0, 0),  # class 1 among two best only
    )
    labels = _labels(
        (1, 14, 4, 20, 10, 0.9), (0, 0, 0, 0, 0, 0.1), (0, 0, 0, 0, 0, 0.5), (1, 28, 4, 20, 10, 0.9)
    )
    layer = f'type: "DetectionAccuracy" detection_accuracy_param {{ {FIELD} %s}} %s'
    shares, shared = _run(engine, layer % ("", ""), 2, x=x, labels=labels)
    np.testing.assert_allclose(shares.ravel(), [1 / 3, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(shared.ravel(), (10 * 10 / (400 - 100) + 1) / 2, rtol=1e-6)  # shifted by half
    (shares,) = _run(engine, layer % ("top_k: 2 ", ""), x=x, labels=labels)
    np.testing.assert_allclose(shares.ravel(), [1, 1], rtol=1e-6)
    shares, shared = _run(engine, layer % ("", "loss_param { ignore_label: 1 }"), 2, x=x, labels=labels)
    assert shares.ravel().tolist() == [0, -1] and shared.ravel().tolist() == [-1]


def test_detection_accuracy_agrees() -> None:
    x, labels = (values.astype(np.float32) for values in _random_maps())
    layer = (
        f'type: "DetectionAccuracy" detection_accuracy_param {{ {FIELD} }} bbox_reg_param {{ '
        + "bbox_mean: 0.1 bbox_std: 0.2 " * 4
        + "}"
    )
    one, other = (_run(engine, layer, 2, x=x, labels=labels) for engine in ENGINES)
    assert 0 < one[1].item() < 1
    for mine, hers in zip(one, other, strict=True):
        assert error(hers, mine) <= ONE_LAYER


# ---- BboxAccuracy, DecodeBBox, ProposalTarget


@pytest.mark.parametrize("engine", ENGINES)
def test_bbox_accuracy_by_hand(engine: str) -> None:
    t = np.zeros((4, 8), np.float32)
    t[0, 7] = math.log(0.5)  # 10 × 5 about the region's middle
    t[1, 4] = 0.5  # half to the right
    regions = np.array([[0, 0, 0, 9, 9]] * 4, np.float32)
    truths = np.array(
        [[1, 0, 0, 9, 4, 0.5], [1, 5, 0, 14, 9, 0.4], [1, 0, 0, 9, 9, 0.98], [0, 0, 0, 0, 0, 0]], np.float32
    )
    after, before = _run(engine, 'type: "BboxAccuracy"', 2, t=t, regions=regions, truths=truths)
    np.testing.assert_allclose(after.ravel(), (1 / 3 + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(before.ravel(), (1 / 2 + 1 / 3) / 2, rtol=1e-6)
    (none,) = _run(engine, 'type: "BboxAccuracy"', t=t[2:], regions=regions[2:], truths=truths[2:])
    assert none.ravel().tolist() == [-1]


@pytest.mark.parametrize("engine", ENGINES)
def test_decode_bbox_by_hand(engine: str) -> None:
    t = np.zeros((3, 8), np.float32)
    t[0, 4:] = 0.1, -0.2, math.log(2), 0  # of 11 × 21 about (15, 20): 22 × 21 about (16.1, 15.8)
    t[1, 4:] = 0, 0, -9, 0  # inverted: 0.001 wide
    regions = np.array([[0, 10, 10, 20, 30], [1, 0, 0, 9, 9], [1, 5, 5, 14, 9]], np.float32)
    truths = np.array([[1, 0, 0, 0, 0, o] for o in (0.5, 0.5, 0.96)], np.float32)
    moved = [0, 16.1 - 10.5, 15.8 - 10, 16.1 + 10.5, 15.8 + 10]
    (rows,) = _run(engine, 'type: "DecodeBBox"', t=t, regions=regions)
    np.testing.assert_allclose(rows[:, :, 0, 0], [moved, regions[2]], rtol=1e-6)
    (rows,) = _run(engine, 'type: "DecodeBBox"', t=t, regions=regions, truths=truths)
    np.testing.assert_allclose(rows[:, :, 0, 0], [moved], rtol=1e-6)
    (rows,) = _run(engine, 'type: "DecodeBBox"', phase=TEST, t=t, regions=regions)
    assert rows.shape == (3, 5, 1, 1)
    with pytest.raises(InputError, match="leaves no region"):
        _run(engine, 'type: "DecodeBBox"', t=t[1:2], regions=regions[1:2])


REGIONS = np.array(
    [
        [0, 0, 0, 9, 9],
        [0, 0, 0, 9, 4],
        [0, 0, 0, 9, 1],
        [1, 0, 0, 9, 9],
        [0, 50, 50, 59, 59],
        [0, 1, 0, 10, 9],
    ],
    np.float32,
)
TRUTHS = np.array([[0, 0, 0, 9, 9, 2, 0], [0, 50, 50, 59, 59, 1, 1]], np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_proposal_target_by_hand(engine: str) -> None:
    """Overlaps with truth 0: 1, 0.5, 0.2, of another image, none, 9 / 11; truth 1 and what it overlaps are ignored."""
    layer = (
        'type: "ProposalTarget" proposal_target_param { cls_num: 3 batch_size: -1 fg_thr: 0.6 bg_thr_hg: 0.6 '
        "bg_thr_lw: 0.2 iou_weighted: true } bbox_reg_param { " + "bbox_mean: 0.1 bbox_std: 0.2 " * 4 + "}"
    )
    rows, labels, targets, inner, outer, matched, weights = _run(engine, layer, 7, r=REGIONS, t=TRUTHS)
    assert labels.ravel().tolist() == [2, 2, 2, 0, 0]
    np.testing.assert_array_equal(rows[:, :, 0, 0], [*REGIONS[[0, 5]], TRUTHS[0, :5], *REGIONS[[1, 2]]])
    expected = np.zeros((5, 3, 4))
    expected[:3, 2] = (np.array([[0, 0, 0, 0], [-0.1, 0, 0, 0], [0, 0, 0, 0]]) - 0.1) / 0.2
    np.testing.assert_allclose(targets.reshape(5, 3, 4), expected, rtol=1e-5)
    assert (inner.reshape(5, 3, 4)[:3, 2] == 1).all() and inner.sum() == 12 and (inner == outer).all()
    shares = [1, 9 / 11, 1]
    np.testing.assert_allclose(
        matched.reshape(5, 6), [[2, 0, 0, 9, 9, s] for s in shares] + [[0] * 6] * 2, rtol=1e-6
    )
    np.testing.assert_allclose(
        weights.ravel(), [*(np.array(shares) / sum(shares) * 5 / 4), 15 / 8, 15 / 8], rtol=1e-6
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_proposal_target_draws_as_published(engine: str) -> None:
    layer = (
        'type: "ProposalTarget" proposal_target_param { cls_num: 3 batch_size: %d fg_fraction: 0.25 fg_thr: 0.6 '
        "bg_thr_hg: 0.6 bg_thr_lw: 0.2 num_img_per_batch: 2 img_width: 100 img_height: 90 }"
        " bbox_reg_param { cls_aware: false }"
    )
    # Four: one positive of three, by the layer's own generator; then both negatives, and the first of the rest.
    words = CaffeRNG(7)
    positive = [0, 5, 6]
    CaffeRNG(int(words.words(1)[0])).shuffle(positive)
    given = np.concatenate([REGIONS, TRUTHS[:, :5]])
    rows, labels, targets, *_ = _run(engine, layer % 4, 6, r=REGIONS, t=TRUTHS)
    assert labels.ravel().tolist() == [2, 0, 0, 0] and targets.shape == (4, 8, 1, 1)
    np.testing.assert_array_equal(rows[:, :, 0, 0], given[[positive[0], 1, 2, 3]])
    # Sixteen: three positive, two negative, one of the rest, and ten random boxes, of which eleven are drawn.
    net = _net(engine, layer % 16, 6, r=REGIONS, t=TRUTHS)
    net.forward()
    rows = net.blobs["y0"].data[:, :, 0, 0]
    np.testing.assert_array_equal(rows[:6], given[[0, 5, 6, 1, 2, 3]])
    found: list = []
    while len(found) < 11:
        image, x, y, width, height = (int(word) for word in words.words(5))
        image, x, y = image % 2, x % 68, y % 58
        width, height = max(width % (100 - x), 32), max(height % (90 - y), 32)
        found.append((image, x, y, x + width - 1, y + height - 1))  # none overlaps a truth by 0.6 here
    np.testing.assert_array_equal(rows[6:], found[:10])
    assert caffe_rng().words(1) == words.words(1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("layer", "bottoms", "message"),
    [
        (BOXES % "", {"x": (1, 4, 1, 1)}, "channels for scores before the 4 coordinates"),
        (BOXES % "field_whr: 0 ", {"x": (1, 6, 1, 1)}, "field_whr must be above 0"),
        (BOXES % "", {"x": (1, 6, 1, 1), "z": (1, 6, 1, 1)}, "1 field_h for 2 bottoms"),
        (f'type: "DetectionLoss" detection_loss_param {{ {FIELD} }}', {"x": (1, 6, 1, 1), "l": (1, 6, 1, 1)},
         "needs 7 channels, not 6"),
        (f'type: "DetectionLoss" detection_loss_param {{ {FIELD} }}', {"x": (1, 7, 1, 1), "l": (1, 5, 1, 1)},
         "the labels must be 1×6×1×1"),
        (f'type: "DetectionLoss" detection_loss_param {{ {FIELD} }} bbox_reg_param {{ bbox_mean: 1 bbox_std: 1 }}',
         {"x": (1, 7, 1, 1), "l": (1, 6, 1, 1)}, "give 4 of each"),
        ('type: "DecodeBBox"', {"t": (2, 8), "r": (3, 5)}, "must have as many rows"),
        ('type: "ProposalTarget" proposal_target_param { stage: 1 }', {"r": (2, 5), "t": (3, 7)},
         "takes 6 to 7 top blobs, not 1"),
    ],
)  # fmt: skip
def test_refuses(engine: str, layer: str, bottoms: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _net(engine, layer, 1, **{name: np.zeros(shape, np.float32) for name, shape in bottoms.items()})


@pytest.mark.parametrize("engine", ENGINES)
def test_refuses_values(engine: str) -> None:
    loss = f'type: "DetectionLoss" detection_loss_param {{ {FIELD} sample_mode: "bootstrap" }}'
    x, labels = np.zeros((1, 7, 1, 2), np.float32), np.zeros((1, 6, 1, 2), np.float32)
    with pytest.raises(InputError, match="hardest negatives cannot be told"):
        _run(engine, loss, x=x + np.float32(np.nan), labels=labels)
    with pytest.raises(InputError, match="label 3 is not from 0 to 2"):
        _run(engine, loss, x=x, labels=labels + 3)
    target = (
        'type: "ProposalTarget" proposal_target_param { cls_num: 3 batch_size: 9 fg_thr: 0.6 bg_thr_hg: 0.5 }'
    )
    with pytest.raises(InputError, match="give img_width and img_height"):
        _run(engine, target, 6, r=REGIONS, t=TRUTHS)
    with pytest.raises(InputError, match="class 0 or less"):
        _run(engine, target, 6, r=REGIONS, t=TRUTHS * np.float32([1, 1, 1, 1, 1, 0, 1]))
    with pytest.raises(InputError, match="of image 5"):
        _run(engine, target, 6, r=REGIONS + np.float32([4, 0, 0, 0, 0]), t=TRUTHS)


# ---- ImageGtData

LIST = """# 0
a.png
3 48 80
2
1 0 8 8 39 31
2 1 50 10 59 19
1
60 30 79 47
# 1
b.png 3 32 64 0 0
"""

DATA = """layer {{ name: "data" type: "ImageGtData" top: "data" top: "l8" top: "l16" {top}
    transform_param {{ {transform} }} image_gt_data_param {{ source: "list.txt" batch_size: 2 {settings}
    downsample_rate: 8 downsample_rate: 16 field_w: 24 field_w: 40 field_h: 24 field_h: 24 }} }}"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(5)
    cv2.imwrite("a.png", draw.randint(0, 256, (48, 80, 3), np.uint8))
    cv2.imwrite("b.png", draw.randint(0, 256, (32, 64, 3), np.uint8))
    Path("list.txt").write_text(LIST)
    return tmp_path


def _data(engine: str, settings: str = "", transform: str = "", boxes: bool = True) -> Net:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(3)
    if boxes:
        settings += " output_gt_boxes: true"
    top = 'top: "boxes"' if boxes else ""
    return caffe.Net.from_message(
        parse_net(DATA.format(top=top, transform=transform, settings=settings)), TRAIN
    )


def _iou(a: tuple, b: tuple) -> float:
    """Of boxes x, y, width, height."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize("engine", ENGINES)
def test_image_gt_data_labels_by_hand(engine: str, folder: Path) -> None:
    """Images as they are, 48 × 80 and the other put into the middle of as much, moved by what was drawn."""
    net = _data(engine, "resize_width: 80 resize_height: 48 scale: 0.5", "mean_value: 100")
    words = CaffeRNG(3)
    mine = CaffeRNG(int(words.words(1)[0]))
    words.words(1)  # the thread's
    assert caffe_rng().words(1) == words.words(1)
    mine.words(3)  # a box, and two of noise that change nothing: the image fits
    net.forward()
    pixels = cv2.imread("a.png").astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(net.blobs["data"].data[0], (pixels - 100) * 0.5)
    wide = cv2.resize(cv2.imread("b.png"), (80, 48)).astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(net.blobs["data"].data[1], (wide - 100) * 0.5)
    assert net.blobs["boxes"].data[:, :, 0, 0].tolist() == [
        [0, 8, 8, 39, 31, 1, 0],
        [0, 50, 10, 59, 19, 2, 1],
    ]
    truth = (8, 8, 31, 23)
    labels = net.blobs["l8"].data[0]
    for y, x in np.ndindex(6, 10):
        field = (8 * x + 4 - 12, 8 * y + 4 - 12, 24, 24)
        hidden = max(min(field[0] + 24, 79) - max(field[0], 60), 0) * max(
            min(field[1] + 24, 47) - max(field[1], 30), 0
        )
        if hidden / 576 >= 0.4:
            assert labels[:, y, x].tolist() == [0, 0, 0, 0, 0, 1]
            continue
        shared = _iou(truth, field)
        np.testing.assert_allclose(labels[5, y, x], max(shared, _iou((50, 10, 9, 9), field)), rtol=1e-6)
        box = [1, 23.5, 19.5, 31, 23] if shared > 0.5 else [0] * 5
        assert labels[:5, y, x].tolist() == box
    assert (labels[0] == 1).sum() == 2
    assert not net.blobs["l8"].data[1].any()  # no box: no overlap anywhere


@pytest.mark.parametrize("engine", ENGINES)
def test_a_box_that_no_field_matches_goes_to_its_centre(engine: str, folder: Path) -> None:
    Path("list.txt").write_text("# 0 a.png 3 48 80 1 3 0 20 16 36 28 0\n")
    net = _data(engine, "fg_threshold: 0.9", boxes=False)
    net.forward()
    found = [np.argwhere(net.blobs[name].data[0, 0] > 0).tolist() for name in ("l8", "l16")]
    assert found == [[[2, 3]], []]  # the centre (28, 22), in the map whose best field matches best
    assert net.blobs["l8"].data[0, :5, 2, 3].tolist() == [3, 28, 22, 16, 12]


@pytest.mark.parametrize(
    ("settings", "transform"),
    [
        ("shuffle: true crop_width: 48 crop_height: 32 resize_width: 96 resize_height: 64", "mirror: true"),
        ("resize_width: 160 resize_height: 96 crop_width: 64 crop_height: 64 do_multiple_scale: true min_scale: 16 "
         "max_scale: 90 min_whaspect: 0.5 max_whaspect: 2 fg_img_multiple: 2", "mirror: true mean_value: 3"),
        ("resize_width: 80 resize_height: 64 cache_images: true do_multiple_scale: true min_scale: 8 max_scale: 30",
         ""),
    ],
)  # fmt: skip
def test_image_gt_data_of_both_engines(settings: str, transform: str, folder: Path) -> None:
    one, other = (_data(engine, settings, transform) for engine in ENGINES)
    seen = []
    for _ in range(12):
        for net in (one, other):
            net.forward()
        for name in ("data", "l8", "l16", "boxes"):
            np.testing.assert_array_equal(one.blobs[name].data, other.blobs[name].data)
        boxes = one.blobs["boxes"].data[:, :, 0, 0].copy()
        seen.append(boxes)
        labels = one.blobs["l8"].data
        where = np.argwhere(labels[:, 0] > 0)
        # What is labelled is a box of that image.
        for i, y, x in where:
            cx, cy, w, h = labels[i, 1:5, y, x]
            corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            assert any(np.allclose(corners, row[1:5], atol=1e-2) and row[0] == i for row in boxes)
    assert len({rows.tobytes() for rows in seen}) > 3


@pytest.mark.parametrize(
    "scale", ["", "do_multiple_scale: true min_scale: 16 max_scale: 90 min_whaspect: 0.4 max_whaspect: 3"]
)
def test_boxes_stay_where_the_pixels_are(scale: str, folder: Path) -> None:
    """A white box on black, mirrored, scaled and cut: white within the box that comes with it, black around it."""
    image = np.zeros((96, 160, 3), np.uint8)
    image[20:60, 30:90] = 255
    cv2.imwrite("a.png", image)
    Path("list.txt").write_text("# 0 a.png 3 96 160 1 1 0 30 20 90 60 0\n")
    net = _data(
        "port",
        f"resize_width: 160 resize_height: 128 crop_width: 112 crop_height: 96 {scale}",
        "mirror: true",
    )
    seen = set()
    for _ in range(20):
        net.forward()
        for image, (*_, x1, y1, x2, y2, _, _) in zip(
            net.blobs["data"].data[:, 0], net.blobs["boxes"].data[:, :, 0, 0].tolist(), strict=True
        ):
            seen.add((x2 - x1, y2 - y1))
            y, x = np.mgrid[:96, :112] + 0.5
            inside = np.minimum(np.minimum(x - x1, x2 - x), np.minimum(y - y1, y2 - y))
            assert (image[inside > 4] > 250).all() and (image[inside < -4] < 5).all()
    assert len(seen) > (5 if scale else 0)


@pytest.mark.parametrize(
    ("settings", "listed", "message"),
    [
        (
            "crop_width: 40 crop_height: 40 resize_width: 80 resize_height: 48",
            LIST,
            "do not fit downsample_rate 16",
        ),
        ("crop_width: 96 crop_height: 48", LIST, "is larger than the image"),
        ("coord_num: 5", LIST, "coord_num must be 4"),
        ("", "# 0 a.png 1 48 80 0 0\n", "has 1 channels"),
        ("", "# 0 a.png 3 48 80 1 0 0 1 1 2 2 0\n", "class 0 or less"),
        ("", "# 0 a.png 3 48 80 2 1 0 1 1 2 2\n", "ends in the middle"),
        ("", "", "is empty"),
        ("", LIST.replace("48 80", "48 96"), "the list says 48×96"),
        ("", LIST.replace("a.png", "c.png"), "cannot be read"),
    ],
)
def test_image_gt_data_refuses(settings: str, listed: str, message: str, folder: Path) -> None:
    Path("list.txt").write_text(listed)
    for engine in ENGINES:
        with pytest.raises(InputError, match=message):
            _data(engine, settings or "resize_width: 80 resize_height: 48").forward()


def test_a_net_whose_images_are_elsewhere_is_planned(tmp_path: Path) -> None:
    text = DATA.format(
        top='top: "boxes"', transform="", settings="crop_width: 64 crop_height: 32 output_gt_boxes: true"
    )
    path = tmp_path / "net.prototxt"
    path.write_text(
        text
        + """layer { name: "c" type: "Convolution" bottom: "data" top: "c"
            convolution_param { num_output: 7 kernel_size: 8 stride: 8 } }
        layer { name: "l" type: "DetectionLoss" bottom: "c" bottom: "l8" top: "loss"
            detection_loss_param { cls_num: 3 field_w: 24 field_h: 24 downsample_rate: 8 } }
        layer { name: "o" type: "BoxOutput" bottom: "c" top: "rois" propagate_down: false
            box_output_param { field_w: 24 field_h: 24 downsample_rate: 8 } }
        layer { name: "t" type: "ProposalTarget" bottom: "rois" bottom: "boxes" top: "r" top: "y" top: "t" top: "i"
            top: "o" top: "m" proposal_target_param { cls_num: 3 batch_size: 4 img_width: 64 img_height: 64 } }
        layer { name: "p" type: "ROIPooling" bottom: "c" bottom: "r" top: "p"
            roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 pad_ratio: 0.5 } }
        """
    )
    told, _ = summarise(path, TRAIN)
    assert {
        name: shape for layer in told.layers for name, shape in zip(layer.tops, layer.shapes, strict=True)
    }["l16"] == (2, 6, 2, 4)
    (found,) = survey([path])
    assert found.outcome == "runs", found
