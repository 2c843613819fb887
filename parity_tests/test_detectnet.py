"""NVCaffe's DetectNetTransformation, by hand and by its draws."""

import importlib
from types import ModuleType

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, PHASES
from prototxt import parse_net
from prototxt.caffe_pb2 import DetectNetGroundTruthParameter
from prototxt.errors import InputError
from runtime import Net
from runtime.data.detectnet import coverage
from runtime.rng import CaffeRNG, caffe_rng, set_random_seed

HEIGHT, WIDTH = 12, 20

PIXELS = ONE_LAYER * 255
"""How near a picture of 0 to 255 must be."""


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


def net_of(caffe: ModuleType, phase: str, settings: str, size: tuple[int, int] = (8, 16)) -> Net:
    """A net of one picture and up to two boxes; `size` is (height, width) of what it makes."""
    grid = f"stride: 4 image_size_y: {size[0]} image_size_x: {size[1]} object_class {{ src: 1 dst: 0 }}"
    text = f"""
        layer {{ name: "in" type: "Input" top: "x" input_param {{
            shape {{ dim: 1 dim: 3 dim: {HEIGHT} dim: {WIDTH} }} }} }}
        layer {{ name: "boxes" type: "Input" top: "b" input_param {{ shape {{ dim: 1 dim: 1 dim: 3 dim: 16 }} }} }}
        layer {{ name: "t" type: "DetectNetTransformation" bottom: "x" bottom: "b" top: "y" top: "g"
            detectnet_groundtruth_param {{ {grid} object_class {{ src: 4 dst: 1 }} }} {settings} }}
    """
    return caffe.Net.from_message(parse_net(text), PHASES[phase])


def label(*boxes: tuple[float, ...]) -> np.ndarray:
    """Boxes of x, y, width, height and class."""
    rows = np.zeros((1, 1, 3, 16), np.float32)
    rows[0, 0, 0, :2] = len(boxes), 16
    for row, (*corners, number) in zip(rows[0, 0, 1:], boxes, strict=False):
        row[:4], row[5] = corners, number
    return rows


def picture() -> np.ndarray:
    return np.random.RandomState(3).randint(0, 256, (1, 3, HEIGHT, WIDTH)).astype(np.float32)


def test_coverage() -> None:
    """The inner half of a box of 8×4 at (2, 1) is 4×2 at (4, 2): cell (1, 0) alone; a dropped and a small box."""
    grid = DetectNetGroundTruthParameter(stride=4, image_size_x=16, image_size_y=8)
    grid.object_class.add(src=1, dst=0)
    grid.object_class.add(src=4, dst=1)
    boxes = np.zeros((3, 16), np.float32)
    boxes[0, :6] = 2, 1, 8, 4, 0, 1
    boxes[1, :6] = 0, 0, 9, 9, 0, 2  # a class that is not asked for
    boxes[2, :6] = 14, 6, 8, 8, 0, 4  # cut to 2×2 at (14, 6)
    found = coverage(boxes, grid)
    assert found.shape == (10, 2, 4)
    np.testing.assert_allclose(found[:, 0, 1], [1, -2, 1, 6, 5, 1 / 8, 1 / 4, 2, 1, 0])
    np.testing.assert_allclose(found[:, 1, 3], [1, 2, 2, 4, 4, 1 / 2, 1 / 2, 16, 0, 1])
    assert found[0].sum() == 2


def test_coverage_with_a_least_length() -> None:
    grid = DetectNetGroundTruthParameter(
        stride=4,
        image_size_x=16,
        image_size_y=8,
        gridbox_type=1,
        min_cvg_len=6,
        crop_bboxes=False,
        obj_norm=True,
    )
    boxes = np.zeros((1, 16), np.float32)
    boxes[0, :6] = 2, 1, 8, 4, 0, 1  # inner part 6×4: x 3 to 9, y 1 to 5
    found = coverage(boxes, grid)
    np.testing.assert_array_equal(found[0], [[1, 1, 1, 0], [1, 1, 1, 0]])
    np.testing.assert_allclose(found[7][found[0] > 0], 16 / 24)


def test_in_test_the_picture_is_resized(caffe: ModuleType) -> None:
    net = net_of(caffe, "TEST", "transform_param { mean_value: 127 }")
    net.blobs["x"].data[...], net.blobs["b"].data[...] = picture(), label((5, 3, 10, 6, 4))
    net.forward()
    centred = (picture()[0].transpose(1, 2, 0) - 127) / 255
    wanted = cv2.resize(centred.astype(np.float32), (16, 8), interpolation=cv2.INTER_CUBIC) * 255
    np.testing.assert_allclose(net.blobs["y"].data[0].transpose(1, 2, 0), wanted, atol=PIXELS)
    grid = net.blobs["g"].data[0]
    rows, columns = np.nonzero(grid[0])
    assert (grid[9][rows, columns] == 1).all() and not grid[8].any()
    scaled = np.array([5 * 16 / 20, 3 * 8 / 12, 15 * 16 / 20, 9 * 8 / 12])  # left, top, right, bottom
    cell = np.array([columns[0], rows[0], columns[0], rows[0]]) * 4
    np.testing.assert_allclose(grid[1:5, rows[0], columns[0]], scaled - cell, rtol=1e-5)


