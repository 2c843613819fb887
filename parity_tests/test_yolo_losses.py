"""MobileNet-YOLO's losses without a recording: worked out by hand from its code, and both engines on random truths."""

import importlib
import itertools
from types import ModuleType

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, PHASES, error
from prototxt import parse_net
from prototxt.errors import InputError
from reference.layers.yolo_losses import _uphill, overlap
from runtime import Net

KINDS = {"IOU": 0, "GIOU": 1, "MSE": 2, "DIOU": 3, "CIOU": 4}


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


def _net(caffe: ModuleType, layer: str, *bottoms: np.ndarray, forced: bool = True) -> Net:
    text = "force_backward: true\n" if forced else ""
    for i, bottom in enumerate(bottoms):
        sizes = " ".join(f"dim: {size}" for size in bottom.shape)
        text += f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {sizes} }} }} }}\n'
    names = " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    net = caffe.Net.from_message(
        parse_net(f'{text} layer {{ name: "l" {layer} {names} top: "y" }}'), PHASES["TRAIN"]
    )
    for i, bottom in enumerate(bottoms):
        net.blobs[f"b{i}"].data[...] = bottom
    return net


def _loss(caffe: ModuleType, layer: str, *bottoms: np.ndarray) -> tuple[float, np.ndarray]:
    net = _net(caffe, layer, *bottoms)
    net.forward()
    net.backward()
    return net.blobs["y"].data.item(), net.blobs["b0"].diff.copy()


def _truths(*images: list) -> np.ndarray:
    rows = np.zeros((len(images), 1, 300, 5), np.float32)
    for b, image in enumerate(images):
        rows[b, 0, : len(image)] = np.reshape(image, (-1, 5))
    return rows


def _yolo(settings: str, num_class: int = 2, mask: tuple = (0,), anchors: tuple = (8, 8, 16, 8)) -> str:
    lists = " ".join(f"biases: {value}" for value in anchors) + " " + " ".join(f"mask: {n}" for n in mask)
    shared = f"num: {len(mask)} num_class: {num_class} anchors_scale: 8 thresh: 0.5"
    return f'type: "Yolov3" yolov3_param {{ {shared} {lists} {settings} }}'


def test_yolov3_by_hand(caffe: ModuleType) -> None:
    """Zeros everywhere: sigmoids of a half, boxes of the anchors' size. The truth has the first anchor's shape."""
    x = np.zeros((1, 7, 2, 2), np.float32)
    rows = _truths([[1, 0.75, 0.25, 0.5, 0.5]])
    loss, slopes = _loss(caffe, _yolo("label_smooth_eps: 0 coord_scale: 1"), x, rows)
    due = np.zeros((7, 2, 2), np.float32)
    due[4] = 0.5  # nothing is there
    # In the truth's place, x and y are right as they are, and so is the size.
    due[4:, 0, 1] = [-0.5, 0.5, -0.5]
    np.testing.assert_allclose(slopes[0], due, atol=1e-7)
    assert loss == pytest.approx(6 * 0.25)


def test_yolov3_moves_a_box(caffe: ModuleType) -> None:
    x = np.zeros((1, 7, 2, 2), np.float32)
    rows = _truths([[0, 0.625, 0.25, 0.25, 0.5]])
    _, slopes = _loss(caffe, _yolo("label_smooth_eps: 0.2 coord_scale: 2 use_logic_gradient: true"), x, rows)
    scale = 2 * (2 - 0.125)
    # x should be 0.25 and not 0.5; the width half of the anchor's. Slopes of x, y and scores times s (1 - s).
    box = [scale * 0.25 / 4, 0, scale * np.log(2), 0]
    scores = [-0.5 / 4, -(0.9 - 0.5) / 4, -(0.1 - 0.5) / 4]
    np.testing.assert_allclose(slopes[0, :, 0, 1], [*box, *scores], rtol=1e-6, atol=1e-7)


