"""The `seenet` command as a user meets it: what it writes, and how it refuses."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import port
from parity_tests.recordings import seenet_weights
from port.images import read_image
from port.voc.classes import CLASSES, class_index
from weights import read_weights, write_weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with narrow weights and images, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    model = port.SeeNet(background=False, channels=(4, 8, 16, 32, 32))
    weights = seenet_weights(model, 1)
    write_weights(folder / "narrow.caffemodel", weights)
    write_weights(folder / "other.caffemodel", weights[:5])
    weights[3].blobs[0][0, 0, 0, 0] = np.nan
    write_weights(folder / "nan.caffemodel", weights)
    (folder / "cut.caffemodel").write_bytes((folder / "narrow.caffemodel").read_bytes()[:-1000])
    (folder / "noise.caffemodel").write_bytes(b"not a caffemodel at all")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for name, picture in {
        "a": image,
        "b": image[::-1, :50],
        "grey": image[:, :, 0],
        "rgba": cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
        "deep": image.astype(np.uint16) * 256,
        "dot": image[:1, :1],
    }.items():
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_attention_writes_maps_figure_and_floats(seenet: Run, files: Path, tmp_path: Path) -> None:
    status, out, err = seenet(
        "attention", files / "a.png", files / "b.png", "--labels", "person,tvmonitor", "--npz",
        "--weights", files / "narrow.caffemodel", "--out", tmp_path, "--test-size", 64,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "person" in out and "tv/monitor" in out
    expected = {f"{name}{end}" for name in "ab" for end in ("_14.png", "_19.png", "_attention.png", ".npz")}
    assert {path.name for path in tmp_path.iterdir()} == expected
    model = port.SeeNet.from_caffemodel(files / "narrow.caffemodel")
    maps = port.attention_maps(model, read_image(files / "a.png"), [14, 19], test_size=64)
    with np.load(tmp_path / "a.npz") as stored:
        assert np.array_equal(stored["attention"], maps) and stored["labels"].tolist() == [14, 19]
    written = cv2.imread(str(tmp_path / "a_19.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and np.array_equal(written, np.rint(maps[1] * 255))
    assert cv2.imread(str(tmp_path / "b_attention.png")).shape[1] > 300


@pytest.mark.parametrize("state", ["accumulate", "single", "all"])
def test_label_states(files: Path, state: str) -> None:
    """One pass for all labels equals the label states taken one at a time."""
    model = port.SeeNet.from_caffemodel(files / "narrow.caffemodel", maxt=0.5, mint=0.1)
    image, labels = read_image(files / "a.png"), [7, 2, 15]
    maps = port.attention_maps(model, image, labels, 64, label_state=state)
    for i, label in enumerate(labels):
        told = {"accumulate": labels[: i + 1], "single": [label], "all": labels}[state]
        alone = port.attention_maps(model, image, told, 64, label_state="all")[told.index(label)]
        assert np.abs(maps[i] - alone).max() <= 1e-5
    assert port.attention_maps(model, image, [], 64).shape == (0, 60, 80)


BAD_ATTENTION = {
    "missing image": (["nothing.png"], {}, "nothing.png: cannot be read"),
    "torn image": (["torn.png"], {}, "torn.png: does not decode"),
    "empty image": (["empty.png"], {}, "empty.png: does not decode"),
    "one pixel": (["dot.png"], {}, "dot.png: a 1×1 image"),
    "grey": (["grey.png"], {}, "grey.png: a grey image"),
    "rgba": (["rgba.png"], {}, "rgba.png: an RGBA image"),
    "16 bits": (["deep.png"], {}, "deep.png: a 16-bit image"),
    "unknown class": (["a.png"], {"--labels": "persn"}, 'label "persn": no such class'),
    "class out of range": (["a.png"], {"--labels": "20"}, 'label "20": no such class'),
    "no class": (["a.png"], {"--labels": ","}, "--labels is empty"),
    "same name": (["a.png", "a.png"], {}, 'two images are called "a"'),
    "label state": (["a.png"], {"--label-state": "never"}, '--label-state "never"'),
    "test size": (["a.png"], {"--test-size": "3"}, "--test-size 3"),
    "missing weights": (["a.png"], {"--weights": "nothing.caffemodel"}, "nothing.caffemodel"),
    "truncated weights": (["a.png"], {"--weights": "cut.caffemodel"}, "cut.caffemodel"),
    "not weights": (["a.png"], {"--weights": "noise.caffemodel"}, "noise.caffemodel"),
    "NaN weights": (["a.png"], {"--weights": "nan.caffemodel"}, "conv2_2"),
    "another net": (["a.png"], {"--weights": "other.caffemodel"}, "not SeeNet's weights"),
}


@pytest.mark.parametrize(("images", "options", "message"), BAD_ATTENTION.values(), ids=BAD_ATTENTION.keys())
def test_bad_attention(
    seenet: Run,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: list,
    options: dict,
    message: str,
) -> None:
    monkeypatch.chdir(files)
    given = {
        "--labels": "person",
        "--weights": "narrow.caffemodel",
        "--out": tmp_path / "out",
        "--test-size": 32,
    }
    status, out, err = seenet(
        "attention", *images, *(x for pair in {**given, **options}.items() for x in pair)
    )
    assert status == 2 and not out
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_one_bad_image_does_not_stop_the_others(seenet: Run, files: Path, tmp_path: Path) -> None:
    status, out, err = seenet(
        "attention", files / "torn.png", files / "a.png", "--labels", "3", "--test-size", 32,
        "--weights", files / "narrow.caffemodel", "--out", tmp_path,
    )  # fmt: skip
    assert status == 2 and "boat" in out and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_3.png", "a_attention.png"]


def test_grey_and_rgba_on_request(seenet: Run, files: Path, tmp_path: Path) -> None:
    status, _, err = seenet(
        "attention", files / "grey.png", files / "rgba.png", "--labels", "3", "--test-size", 32, "--to-bgr",
        "--weights", files / "narrow.caffemodel", "--out", tmp_path,
    )  # fmt: skip
    assert (status, err) == (0, "")


def test_unwritable_folder(seenet: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    status, _, err = seenet(
        "attention", files / "a.png", "--labels", "3", "--test-size", 32,
        "--weights", files / "narrow.caffemodel", "--out", tmp_path / "file",
    )  # fmt: skip
    assert status == 2 and "file" in err and err.count("\n") == 1


def test_convert_is_registered(seenet: Run, files: Path, tmp_path: Path) -> None:
    status, out, _ = seenet("convert", files / "narrow.caffemodel", tmp_path / "narrow.pth")
    assert status == 0 and "score_b2" in out
    stored = {layer.name: layer.blobs for layer in read_weights(tmp_path / "narrow.pth")}
    for layer in read_weights(files / "narrow.caffemodel"):
        for a, b in zip(layer.blobs, stored[layer.name], strict=True):
            assert np.array_equal(a, b)


def test_class_names() -> None:
    assert [class_index(name) for name in CLASSES] == list(range(20))
    assert [class_index(name) for name in ("diningtable", "TVmonitor", "potted-plant", " 7 ")] == [
        10,
        19,
        15,
        7,
    ]
