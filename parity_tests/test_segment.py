"""Segmentation: windows, scales and mirrors against [O]'s procedure, the CRF against exact sums, the command."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import reference.pycaffe
from parity_tests.recordings import NETS
from parity_tests.test_deeplab import drawn_weights, net_file
from port.images import read_image
from port.voc.classes import PALETTE
from port.voc.crf import FLOOR, dense_crf
from port.voc.label_images import read_label_image
from port.voc.segment import blend
from port.voc.segmentation import KINDS, MEAN_BGR, SegmentationNet, class_probabilities, window_starts
from port.voc.settings import CrfSettings, Views
from port.voc.shapes import make_shapes
from prototxt import read_net
from prototxt.errors import InputError
from runtime import TEST
from weights import LayerWeights, write_weights

Run = Callable[..., tuple[int, str, str]]

NEAR = """
name: "near"
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }} }} }}
layer {{ name: "score" type: "Convolution" bottom: "data" top: "score"
  convolution_param {{ num_output: {classes} kernel_size: 3 pad: 1 }} }}
"""
"""A net that sees one pixel far, gives scores, and takes any size."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, drawn: vgg16.caffemodel, resnet101.caffemodel, near.caffemodel; near.prototxt."""
    folder = tmp_path_factory.mktemp("nets")
    for backbone in ("vgg16", "resnet101"):
        net = reference.pycaffe.Net(net_file(backbone, "narrow_deploy"), TEST)
        weights = drawn_weights(net, 5)
        weights[0].blobs[0] /= 40  # they are drawn for smaller data than pixels
        write_weights(folder / f"{backbone}.caffemodel", weights)
    draw = np.random.RandomState(1)
    blobs = [draw.normal(0, 0.02, (KINDS, 3, 3, 3)).astype(np.float32), np.zeros(KINDS, np.float32)]
    write_weights(folder / "near.caffemodel", [LayerWeights("score", "Convolution", blobs)])
    (folder / "near.prototxt").write_text(NEAR.format(classes=KINDS))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 5, seed=3, size=64)
    return folder


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)


def segmentation_net(files: Path, backbone: str = "vgg16", tile: int = 65) -> SegmentationNet:
    return SegmentationNet(net_file(backbone, "narrow_deploy"), files / f"{backbone}.caffemodel", tile)


# --- The net's probabilities


