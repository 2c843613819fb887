"""WindowSegData and SelectSegBinary: windows, labels, and draws in step with Caffe's generator."""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES
from port.report.summary import summarise
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.rng import CaffeRNG, caffe_rng

TRAIN, TEST = 0, 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(5)
    for name, size in (("a", (20, 30)), ("b", (24, 24))):
        cv2.imwrite(f"{name}.png", draw.randint(0, 256, (*size, 3), np.uint8))
        cv2.imwrite(f"{name}_seg.png", draw.choice([0, 1, 2, 3, 7, 255], size).astype(np.uint8))
    Path("list.txt").write_text("a.png a_seg.png -3 2 12 15 5 0 9\nb.png b_seg.png 4 4 19 30 6 8 7\n")
    return tmp_path


def _message(kind: str, settings: str, transform: str, more: str = "") -> str:
    return (
        f'layer {{ name: "data" type: "{kind}" top: "data" top: "seg" top: "last" {more} '
        f'image_data_param {{ source: "list.txt" label_type: PIXEL ignore_label: 255 {settings} }} '
        f"transform_param {{ mean_value: 10 mean_value: 20 mean_value: 30 {transform} }} }}"
    )


def _net(engine: str, *text: str, phase: int = TRAIN, behind: str = "") -> Net:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(3)
    return caffe.Net.from_message(parse_net(_message(*text) + behind), phase)


def _window(image: np.ndarray, x1: int, y1: int, x2: int, y2: int, outside: int) -> np.ndarray:
    wide = np.pad(image, [(40, 40), (40, 40)] + [(0, 0)] * (image.ndim - 2), constant_values=outside)
    return wide[40 + y1 : 41 + y2, 40 + x1 : 41 + x2]


@pytest.mark.parametrize("engine", ENGINES)
def test_windows_by_hand(engine: str, folder: Path) -> None:
    """Black outside of the image, not labelled there; pixels bilinearly, labels by the nearest; no draw in TEST."""
    net = _net(engine, "WindowSegData", "batch_size: 2 new_height: 28 new_width: 32", "", phase=TEST)
    assert caffe_rng().words(1) == CaffeRNG(3).words(1)
    net.forward()
    for i, (name, box) in enumerate((("a", (-3, 2, 12, 15)), ("b", (4, 4, 19, 30)))):
        image, seg = cv2.imread(f"{name}.png"), cv2.imread(f"{name}_seg.png", cv2.IMREAD_GRAYSCALE)
        pixels = cv2.resize(_window(image, *box, 0), (32, 28)).astype(np.float32) - np.float32([10, 20, 30])
        np.testing.assert_array_equal(net.blobs["data"].data[i], pixels.transpose(2, 0, 1))
        labels = cv2.resize(_window(seg, *box, 255), (32, 28), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(net.blobs["seg"].data[i, 0], labels)
    assert net.blobs["last"].data.reshape(2, 2).tolist() == [[20, 30], [24, 24]]


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_become_the_images_numbers(engine: str, folder: Path) -> None:
    more = "select_seg_binary_param { cls_label_base: 1 } window_cls_data_param { label_dim: 3 }"
    net = _net(engine, "SelectSegBinary", "batch_size: 2 new_height: 14 new_width: 16", "", more, phase=TEST)
    net.forward()
    seg = _window(cv2.imread("a_seg.png", cv2.IMREAD_GRAYSCALE), -3, 2, 12, 15, 255)
    changed = {0: 0, 255: 255, 1: 0, 2: 5, 3: 0, 7: 0}  # 2, 3 and 4 are the three
    np.testing.assert_array_equal(net.blobs["seg"].data[0, 0], np.vectorize(changed.get)(seg))
    assert net.blobs["last"].data.reshape(2, 3).tolist() == [[5, 0, 9], [6, 8, 7]]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_batch_takes_its_seed_one_batch_ahead(engine: str, folder: Path) -> None:
    """The transformer's generator is seeded anew for each batch, between what other layers draw."""
    dropout = 'layer { name: "d" type: "Dropout" bottom: "data" top: "d" }'
    net = _net(
        engine, "WindowSegData", "batch_size: 1 shuffle: true", "crop_size: 12 mirror: true", behind=dropout
    )
    words = CaffeRNG(3)
    order = [0, 1]
    shuffled = CaffeRNG(int(words.words(1)[0]))
    shuffled.shuffle(order)
    words.words(1)  # a generator that nothing uses
    seed = int(words.words(1)[0])
    seen = []
    for _ in range(2):
        for index in list(order):
            net.forward()
            name, box = (("a", (-3, 2, 12, 15)), ("b", (4, 4, 19, 30)))[index]
            mirrored, top, left = CaffeRNG(seed).words(3).tolist()
            image = _window(cv2.imread(f"{name}.png"), *box, 0)
            top, left = top % (image.shape[0] - 11), left % (image.shape[1] - 11)
            pixels = image[top : top + 12, left : left + 12].astype(np.float32) - np.float32([10, 20, 30])
            pixels = pixels[:, ::-1] if mirrored % 2 else pixels
            np.testing.assert_array_equal(net.blobs["data"].data[0], pixels.transpose(2, 0, 1))
            seen.append((mirrored % 2, top, left))
            seed = int(words.words(1)[0])
            mask = words.bernoulli(pixels.size, 0.5).reshape(net.blobs["d"].shape)
            np.testing.assert_array_equal(net.blobs["d"].data, net.blobs["data"].data * mask * 2)
        shuffled.shuffle(order)
    assert len(set(seen)) > 2


@pytest.mark.parametrize(
    ("listed", "settings", "message"),
    [
        ("a.png a_seg.png 0 0 9 9 1 2 3", "", "give new_height and new_width, or crop_size"),
        ("a.png a_seg.png 0 0 9 9 1 2", "new_height: 8 new_width: 8", "has 8 words, not 9"),
        ("a.png a_seg.png 0 0 9 -9 1 2 3", "new_height: 8 new_width: 8", "is empty, or too large"),
        ("a.png a_seg.png 0 0 1e9 9 1 2 3", "new_height: 8 new_width: 8", "not a whole number"),
        ("a.png b_seg.png 0 0 9 9 1 2 3", "new_height: 8 new_width: 8", "a label image of"),
        ("c.png b_seg.png 0 0 9 9 1 2 3", "new_height: 8 new_width: 8", "cannot be read"),
        ("", "new_height: 8 new_width: 8", "is empty"),
    ],
)
def test_refuses(listed: str, settings: str, message: str, folder: Path) -> None:
    Path("list.txt").write_text(listed)
    for engine in ENGINES:
        with pytest.raises(InputError, match=message):
            _net(engine, "SelectSegBinary", settings, "", "window_cls_data_param { label_dim: 3 }").forward()


def test_a_summary_tells_the_shapes(tmp_path: Path) -> None:
    for kind, more, last in (
        ("WindowSegData", "", (4, 1, 1, 2)),
        ("SelectSegBinary", "window_cls_data_param { label_dim: 20 }", (4, 20, 1, 1)),
    ):
        path = tmp_path / "net.prototxt"
        path.write_text(
            _message(kind, "batch_size: 4 new_height: 250 new_width: 250", "crop_size: 224", more)
        )
        told, _ = summarise(path, TRAIN)
        (layer,) = told.layers
        assert layer.shapes == ((4, 3, 224, 224), (4, 1, 224, 224), last)
