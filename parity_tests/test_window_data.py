"""WindowData's sampling and warping, and HDF5Output's file."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import h5py
import numpy as np
import pytest
import torch

from port.net import CaffeNet
from prototxt.caffe_pb2 import NetParameter, WindowDataParameter
from prototxt.errors import InputError
from prototxt.read import parse_net
from runtime.data.windows import Window, place_window
from runtime.rng import CaffeRNG, caffe_rng, set_random_seed
from weights import write_binaryproto

TRAIN, TEST = 0, 1

# class, overlap, x1 y1 x2 y2: two of foreground, one between the thresholds, three of background
WINDOWS = """# 0
a.png
3
20
30
4
3 0.9 4 2 15 13
1 0.5 0 0 29 19
2 0.4 1 1 5 5
5 0.1 10 3 20 18
# 1
b.png
3 24 24 2
7 0 0 0 9 9
7 0.2 12 5 23 23
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(5)
    Path("images").mkdir()
    cv2.imwrite("images/a.png", draw.randint(0, 256, (20, 30, 3), np.uint8))
    cv2.imwrite("images/b.png", draw.randint(0, 256, (24, 24, 3), np.uint8))
    Path("windows.txt").write_text(WINDOWS)
    return tmp_path


def window_net(
    settings: str = "", transform: str = "crop_size: 12", fraction: float = 0.25, phase: int = TRAIN
) -> CaffeNet:
    set_random_seed(3)
    return CaffeNet(window_message(settings, transform, fraction), phase)


def window_message(
    settings: str = "", transform: str = "crop_size: 12", fraction: float = 0.25
) -> NetParameter:
    return parse_net(
        'layer { name: "data" type: "WindowData" top: "data" top: "label" '
        f"transform_param {{ {transform} }} window_data_param {{ "
        'source: "windows.txt" root_folder: "images/" batch_size: 8 fg_threshold: 0.5 bg_threshold: 0.3 '
        f"fg_fraction: {fraction} {settings} }} }}"
    )


def test_background_comes_first_and_windows_are_drawn_word_by_word(folder: Path):
    net = window_net(transform="crop_size: 12 mirror: true scale: 9")
    words = CaffeRNG(3)
    words.words(1)  # the transformer's seed
    mine = CaffeRNG(int(words.words(1)[0]))
    words.words(2)  # the transformer's again, and the thread's
    assert caffe_rng().words(1) == words.words(1)
    images = [cv2.imread(f"images/{name}.png") for name in "ab"]
    background = [(0, 0, 10, 3, 20, 18), (1, 0, 0, 0, 9, 9), (1, 0, 12, 5, 23, 23)]
    foreground = [(0, 3, 4, 2, 15, 13), (0, 1, 0, 0, 29, 19)]
    for _ in range(3):
        out = net()
        for i in range(8):
            pool = background if i < 6 else foreground
            image, label, x1, y1, x2, y2 = pool[int(mine.words(1)[0]) % len(pool)]
            pixels = cv2.resize(images[image][y1 : y2 + 1, x1 : x2 + 1], (12, 12))
            if mine.words(1)[0] % 2:
                pixels = pixels[:, ::-1]
            assert out["label"][i] == label
            assert np.array_equal(out["data"][i].numpy(), pixels.transpose(2, 0, 1)), i


def test_pycaffe_nets_see_the_same(folder: Path, caffe: ModuleType):
    wanted = [{name: top.numpy() for name, top in net().items()} for net in [window_net()] * 3]
    set_random_seed(3)
    net = caffe.Net.from_message(window_message(), TRAIN)
    for tops in wanted:
        net.forward()
        assert all(np.array_equal(net.blobs[name].data, top) for name, top in tops.items())


def test_scale_and_mean_come_before_the_empty_border(folder: Path):
    plain = window_net("context_pad: 2")()["data"].numpy()
    scaled = window_net("context_pad: 2 scale: 0.5 cache_images: true", "crop_size: 12 mean_value: 100")
    mean = np.random.RandomState(1).rand(1, 3, 16, 16).astype(np.float32)
    write_binaryproto("mean.binaryproto", mean)
    centred = window_net("context_pad: 2", 'crop_size: 12 mean_file: "mean.binaryproto"')
    border = (plain == 0).all(axis=1, keepdims=True)
    assert border.any()
    expected = np.where(border, 0, (plain - np.float32(100)) * np.float32(0.5))
    assert np.array_equal(scaled()["data"].numpy(), expected)
    assert np.array_equal(
        centred()["data"].numpy(), np.where(border, 0, plain - mean[:, :, 2:14, 2:14]).astype(np.float32)
    )