@pytest.mark.parametrize(
    "backbone, scales, flip",
    [("vgg16", (1.0,), False), ("vgg16", (0.5, 0.75, 1.5), False), ("resnet101", (0.9,), True)],
)
def test_as_the_forks_test_script(files: Path, backbone: str, scales: tuple[float, ...], flip: bool) -> None:
    """[O]'s steps one by one, with OpenCV's resizing and the reference's net."""
    image, tile = photograph(70, 60), 65
    net = reference.pycaffe.Net(
        net_file(backbone, "narrow_deploy"), str(files / f"{backbone}.caffemodel"), TEST
    )

    def said(data: np.ndarray) -> np.ndarray:
        height, width = data.shape[:2]
        data = cv2.copyMakeBorder(
            data, 0, max(tile - height, 0), 0, max(tile - width, 0), cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
        total, seen = np.zeros((*data.shape[:2], KINDS)), np.zeros(data.shape[:2])
        for y in dict.fromkeys((0, min(43, data.shape[0] - tile), data.shape[0] - tile)):
            for x in dict.fromkeys((0, min(43, data.shape[1] - tile), data.shape[1] - tile)):
                net.blobs["data"].reshape(1, 3, tile, tile)
                net.blobs["data"].data[0] = data[y : y + tile, x : x + tile].transpose(2, 0, 1)
                net.forward()
                total[y : y + tile, x : x + tile] += net.blobs["softmax"].data[0].transpose(1, 2, 0)
                seen[y : y + tile, x : x + tile] += 1
        return (total / seen[..., None])[:height, :width]

    maps = []
    for scale in scales:
        size = tuple(round(side * scale) for side in (60, 70))
        data = cv2.resize(image.astype(np.float64), size, interpolation=cv2.INTER_CUBIC) - MEAN_BGR
        views = [said(data)] + ([said(data[:, ::-1])[:, ::-1]] if flip else [])
        maps.append(cv2.resize(np.mean(views, axis=0), (60, 70), interpolation=cv2.INTER_CUBIC))
    expected = np.maximum(np.mean(maps, axis=0), 0).transpose(2, 0, 1)
    expected /= expected.sum(0)
    ours = class_probabilities(segmentation_net(files, backbone), image, Views(scales, flip, tile))
    assert ours.shape == (KINDS, 70, 60) and ours.dtype == np.float32
    assert len(np.unique(expected.argmax(0))) > 1
    assert np.abs(ours - expected).max() <= 1e-5


@given(size=st.integers(1, 3000), window=st.integers(17, 600))
def test_windows_cover_and_overlap(size: int, window: int) -> None:
    size = max(size, window)
    starts = list(window_starts(size, window))
    assert starts[0] == 0 and starts[-1] == size - window and starts == sorted(set(starts))
    for here, there in pairwise(starts):
        assert here + window - there >= window / 3


def test_windows_and_the_whole(files: Path) -> None:
    """Equal where one window is the whole; with a net that sees one pixel, equal but at the windows' borders."""
    whole, tiled = segmentation_net(files, tile=0), segmentation_net(files)
    image = photograph(65, 65)
    assert np.array_equal(
        *(class_probabilities(net, image, Views(tile=t)) for net, t in ((whole, 0), (tiled, 65)))
    )

    image = photograph(150, 97)
    near = files / "near.prototxt", files / "near.caffemodel"
    whole, tiled = (
        class_probabilities(SegmentationNet(*near, tile), image, Views(tile=tile)) for tile in (0, 65)
    )
    away = np.ones(image.shape[:2], bool)
    for axis, size in enumerate(image.shape[:2]):
        for start in window_starts(size, 65):
            borders = {start, start + 64} - {0, size - 1}
            away[(slice(None),) * axis + (sorted(borders),)] = False
    assert 0.8 < away.mean() < 1
    differences = np.abs(whole - tiled).max(0)
    assert differences[away].max() <= 1e-6 < 1e-3 < differences[~away].max()


def test_mirrored_images_agree(files: Path) -> None:
    net, image = segmentation_net(files), photograph(60, 50)
    views = Views((0.75, 1.0), flip=True, tile=0)
    ours, mirrored = (
        class_probabilities(net, x, views) for x in (image, np.ascontiguousarray(image[:, ::-1]))
    )
    assert np.abs(ours - mirrored[:, :, ::-1]).max() <= 1e-5
    assert np.abs(ours.sum(0) - 1).max() <= 1e-5 and ours.min() >= 0


def test_scores_at_an_eighth_do_too(files: Path, tmp_path: Path) -> None:
    """A net without its last two layers, Interp and Softmax."""
    net = read_net(net_file("vgg16", "narrow_deploy"))
    del net.layer[-2:]
    (tmp_path / "net.prototxt").write_text(str(net))
    image, views = photograph(60, 50), Views(tile=65)
    short = SegmentationNet(tmp_path / "net.prototxt", files / "vgg16.caffemodel", 65)
    assert not short.gives_probabilities
    ours, theirs = (class_probabilities(net, image, views) for net in (short, segmentation_net(files)))
    assert np.abs(ours - theirs).max() <= 1e-6


def test_released_nets_take_the_default_tile() -> None:
    """Without weights: the shapes alone decide."""
    for backbone in ("vgg16", "resnet101"):
        with pytest.raises(InputError, match=r"nothing\.caffemodel"), torch.device("meta"):
            SegmentationNet(net_file(backbone, "narrow_deploy"), "nothing.caffemodel", Views.tile)


def test_refused_nets(files: Path, tmp_path: Path) -> None:
    (tmp_path / "near.prototxt").write_text(NEAR.format(classes=20))
    seenet = str(NETS / "seenet" / "deploy.prototxt")
    narrow = net_file("vgg16", "narrow_deploy")
    for prototxt, weights, tile, told in (
        (net_file("vgg16", "narrow_train"), "vgg16", 65, "inputs: none; give a deploy net"),
        (seenet, "vgg16", 65, "one input"),
        (tmp_path / "near.prototxt", "near", 65, "gives score 1×20×65×65: it must give one blob of 21"),
        (narrow, "vgg16", 64, "of 64×64 pixels the net makes 65×65, which does not map back"),
        (narrow, "near", 65, r"near.caffemodel: not the weights of this net: conv1_1, .* missing"),
        (net_file("vgg16", "deploy"), "vgg16", 65, 'layer "conv1_1": blob 0 is 4×3×3×3 in the file'),
    ):
        with pytest.raises(InputError, match=told):
            SegmentationNet(prototxt, files / f"{weights}.caffemodel", tile)
    for settings in ({"scales": ()}, {"scales": (0.01,)}, {"tile": 3}, {"scales": (float("nan"),)}):
        with pytest.raises(InputError, match=r"--scales|--tile"):
            Views(**settings)


# --- The CRF


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc and a box in a little noise, and probabilities that are unsure of them: (3, 24, 30), and BGR."""
    random, true = np.random.default_rng(seed), np.zeros((24, 30), np.uint8)
    cv2.circle(true, (10, 12), 8, 1, -1)
    cv2.rectangle(true, (20, 5), (28, 21), 2, -1)
    colours = np.array([[60, 90, 40], [75, 80, 60], [60, 110, 30]])
    image = np.clip(colours[true] + random.normal(0, 5, (24, 30, 3)), 0, 255).astype(np.uint8)
    scores = np.eye(3)[true].transpose(2, 0, 1) + random.normal(0, 1, (3, 24, 30))
    scores = np.exp(2 * np.stack([cv2.GaussianBlur(score, (0, 0), 1) for score in scores]))
    return (scores / scores.sum(0)).astype(np.float32), image


def exact_crf(probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Mean field with the sums over all pairs of pixels as they are."""
    rows, columns = np.indices(image.shape[:2]).reshape(2, -1).astype(float)
    colours = image.reshape(-1, 3).T / settings.bilateral_rgb

    def kernel(*features: np.ndarray) -> np.ndarray:
        weight = np.exp(-sum((f[:, None] - f) ** 2 for f in features) / 2)
        norm = weight.sum(0) ** -0.5
        return norm[:, None] * weight * norm

    weight = settings.gaussian * kernel(rows / settings.gaussian_xy, columns / settings.gaussian_xy)
    near = rows / settings.bilateral_xy, columns / settings.bilateral_xy
    weight += settings.bilateral * kernel(*near, *colours)
    log = np.log(np.maximum(probabilities, FLOOR)).reshape(len(probabilities), -1)
    energy = log
    for _ in range(settings.iterations + 1):
        field = np.exp(energy - energy.max(0))
        field /= field.sum(0)
        energy = log + field @ weight
    return field.reshape(probabilities.shape)


@pytest.mark.parametrize(
    "settings",
    [
        CrfSettings(),
        CrfSettings(iterations=1),
        CrfSettings(bilateral=0),
        CrfSettings(gaussian=0),
        CrfSettings(5, 20, 10, 2, 2, 5),
    ],
)
def test_crf_against_exact_sums(settings: CrfSettings) -> None:
    """The lattice's approximation: 0.003 of probability on the mean, one class in 200 (measured: half of that)."""
    pytest.importorskip("pydensecrf")
    for seed in range(2):
        probabilities, image = scene(seed)
        exact, ours = (crf(probabilities, image, settings) for crf in (exact_crf, dense_crf))
        assert ours.dtype == np.float32 and np.abs(ours.sum(0) - 1).max() < 1e-5
        assert np.abs(ours - exact).mean() <= 0.003
        assert (ours.argmax(0) != exact.argmax(0)).mean() <= 0.005
        assert np.abs(exact - probabilities).mean() > 0.03, "the CRF has something to do"
    for other in (
        CrfSettings(bilateral_xy=4, bilateral_rgb=67),
        CrfSettings(2, 67, 4, 2),
        CrfSettings(3, 67, 8),
    ):
        assert np.abs(ours - exact_crf(probabilities, image, other)).mean() > 0.003


def test_crf_takes_what_is_not_scaled() -> None:
    pytest.importorskip("pydensecrf")
    probabilities, image = scene(0)
    assert np.abs(dense_crf(7 * probabilities, image) - dense_crf(probabilities, image)).max() <= 1e-4
    none = dense_crf(probabilities, image, CrfSettings(bilateral=0, gaussian=0))
    assert np.abs(none - probabilities).max() <= 3 * FLOOR


def test_refused_crfs() -> None:
    probabilities, image = scene(0)
    for one, other in (
        (probabilities, image[:, 1:]),
        (probabilities, image / 255),
        (probabilities[0], image),
    ):
        with pytest.raises(InputError, match="must be"):
            dense_crf(one, other)
    for settings in (
        {"iterations": -1},
        {"gaussian_xy": 0},
        {"bilateral": float("inf")},
        {"gaussian": float("nan")},
    ):
        with pytest.raises(InputError, match="CRF: "):
            CrfSettings(**settings)


# --- The command


def segment(seenet: Run, shapes: Path, files: Path, out: Path, *options: object) -> tuple[int, str, str]:
    return seenet(
        "segment", "--voc", shapes, "--list", shapes / "ImageSets/Segmentation/train.txt", "--out", out,
        "--prototxt", net_file("vgg16", "narrow_deploy"), "--weights", files / "vgg16.caffemodel", "--tile", 65,
        *options,
    )  # fmt: skip


def names(shapes: Path) -> list[str]:
    return (shapes / "ImageSets/Segmentation/train.txt").read_text().split()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_dataset(seenet: Run, shapes: Path, files: Path, tmp_path: Path) -> None:
    """Label images, overlays, the table and what comes next; `seenet evaluate` takes them."""
    options = ("--no-crf", "--overlays", "--flip", "--scales", "0.5,1")
    status, out, err = segment(seenet, shapes, files, tmp_path, *options)
    assert (status, err) == (0, "") and "4 images segmented, 0 done before" in out and "share of the p" in out
    made = {f"{name}.png" for name in names(shapes)} | {f"overlays/{name}.jpg" for name in names(shapes)}
    assert contents(tmp_path).keys() == {*made, "segment.json"}
    net, views = segmentation_net(files), Views((0.5, 1), flip=True, tile=65)
    for name in names(shapes):
        image = read_image(shapes / f"JPEGImages/{name}.jpg")
        labels = class_probabilities(net, image, views).argmax(0)
        assert (
            np.array_equal(read_label_image(tmp_path / f"{name}.png"), labels) and len(np.unique(labels)) > 1
        )
        drawn = read_image(tmp_path / f"overlays/{name}.jpg")
        assert np.abs(drawn.astype(int) - blend(image, labels.astype(np.uint8))).mean() < 8
    told = next(line for line in out.splitlines() if line.startswith("Next: seenet "))
    status, out, err = seenet(*told.removeprefix("Next: seenet ").split())
    assert (status, err) == (0, "") and "4 images: mIoU" in out


def test_dataset_goes_on(seenet: Run, shapes: Path, files: Path, tmp_path: Path) -> None:
    """What is there is not made again, what was lost is, a killed run's half files go, settings do not mix."""
    segment(seenet, shapes, files, tmp_path, "--no-crf")
    whole, lost = contents(tmp_path), f"{names(shapes)[1]}.png"
    (tmp_path / lost).unlink()
    (tmp_path / f".{Path(lost).stem}.partial-abcd_123.png").write_bytes(b"half")
    kept = {name: (tmp_path / name).stat().st_mtime_ns for name in whole if name != lost}
    status, out, _ = segment(seenet, shapes, files, tmp_path, "--no-crf")
    assert status == 0 and "1 images segmented, 3 done before" in out
    assert contents(tmp_path) == whole
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    status, out, _ = segment(seenet, shapes, files, tmp_path, "--no-crf", "--overlays")
    assert status == 0 and "4 images segmented, 0 done before" in out and len(contents(tmp_path)) == 9
    for options, other in ((("--flip",), "flip"), (("--multi-scale",), "scales"), (("--tile", 129), "tile")):
        status, _, err = segment(seenet, shapes, files, tmp_path, "--no-crf", *options)
        assert status == 2 and f"label images made with another {other}:" in err and err.count("\n") == 1
    (tmp_path / "segment.json").unlink()
    status, _, err = segment(seenet, shapes, files, tmp_path, "--no-crf")
    assert status == 2 and "no segment.json tells" in err


def test_dataset_names_each_bad_image(seenet: Run, shapes: Path, files: Path, tmp_path: Path) -> None:
    voc = Path(shutil.copytree(shapes, tmp_path / "voc"))
    a, b, c, good = names(voc)
    (voc / f"JPEGImages/{a}.jpg").unlink()
    (voc / f"JPEGImages/{b}.jpg").write_bytes(b"torn")
    cv2.imwrite(str(voc / f"JPEGImages/{c}.jpg"), np.zeros((30, 40), np.uint8))
    with open(voc / "ImageSets/Segmentation/train.txt", "a") as file:
        file.write(f"{good}\n")
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    status, out, err = segment(seenet, voc, files, tmp_path / "out", "--no-crf")
    for message in (
        f"{a}.jpg: cannot be read", f"{b}.jpg: does not decode", f"{c}.jpg: a grey image",
        f"{good} is listed again", "4 of 5 failed",
    ):  # fmt: skip
        assert message in err, message
    assert status == 2 and err.count("\n") == 5 and "1 images segmented" in out
    assert contents(tmp_path / "out").keys() == {f"{good}.png", "segment.json"}, "nothing half-written stays"


def test_a_full_disk_loses_one_image(
    seenet: Run, shapes: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, bad = os.replace, names(shapes)[0]

    def full(source: str, target: str) -> None:
        if Path(target).name == f"{bad}.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    status, out, err = segment(seenet, shapes, files, tmp_path, "--no-crf")
    assert status == 2 and "No space left" in err and "3 images segmented" in out
    assert contents(tmp_path).keys() == {*(f"{name}.png" for name in names(shapes)[1:]), "segment.json"}


def test_photographs_with_crf(seenet: Run, shapes: Path, files: Path, tmp_path: Path) -> None:
    """The CRF, in its own process, at the image's own size; photographs are done anew, and need not be alike."""
    pytest.importorskip("pydensecrf")
    image = photograph(40, 90)
    cv2.imwrite(str(tmp_path / "small.png"), image)
    cv2.imwrite(str(tmp_path / "grey.png"), image[:, :, 0])
    status, out, err = seenet(
        "segment", tmp_path / "small.png", tmp_path / "grey.png", "--out", tmp_path / "out", "--tile", 0,
        "--prototxt", net_file("vgg16", "narrow_deploy"), "--weights", files / "vgg16.caffemodel",
        "--crf-bilateral-rgb", 20, "--crf-iterations", 3, "--workers", 1,
    )  # fmt: skip
    assert status == 2 and "grey.png: a grey image" in err and "1 of 2 failed" in err and "%" in out
    assert contents(tmp_path / "out").keys() == {"small.png"}
    told = class_probabilities(segmentation_net(files, tile=0), image, Views(tile=0))
    expected = dense_crf(told, image, CrfSettings(bilateral_rgb=20, iterations=3)).argmax(0)
    labels = read_label_image(tmp_path / "out/small.png")
    assert np.array_equal(labels, expected) and (labels != told.argmax(0)).any()
    with Image.open(tmp_path / "out/small.png") as written:
        assert written.mode == "P" and written.getpalette() == PALETTE.ravel().tolist()


def test_a_missing_package_is_told_before_any_work(
    seenet: Run, shapes: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    status, _, err = segment(seenet, shapes, files, tmp_path / "out")
    assert status == 2 and "pip install pydensecrf2" in err and "--no-crf" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert segment(seenet, shapes, files, tmp_path / "out", "--no-crf")[0] == 0


def test_refused_options(seenet: Run, shapes: Path, files: Path, tmp_path: Path) -> None:
    for options, told in (
        (("photo.jpg",), "photographs, or a dataset"),
        (("--scales", "1,x"), "--scales"),
        (("--scales", "0"), "--scales 0.0"),
        (("--scales", "0.5,1", "--multi-scale"), "one of them"),
        (("--tile", 100), "does not map back"),
        (("--crf-gaussian-xy", 0), "width"),
        (("--device", "tpu"), "--device"),
        (("--list", tmp_path / "none.txt"), "none.txt: cannot be read"),
        (("--weights", tmp_path / "none.caffemodel"), "none.caffemodel"),
        (("--voc", tmp_path), "no folder JPEGImages"),
    ):
        status, _, err = segment(seenet, shapes, files, tmp_path / "out", *options)
        assert status == 2 and told in err and err.count("\n") == 1, options
    status, _, err = seenet("segment", "--weights", "x", "--out", tmp_path / "out")
    assert status == 2 and "give photographs" in err
    status, _, err = seenet(
        "segment",
        "a/x.jpg",
        "b/x.jpg",
        "--weights",
        files / "vgg16.caffemodel",
        "--out",
        tmp_path / "out",
        "--no-crf",
    )
    assert status == 2 and 'two images are called "x"' in err
    assert not (tmp_path / "out").exists()