def test_in_train_it_draws(caffe: ModuleType) -> None:
    """Flip and crop, by the layer's own generator, which is seeded when the layer is set up."""
    settings = """detectnet_augmentation_param { hue_rotation_prob: 0 desaturation_prob: 0 flip_prob: 1 scale_prob: 0
        rotation_prob: 0 crop_prob: 1 shift_x: 6 shift_y: 3 }"""
    set_random_seed(2)
    net = net_of(caffe, "TRAIN", settings)
    net.blobs["x"].data[...], net.blobs["b"].data[...] = picture(), label((2, 2, 8, 6, 1))
    net.forward()
    set_random_seed(2)
    own = CaffeRNG(int(caffe_rng().words(1)[0]))
    draws = [int(word) / (2**32 - 1) for word in own.words(8)]
    x = round(draws[6] * (WIDTH - 16 + 6) - 3)
    y = round(draws[7] * (HEIGHT - 8 + 3) - 1)
    padded = np.pad(picture()[0, :, :, ::-1], ((0, 0), (9, 9), (9, 9)))
    wanted = padded[:, y + 9 : y + 17, x + 9 : x + 25]
    np.testing.assert_allclose(net.blobs["y"].data[0], wanted, atol=PIXELS)
    grid = net.blobs["g"].data[0]
    rows, columns = np.nonzero(grid[0])
    left = WIDTH - 2 - 8 - 1 - x
    np.testing.assert_allclose(grid[3, rows, columns] + columns * 4, min(left + 8, 16), rtol=1e-5)


def test_a_turn_takes_the_boxes_along(caffe: ModuleType) -> None:
    """By at most 40 degrees around the picture's centre; a bright spot stays in the middle of its box."""
    settings = """detectnet_augmentation_param { hue_rotation_prob: 0 desaturation_prob: 0 flip_prob: 0 scale_prob: 0
        rotation_prob: 1 max_rotate_degree: 40 crop_prob: 0 }"""
    image = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    image[..., 4:7, 12:15] = 255
    for seed in range(5):
        set_random_seed(seed)
        net = net_of(caffe, "TRAIN", settings, (24, 28))
        net.blobs["x"].data[...], net.blobs["b"].data[...] = image, label((10.5, 2.5, 6, 6, 1))
        net.forward()
        found, grid = net.blobs["y"].data[0, 0], net.blobs["g"].data[0]
        spot = np.array(
            [(found.sum(axis) * np.arange(n)).sum() / found.sum() for axis, n in ((0, 28), (1, 24))]
        )
        rows, columns = np.nonzero(grid[0])
        box = grid[1:5, rows[0], columns[0]] + np.array([columns[0], rows[0], columns[0], rows[0]]) * 4
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, spot, atol=1)


def test_colours(caffe: ModuleType) -> None:
    settings = """detectnet_augmentation_param { hue_rotation_prob: 0 desaturation_prob: 1 desaturation_max: 1
        flip_prob: 0 scale_prob: 0 rotation_prob: 0 crop_prob: 0 }"""
    set_random_seed(5)
    net = net_of(caffe, "TRAIN", settings, (HEIGHT, WIDTH))
    net.blobs["x"].data[...], net.blobs["b"].data[...] = picture(), label()
    net.forward()
    set_random_seed(5)
    own = CaffeRNG(int(caffe_rng().words(1)[0]))
    share = 1 - int(own.words(3)[2]) / (2**32 - 1)  # hue's chance, saturation's chance, saturation
    hsv = cv2.cvtColor(picture()[0].transpose(1, 2, 0) / 255, cv2.COLOR_BGR2HSV)
    hsv[..., 1] *= share
    wanted = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * 255
    np.testing.assert_allclose(net.blobs["y"].data[0].transpose(1, 2, 0), wanted, atol=PIXELS)
    assert not net.blobs["g"].data.any()


@pytest.mark.parametrize("first", [(1, 15), (3, 16), (-1, 16)])
def test_labels_of_another_form(caffe: ModuleType, first: tuple[int, int]) -> None:
    net = net_of(caffe, "TEST", "")
    net.blobs["b"].data[0, 0, 0, :2] = first
    with pytest.raises(InputError, match="labels must begin with the number of boxes and 16"):
        net.forward()