@pytest.mark.parametrize(
    ("window", "settings", "mirrored", "rows", "columns", "size", "corner"),
    [
        # by hand: 10×10 pixels grow by 20 / 16 about (15, 15) to 8.75 … 21.25: 9 … 21, wholly inside
        ((10, 10, 19, 19), {"context_pad": 2}, False, (9, 22), (9, 22), (20, 20), (0, 0)),
        # 10×10 at the corner: -1.25 … 11.25: -1 … 11 is 13 wide, of which 1 (1.54 of the crop: 2) is outside
        ((0, 0, 9, 9), {"context_pad": 2}, False, (0, 12), (0, 12), (18, 18), (2, 2)),
        # the same mirrored: what is missing on the left is missing on the right
        ((0, 0, 9, 9), {"context_pad": 2}, True, (0, 12), (0, 12), (18, 18), (2, 0)),
        # 20 wide, 10 high about (20, 15), square: x 10 … 30, y 5 … 25
        ((10, 10, 29, 19), {"crop_mode": "square"}, False, (5, 26), (10, 31), (20, 20), (0, 0)),
        ((10, 10, 29, 19), {"crop_mode": "warp"}, False, (10, 20), (10, 30), (20, 20), (0, 0)),
    ],
)
def test_context_by_hand(window, settings, mirrored, rows, columns, size, corner):
    placed = place_window(Window(0, 1, *window), (40, 40), 20, WindowDataParameter(**settings), mirrored)
    assert placed.source == (slice(*rows), slice(*columns))
    assert placed.size == size
    assert (placed.top, placed.left) == corner


def test_a_restored_layer_goes_on(folder: Path):
    net = window_net(transform="crop_size: 12 mirror: true")
    net(), net()
    state = json.dumps(net.named_layers()["data"].state())
    wanted = net()
    again = window_net(transform="crop_size: 12 mirror: true")
    again.named_layers()["data"].restore(json.loads(state))
    assert torch.equal(again()["data"], wanted["data"])
    Path("windows.txt").write_text(WINDOWS.replace("0.9", "0.8"))
    with pytest.raises(InputError, match="is not the list"):
        window_net().named_layers()["data"].restore(json.loads(state))


@pytest.mark.parametrize(
    ("text", "settings", "transform", "message"),
    [
        ("", "", "crop_size: 12", "windows.txt: is empty"),
        (WINDOWS, "", "", "crop_size"),
        (WINDOWS, "context_pad: 6", "crop_size: 12", "context_pad 6 leaves nothing"),
        (WINDOWS.replace("# 1", "# 2"), "", "crop_size: 12", "windows.txt: image 1: is numbered 2"),
        (WINDOWS.replace("7 0.2", "7 x"), "", "crop_size: 12", "windows.txt: image 1: "),
        (WINDOWS[:-9], "", "crop_size: 12", "image 1: ends in the middle"),
        (WINDOWS.replace("3 0.9", "0 0.9"), "", "crop_size: 12", "class 0 or less"),
        (WINDOWS, "", "crop_size: 12 mean_value: 1 mean_value: 2", "2 mean_value for 3 channels"),
        (WINDOWS.replace("23 23", "24 23"), "", "crop_size: 12", "does not lie in the image"),
        (WINDOWS.replace("b.png", "c.png"), "", "crop_size: 12", "images/c.png cannot be read"),
    ],
)
def test_one_line_says_what_is_wrong(text, settings, transform, message, folder: Path):
    Path("windows.txt").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        net = window_net(settings, transform, 0.1)
        for _ in range(5):
            net()
    assert "\n" not in str(caught.value)


OUTPUT = """
layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "out" type: "HDF5Output" bottom: "x" bottom: "y" hdf5_output_param { file_name: "out.h5" } }
"""


def test_hdf5_output_holds_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caffe: ModuleType):
    monkeypatch.chdir(tmp_path)
    net = caffe.Net.from_message(parse_net(OUTPUT), TEST)
    net.blobs["x"].data[...] = np.arange(6).reshape(2, 3)
    net.blobs["y"].data[...] = 7, 8
    net.forward()
    with h5py.File("out.h5") as file:
        assert set(file) == {"data", "label"}
        assert file["data"].dtype == np.float32
        assert np.array_equal(file["data"][...], np.arange(6).reshape(2, 3, 1, 1))
        assert np.array_equal(file["label"][...], np.array([7, 8]).reshape(2, 1, 1, 1))
    with pytest.raises(InputError, match=r"out\.h5 holds one pass"):
        net.forward()


def test_hdf5_output_of_unlike_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caffe: ModuleType):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the same number of rows"):
        caffe.Net.from_message(parse_net(OUTPUT.replace("shape { dim: 2 }", "shape { dim: 3 }")), TEST)
    assert not Path("out.h5").exists()