def test_yolov3_overlaps_count_for_boxes(caffe: ModuleType) -> None:
    x = np.zeros((2, 7, 2, 2), np.float32)
    rows = _truths([[1, 0.75, 0.25, 0.5, 0.25]], [])
    loss, slopes = _loss(caffe, _yolo("iou_loss: GIOU iou_normalizer: 0.5 label_smooth_eps: 0"), x, rows)
    # Half of the box is the truth: IoU 0.5, and the hull is the box. 10 scores of a half; the mean over two images.
    assert loss == pytest.approx((10 * 0.25 + 0.5 * 0.5) / 2)
    # I = 1/8, U = C = 1/4. By the top edge I · 1/2 / U² = 1, by the bottom -1, and nothing by the hull, which grows as
    # the union does: -2 by the height. By the sides, which are the truth's, 1 and -1, and by the hull -2 and 2: 2 by
    # the width. Both times the normaliser, the size's e⁰ and 1/2 for the images.
    np.testing.assert_allclose(slopes[0, :4, 0, 1], [0, 0, -0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("kind", ["IOU", "GIOU"])  # DIOU's leaves out a power, CIOU's takes a factor as fixed
def test_the_slope_of_an_overlap_is_its_own(kind: str) -> None:
    """By the middle the published slope is the overlap's, by the size twice it."""
    draw = np.random.RandomState(3)
    for _ in range(20):
        box, truth = draw.uniform(0.3, 0.6, (2, 4))
        found = _uphill(box, truth, KINDS[kind])
        steps = np.eye(4) * 1e-6
        due = [
            (overlap(box + step, truth, KINDS[kind]) - overlap(box - step, truth, KINDS[kind])) / 2e-6
            for step in steps
        ]
        np.testing.assert_allclose(found, due * np.array([1, 1, 2, 2]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "logic", "focal", "accumulate"),
    list(itertools.product(KINDS, ("false", "true"), ("false", "true"), ("false", "true"))),
)
def test_engines_agree(kind: str, logic: str, focal: str, accumulate: str) -> None:
    draw = np.random.RandomState(KINDS[kind])
    x = draw.standard_normal((3, 2 * 8, 5, 4)).astype(np.float32)
    truths = [
        np.column_stack(
            [draw.randint(0, 3, n), draw.uniform(0.05, 0.95, (n, 2)), draw.uniform(0.02, 0.7, (n, 2))]
        )
        for n in (9, 0, 4)
    ]
    truths[2][1, 1:3] = truths[2][0, 1:3]  # two in one place
    settings = (
        f"iou_loss: {kind} use_logic_gradient: {logic} use_focal_loss: {focal} accumulate: {accumulate} "
        "iou_thresh: 0.3 object_scale: 2 class_scale: 0.7 max_delta: 0.5 "
    )
    layer = _yolo(settings, 3, (2, 0), (6, 7, 9, 20, 14, 12))
    one, other = (
        _loss(importlib.import_module(f"{engine}.pycaffe"), layer, x, _truths(*truths)) for engine in ENGINES
    )
    assert one[0] == pytest.approx(other[0], rel=ONE_LAYER)
    assert error(other[1], one[1]) <= ONE_LAYER


def test_a_second_truth_of_a_class_leaves_the_other_classes(caffe: ModuleType) -> None:
    x = np.zeros((1, 7, 2, 2), np.float32)
    same = [[0, 0.75, 0.25, 0.5, 0.5], [1, 0.75, 0.25, 0.5, 0.5]]
    _, slopes = _loss(caffe, _yolo("label_smooth_eps: 0"), x, _truths(same))
    np.testing.assert_allclose(slopes[0, 5:, 0, 1], [-0.5, -0.5])


def test_yolo_seg(caffe: ModuleType) -> None:
    scores = np.zeros((1, 2, 1, 4), np.float32)
    labels = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], np.float32).reshape(1, 2, 1, 4)
    places = np.array([1, 2], np.float32).reshape(1, 2)
    loss, slopes = _loss(
        caffe, 'type: "YoloSeg" yolo_seg_param { object_scale: 0.5 }', scores, labels, places
    )
    # Shares 1/3 and 2/2: labelled places weigh 2 - 1/3 and 1.
    due = np.array([[-5 / 12, 0.25, 0.25, 0.25], [-0.25, -0.25, 0.25, 0.25]])
    np.testing.assert_allclose(slopes[0, :, 0], due, rtol=1e-6)
    assert loss == pytest.approx((due**2).sum(), rel=1e-6)


