"""Data layers of the forks, pixel by pixel: DenseImageData, ImageLabelmapData, DeepLab's tops, MATLAB files."""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from parity_tests.recordings import ENGINES, PHASES
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.rng import CaffeRNG, set_random_seed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of 20 × 24 with label images."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(4)
    lines = []
    for i in range(3):
        cv2.imwrite(f"{i}.png", draw.randint(0, 256, (20, 24, 3), np.uint8))
        cv2.imwrite(f"l{i}.png", draw.randint(0, 256, (20, 24), np.uint8))
        lines.append(f"{i}.png l{i}.png\n")
    Path("pairs.txt").write_text("".join(lines))
    Path("names.txt").write_text("0.png\n1.png\n2.png\n")
    Path("numbers.txt").write_text("0.png 7\n1.png 300\n2.png 0\n")
    return tmp_path


def _net(engine: str, layer: str, phase: str = "TRAIN") -> Net:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    return caffe.Net.from_message(
        parse_net(f'layer {{ name: "d" top: "x" top: "y" {layer} }}'), PHASES[phase]
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_images_are_resized_each_by_its_rule(engine: str, folder: Path) -> None:
    net = _net(
        engine,
        'type: "DenseImageData" dense_image_data_param { source: "pairs.txt" batch_size: 2 new_height: 10 '
        "new_width: 8 label_divide_factor: 2 } transform_param { mean_value: 3 scale: 0.5 }",
    )
    net.forward()
    for i in range(2):
        image = cv2.resize(cv2.imread(f"{i}.png"), (8, 10)).transpose(2, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(net.blobs["x"].data[i], (image - 3) * np.float32(0.5))
        labels = cv2.resize(cv2.imread(f"l{i}.png", 0), (4, 5), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(net.blobs["y"].data[i, 0], labels)


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_images_are_mirrored_and_cropped_alike(engine: str, folder: Path) -> None:
    set_random_seed(5)
    net = _net(
        engine,
        'type: "DenseImageData" dense_image_data_param { source: "pairs.txt" batch_size: 3 mirror: true '
        "crop_height: 9 crop_width: 7 }",
    )
    net.forward()
    words = CaffeRNG(int(CaffeRNG(5).words(1)[0])).words(9).reshape(3, 3).tolist()
    for i, (mirror, down, right) in enumerate(words):
        image, labels = cv2.imread(f"{i}.png"), cv2.imread(f"l{i}.png", 0)
        if mirror % 2:
            image, labels = image[:, ::-1], labels[:, ::-1]
        rows, columns = slice(down % 12, down % 12 + 9), slice(right % 18, right % 18 + 7)
        np.testing.assert_array_equal(net.blobs["x"].data[i], image[rows, columns].transpose(2, 0, 1))
        np.testing.assert_array_equal(net.blobs["y"].data[i, 0], labels[rows, columns])


@pytest.mark.parametrize("engine", ENGINES)
def test_labelmaps_are_edges(engine: str, folder: Path) -> None:
    net = _net(engine, 'type: "ImageLabelmapData" image_data_param { source: "pairs.txt" batch_size: 3 }')
    net.forward()
    for i in range(3):
        np.testing.assert_array_equal(net.blobs["x"].data[i], cv2.imread(f"{i}.png").transpose(2, 0, 1))
        np.testing.assert_array_equal(net.blobs["y"].data[i, 0], cv2.imread(f"l{i}.png", 0) >= 128)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ('source: "names.txt" label_type: NONE', [255, 255, 255]),
        ('source: "names.txt" label_type: NONE ignore_label: 21', [21, 21, 21]),
        ('source: "names.txt" has_label: false', [255, 255, 255]),
        ('source: "numbers.txt" label_type: IMAGE', [7, 255, 0]),
    ],
)
def test_deeplabs_label_types_and_sizes(engine: str, settings: str, labels: list[int], folder: Path) -> None:
    net = _net(
        engine,
        f'type: "ImageSegData" top: "size" image_data_param {{ batch_size: 3 {settings} }} '
        "transform_param { crop_size: 22 mean_value: 100 }",
        "TEST",
    )
    net.forward()
    assert net.blobs["size"].data.reshape(3, 2).tolist() == [[20, 22]] * 3
    for top, label in zip(net.blobs["y"].data, labels, strict=True):
        assert (top[0, :20] == label).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_data_tells_its_images_size(engine: str) -> None:
    net = _net(
        engine,
        'type: "MemoryData" top: "size" memory_data_param { batch_size: 2 channels: 1 height: 3 width: 5 }',
    )
    net.set_input_arrays(np.ones((4, 1, 3, 5), np.float32), np.arange(4, dtype=np.float32))
    net.forward()
    assert net.blobs["size"].data.tolist() == [[[[3, 5]]]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('source: "pairs.txt" batch_size: 0', "batch_size"),
        ('source: "pairs.txt" batch_size: 1 new_height: 4', "new_height and new_width"),
        ('source: "pairs.txt" batch_size: 1 crop_width: 4', "crop_height and crop_width"),
        ('source: "pairs.txt" batch_size: 1 crop_width: 4 crop_height: 40', "smaller than the crop"),
        ('source: "pairs.txt" batch_size: 1 label_divide_factor: 2', "label_divide_factor"),
        ('source: "none.txt" batch_size: 1', "cannot be read"),
    ],
)
def test_dense_images_refuse(settings: str, message: str, folder: Path) -> None:
    for engine in ENGINES:
        with pytest.raises(InputError, match=message):
            _net(engine, f'type: "DenseImageData" dense_image_data_param {{ {settings} }}')


