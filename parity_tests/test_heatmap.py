"""caffe-heatmap's layers without a recording: worked out from its code, on both engines."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES, PHASES
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.c_random import CRandom
from runtime.rng import CaffeRNG, set_random_seed


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


JOINTS = "10,8,4,5,15,12"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Images of 20 × 24 pixels (height, width), as RGB."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    draw = np.random.RandomState(6)
    made = [draw.randint(0, 256, (20, 24, 3), np.uint8) for _ in range(3)]
    for i, image in enumerate(made):
        cv2.imwrite(f"in/{i}.png", image[:, :, ::-1])
    Path("list.txt").write_text("".join(f"{i}.png {JOINTS} 1,2,3,4 {i % 2}\n" for i in range(3)))
    return made


def _net(caffe: ModuleType, settings: str, phase: str = "TRAIN") -> Net:
    fixed = 'source: "list.txt" root_img_dir: "in/" cropsize: 16 label_width: 4 label_height: 4 '
    layer = f'type: "DataHeatmap" heatmap_data_param {{ {fixed} {settings} }}'
    return caffe.Net.from_message(
        parse_net(f'layer {{ name: "d" top: "x" top: "y" {layer} }}'), PHASES[phase]
    )


def _bump(x: float, y: float, side: int) -> np.ndarray:
    far = (np.arange(side)[:, None] - y) ** 2 + (np.arange(side) - x) ** 2
    return 4 / (1.5 * math.sqrt(2 * math.pi)) * np.exp(-far / 4.5)


def test_the_middle_and_its_bumps(caffe: ModuleType, images: list[np.ndarray]) -> None:
    net = _net(caffe, "batchsize: 2 outsize: 16 scale: 0.5 multfact: 1 labelinds: '1,2,5,6'")
    for first in (0, 2):  # images 0 and 1, then 2 and 0
        net.forward()
        for i in range(2):
            cut = images[(first + i) % 3][2:18, 4:20].astype(np.float32).transpose(2, 0, 1)
            np.testing.assert_array_equal(net.blobs["x"].data[i], cut / 2)
            # Joints (10, 8) and (15, 12) less (4, 2), a quarter as large.
            for joint, (x, y) in enumerate(((6, 6), (11, 10))):
                np.testing.assert_allclose(net.blobs["y"].data[i, joint], _bump(x / 4, y / 4, 4), rtol=1e-5)


def test_a_narrow_image_is_padded_on_the_right(caffe: ModuleType, images: list[np.ndarray]) -> None:
    cv2.imwrite("in/0.png", images[0][:, :12, ::-1])
    net = _net(caffe, "batchsize: 1 outsize: 16")
    net.forward()
    np.testing.assert_array_equal(net.blobs["x"].data[0, :, :, 12:], 0)
    np.testing.assert_array_equal(net.blobs["x"].data[0, :, :, :12], images[0][2:18, :12].transpose(2, 0, 1))
    np.testing.assert_allclose(net.blobs["y"].data[0, 0], _bump(10 / 4, 6 / 4, 4), rtol=1e-5)


def test_crops_are_drawn_by_c(caffe: ModuleType, images: list[np.ndarray]) -> None:
    set_random_seed(12)
    net = _net(caffe, "batchsize: 4 outsize: 16 random_crop: true angle_max: 20 dont_flip_first: true")
    net.forward()
    seed = int(CaffeRNG(12).words(1)[0])
    c = CRandom(seed - (1 << 32) if seed >> 31 else seed)
    mirrored = 0
    for i in range(4):
        flip, left, top = c.rand() % 2, c.rand() % 9, c.rand() % 5
        angle = -20 + 40 * c.rand() / (2**31 - 1)
        image = images[i % 3].astype(np.float32)
        joints = np.array([[10, 8], [4, 5], [15, 12]], float)
        if flip:
            mirrored += 1
            image = image[:, ::-1]
            joints[:, 0] = 24 - joints[:, 0]
            joints[[1, 2]] = joints[[2, 1]]
        turn = cv2.getRotationMatrix2D((8, 8), angle, 1)
        image = cv2.warpAffine(np.ascontiguousarray(image[top : top + 16, left : left + 16]), turn, (16, 16))
        np.testing.assert_allclose(net.blobs["x"].data[i], image.transpose(2, 0, 1), atol=1e-3)
        places = (joints - [left, top]) @ turn[:, :2].T + turn[:, 2]
        for joint, (x, y) in enumerate(places):
            np.testing.assert_allclose(
                net.blobs["y"].data[i, joint], _bump(x / 4, y / 4, 4), rtol=1e-4, atol=1e-7
            )
    assert 0 < mirrored < 4


def test_classes_take_turns(caffe: ModuleType, images: list[np.ndarray]) -> None:
    """Images 0 and 2 are of class 0, image 1 of class 1. Where each begins is drawn."""
    set_random_seed(3)
    net = _net(caffe, "batchsize: 4 outsize: 16 sample_per_cluster: true")
    seed = int(CaffeRNG(3).words(1)[0])
    first = CRandom(seed - (1 << 32) if seed >> 31 else seed).rand() % 2
    net.forward()
    order = [(0, 2)[first], 1, (2, 0)[first], 1]
    for i, image in enumerate(order):
        np.testing.assert_array_equal(net.blobs["x"].data[i], images[image][2:18, 4:20].transpose(2, 0, 1))


def test_what_a_segmentation_hides(caffe: ModuleType, images: list[np.ndarray]) -> None:
    """Brighter than 40 becomes black; images without a segmentation are passed over."""
    Path("in/segs").mkdir()
    mask = np.full((20, 24), 40, np.uint8)
    mask[:, 10:] = 41
    cv2.imwrite("in/segs/1.png", mask)
    net = _net(caffe, "batchsize: 2 outsize: 16 segmentation: true")
    net.forward()
    for i in range(2):
        np.testing.assert_array_equal(net.blobs["x"].data[i, :, :, 6:], 0)
        np.testing.assert_array_equal(
            net.blobs["x"].data[i, :, :, :6], images[1][2:18, 4:10].transpose(2, 0, 1)
        )


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ("outsize: 16", None, "batchsize, cropsize, outsize, multfact and label_height must be at least 1"),
        ("batchsize: 1 outsize: 16 meanfile: 'm'", None, "meanfile, means of videos, is not supported"),
        ("batchsize: 1 outsize: 16 data_augment: true", None, "data_augment, RMPE's, is not supported"),
        ("batchsize: 1 outsize: 16", "", "is empty: list at least one"),
        ("batchsize: 1 outsize: 16", "0.png 1,2,3 1 0\n", "list.txt:1: 0.png: 3 numbers are not x and y"),
        ("batchsize: 1 outsize: 16", "0.png 1,b 1 0\n", "list.txt:1: 0.png: 'b' is not a number"),
        ("batchsize: 1 outsize: 16", "0.png 1,2 1 x\n", "list.txt:1: 0.png: class 'x' is not a whole number"),
        (
            "batchsize: 1 outsize: 16",
            "0.png 1,2 1 0\n1.png 1,2,3,4 1 0\n",
            "list.txt:2: 1.png: 2 joints, 1 in the",
        ),
        ("batchsize: 1 outsize: 16 sample_per_cluster: true", "0.png 1,2 1 1\n", "class 0 has no image"),
        ("batchsize: 1 outsize: 16 random_crop: true", "0.png 1,2,3,4 1 0\n", "1 joints are not pairs"),
    ],
)
def test_bad_settings_are_one_line(
    caffe: ModuleType, images: list[np.ndarray], settings: str, text: str | None, message: str
) -> None:
    if text is not None:
        Path("list.txt").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        _net(caffe, settings)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("low.png 1,2 1 0", "low.png: is 9 pixels high, less than cropsize 16"),
        ("none.png 1,2 1 0", "none.png"),
    ],
)
def test_bad_images_are_one_line(
    caffe: ModuleType, images: list[np.ndarray], line: str, message: str
) -> None:
    cv2.imwrite("in/low.png", images[0][:9])
    Path("list.txt").write_text(line + "\n")
    net = _net(caffe, "batchsize: 1 outsize: 16")
    with pytest.raises(InputError, match=message):
        net.forward()


def _loss(caffe: ModuleType, *bottoms: np.ndarray, weight: int = 1) -> Net:
    text = "force_backward: true\n"
    for i, bottom in enumerate(bottoms):
        sizes = " ".join(f"dim: {size}" for size in bottom.shape)
        text += f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {sizes} }} }} }}\n'
    names = " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    text += f'layer {{ name: "l" type: "EuclideanLossHeatmap" {names} top: "y" loss_weight: {weight} }}'
    net = caffe.Net.from_message(parse_net(text), PHASES["TRAIN"])
    for i, bottom in enumerate(bottoms):
        net.blobs[f"b{i}"].data[...] = bottom
    return net


def test_the_loss_sends_the_difference_back(caffe: ModuleType) -> None:
    a = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    net = _loss(caffe, a, a - 3, np.zeros((2, 3, 5, 5), np.float32), weight=7)
    net.forward()
    net.backward()
    assert net.blobs["y"].data == 9
    np.testing.assert_array_equal(net.blobs["b0"].diff, np.full_like(a, 3))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 2, 3, 3), (1, 2, 3, 4), (1,)], "must have one shape"),
        ([(1, 2, 3, 4), (1, 2, 3, 4), (1,)], "needs square maps"),
        ([(1, 2, 3, 3), (1, 2, 3, 3)], "takes 3 bottom blobs"),
    ],
)
def test_maps_that_do_not_fit(caffe: ModuleType, shapes: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _loss(caffe, *(np.zeros(shape, np.float32) for shape in shapes))