def test_segmentation_is_evaluated(caffe: ModuleType) -> None:
    labels = np.zeros((2, 3, 2, 4), np.float32)
    labels[0, 0, 0, :3] = 1
    labels[1] = 1  # the second image does not count
    scores = np.zeros_like(labels)
    scores[0, 0, 0, 1:] = 0.6
    scores[0, 2] = 0.6
    layer = 'type: "SegmentationEvaluate" segmentation_evaluate_param { num_classes: 3 threshold: 0.5 }'
    net = _net(caffe, layer, scores, labels, forced=False)
    net.forward()
    np.testing.assert_allclose(net.blobs["y"].data, [[[[0.5, 0, 0]]]])
    small = np.zeros((1, 3, 1, 2), np.float32)
    small[0, 0, 0] = [1, 0]
    small[0, 2] = 1
    net = _net(caffe, layer, small, labels, forced=False)
    net.forward()
    # Enlarged to 255, 191, 64, 0: columns 0 and 1 of two rows; of the 3 labels 2 are met.
    np.testing.assert_allclose(net.blobs["y"].data, [[[[0.4, -1, -1]]]])


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (_yolo(""), [(1, 8, 2, 2), (1, 1, 300, 5)], "must have 7 channels"),
        (_yolo(""), [(1, 7, 2, 2), (1, 1, 30, 5)], r"the truths must be \(1, …, 300 rows of 5\)"),
        (_yolo("", mask=(2,)), [(1, 7, 2, 2), (1, 1, 300, 5)], "mask must name 1 of the 2 anchors"),
        (_yolo("", anchors=(8, 0)), [(1, 7, 2, 2), (1, 1, 300, 5)], "2 above 0 for each anchor"),
        ('type: "YoloSeg"', [(1, 2, 3, 3), (1, 2, 3, 4), (1, 2)], "must have one shape"),
        (
            'type: "YoloSeg"',
            [(1, 2, 3, 3), (1, 2, 3, 3), (1, 3)],
            "a number for each of 1 images and 2 classes",
        ),
        ('type: "SegmentationEvaluate"', [(1, 2, 3, 3)] * 2, "give num_classes"),
        (
            'type: "AssistedExcitation"',
            [(1, 2, 3, 3), (1, 1, 300, 5), (1, 1, 3, 3)],
            "AssistedExcitation can be planned and not run: its strength fades by the solver's iteration",
        ),
    ],
)
def test_bad_input_is_one_line(caffe: ModuleType, layer: str, shapes: list, message: str) -> None:
    with pytest.raises(InputError, match=message) as told:
        _net(caffe, layer, *(np.zeros(shape, np.float32) for shape in shapes))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([2, 0.5, 0.5, 0.1, 0.1], "a truth is of class 2, of 2 from 0 on"),
        ([0, 1.5, 0.5, 0.1, 0.1], "is outside of the image"),
        ([0, 0.5, 0.5, -0.1, 0.1], "a truth has a negative size"),
    ],
)
def test_truths_that_cannot_be(caffe: ModuleType, truth: list, message: str) -> None:
    net = _net(caffe, _yolo(""), np.zeros((1, 7, 2, 2), np.float32), _truths([truth]))
    with pytest.raises(InputError, match=message):
        net.forward()