WRITE = """
    layer {{ name: "in" type: "Input" top: "x" top: "z" input_param {{ shape {{ dim: 1 dim: 2 dim: 3 dim: 4 }} }} }}
    layer {{ name: "w" type: "MatWrite" bottom: "x" bottom: "z" mat_write_param {{ prefix: "out_" {} }} }}
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_mat_files_go_out_and_in(engine: str, folder: Path) -> None:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = caffe.Net.from_message(
        parse_net(WRITE.format('source: "names.txt" strip: 4 period: 2')), PHASES["TEST"]
    )
    draw, written = np.random.RandomState(6), []
    for _ in range(3):
        for blob in (net.blobs["x"], net.blobs["z"]):
            blob.data[...] = draw.uniform(size=blob.shape)
        net.forward()
        written.append(net.blobs["x"].data.copy())
    names = sorted(path.name for path in folder.glob("*.mat"))
    assert names == [f"out_{i}_blob_{j}.mat" for i in (0, 2) for j in (0, 1)]
    stored = scipy.io.loadmat("out_2_blob_0.mat")["data"]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored.reshape(4, 3, 2), written[2][0].T)
    Path("list.txt").write_text("0\n2 further words do not count\n")
    read = _net(engine, 'type: "MatRead" mat_read_param { prefix: "out_" source: "list.txt" batch_size: 3 }')
    read.forward()
    np.testing.assert_array_equal(read.blobs["x"].data, np.concatenate([written[0], written[2], written[0]]))
    np.testing.assert_array_equal(read.blobs["y"].data[1], net.blobs["z"].data[0])
    net.forward()  # no file is needed
    with pytest.raises(InputError, match="lists 3 names"):
        net.forward()


@pytest.mark.parametrize("engine", ENGINES)
def test_mat_files_are_refused(engine: str, folder: Path) -> None:
    scipy.io.savemat("0_blob_0.mat", {"data": np.zeros((2, 2))})
    scipy.io.savemat("1_blob_0.mat", {"other": np.zeros((2, 2))})
    Path("a").write_text("0\n")
    Path("b").write_text("1\n")
    for settings, message in [
        ('source: "a"', "must be single"),
        ('source: "b"', "an array named data"),
        ('source: "names.txt"', "no such file"),
        ('source: "a" strip: 1', "nothing is left"),
        ("", "give source"),
    ]:
        with pytest.raises(InputError, match=message):
            _net(engine, f'type: "MatRead" mat_read_param {{ {settings} }}')
