"""`seenet saliency`: DSS's side outputs fused, and refined by its CRF, as its authors' notebook and script do."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import port.pycaffe as caffe
import reference.pycaffe as reference
from parity_tests.compare.inputs import rebuilt_weights
from parity_tests.recordings import NETS, WHOLE_NET, error
from port.images import read_image, write_png
from port.voc.label_images import read_map
from port.voc.saliency import MEAN_BGR, SaliencyCrf, SaliencyNet, fuse_sides, refine
from port.voc.shapes import make_shapes
from weights import write_weights

Run = Callable[..., tuple[int, str, str]]

DEPLOY = NETS / "dss" / "narrow_deploy.prototxt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("saliency")
    make_shapes(made / "voc", 5, size=96)
    layers = rebuilt_weights(caffe.Net(str(DEPLOY), caffe.TEST), 0)
    write_weights(made / "dss.caffemodel", layers)
    write_weights(made / "part.caffemodel", [own for own in layers if own.name != "new-score-weighting"])
    return made


@pytest.mark.parametrize("size", [(64, 64), (75, 101), (47, 33)])
def test_the_map_is_the_notebooks(folder: Path, size: tuple[int, int]) -> None:
    """The notebook's lines on the NumPy engine's blobs, at the photograph's own size."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    net = reference.Net(str(DEPLOY), str(folder / "dss.caffemodel"), reference.TEST)
    data = (image.astype(np.float32) - np.array(MEAN_BGR, np.float32)).transpose(2, 0, 1)
    net.blobs["data"].reshape(1, *data.shape)
    net.blobs["data"].data[...] = data
    net.forward()
    out3, out4, out5, fuse = (
        net.blobs[f"sigmoid-{name}"].data[0, 0] for name in ("dsn3", "dsn4", "dsn5", "fuse")
    )
    expected = (out3 + out4 + out5 + fuse) / 4
    expected = (expected - expected.min() + 1e-8) / (expected.max() - expected.min() + 1e-8)
    found = SaliencyNet(DEPLOY, folder / "dss.caffemodel")(image)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() == 1
    assert error(found, expected) <= 10 * WHOLE_NET  # stretching enlarges what the nets differ by


def test_flat_sides_stay_finite() -> None:
    assert np.isfinite(fuse_sides([np.full((3, 4), 0.5, np.float32)] * 4)).all()


def test_refining_follows_the_colours() -> None:
    """By exact sums over all pairs, one step of the mean field, as Krähenbühl and Koltun give it."""
    pytest.importorskip("pydensecrf")
    random = np.random.default_rng(2)
    image = np.zeros((12, 14, 3), np.uint8)
    image[:, 7:] = (200, 180, 160)
    image = np.clip(image + random.integers(0, 6, image.shape), 0, 255).astype(np.uint8)
    saliency = np.where(np.arange(14) < 7, 200, 60) + random.integers(-55, 55, (12, 14))
    saliency = saliency.clip(0, 255).astype(np.uint8)
    refined = refine(saliency, image)
    exact = _exact_step(saliency, image, SaliencyCrf())
    assert refined.dtype == np.uint8 and np.abs(refined.astype(int) - exact).mean() < 4
    assert refined[:, :6].mean() > saliency[:, :6].mean() and refined[:, 8:].mean() < saliency[:, 8:].mean()


def _exact_step(saliency: np.ndarray, image: np.ndarray, told: SaliencyCrf) -> np.ndarray:
    p = saliency.reshape(-1) / 255
    shares = np.stack([1 - p, p])
    unary = -np.log(shares + 1e-8) / (told.tau / (1 + np.exp(-shares)))
    y, x = np.mgrid[: saliency.shape[0], : saliency.shape[1]]
    place = np.stack([y.ravel(), x.ravel()], 1).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(features: np.ndarray) -> np.ndarray:
        weights = np.exp(-((features[:, None] - features[None]) ** 2).sum(2) / 2)
        scale = 1 / np.sqrt(weights.sum(1) + 1e-20)
        return scale[:, None] * weights * scale

    start = np.exp(-unary)
    start /= start.sum(0)
    both = np.hstack([place / told.bilateral_xy, colour / told.bilateral_rgb])
    pairs = told.gaussian * kernel(place / told.gaussian_xy) + told.bilateral * kernel(both)
    energy = unary - (start @ pairs.T)
    after = np.exp(-(energy - energy.min(0)))
    return 255 * (after / after.sum(0))[1].reshape(saliency.shape)


def test_a_dataset_goes_on_and_keeps_its_settings(seenet: Run, folder: Path, tmp_path: Path) -> None:
    out, voc = tmp_path / "out", folder / "voc"
    list_ = voc / "ImageSets" / "Segmentation" / "trainval.txt"
    arguments = (
        "saliency", "--prototxt", DEPLOY, "--weights", folder / "dss.caffemodel", "--voc", voc, "--list", list_,
        "--out", out,
    )  # fmt: skip
    status, told, err = seenet(*arguments)
    assert status == 0 and "5 saliency maps" in told, err
    image = read_image(voc / "JPEGImages" / "shapes_000001.jpg")
    expected = np.rint(255 * SaliencyNet(DEPLOY, folder / "dss.caffemodel")(image))
    assert np.array_equal(read_map(out / "shapes_000001.png", "map", ""), expected)
    (out / "shapes_000002.png").unlink()
    status, told, err = seenet(*arguments)
    assert status == 0 and "1 saliency maps" in told and "4 there before" in told, err
    assert json.loads((out / "saliency.json").read_text())["crf"] is None
    pytest.importorskip("pydensecrf")
    status, _, err = seenet(*arguments, "--crf")
    assert status == 2 and "made with another crf" in err, err
    photo = tmp_path / "photo.png"
    write_png(photo, image)
    status, told, err = seenet(*arguments[:5], photo, "--out", tmp_path / "refined", "--crf")
    assert status == 0, err
    assert np.array_equal(
        read_map(tmp_path / "refined" / "photo.png", "map", ""), refine(expected.astype(np.uint8), image)
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ("--prototxt", NETS / "seenet" / "narrow_deploy.prototxt"),
            "not a DSS deploy net: sigmoid-dsn3 is missing",
        ),
        (("--weights", "part.caffemodel"), "new-score-weighting is missing"),
        (("--voc", "voc"), "give photographs, or a dataset with --voc and --list"),
        (("--weights", "absent.caffemodel"), "absent.caffemodel"),
    ],
)
def test_bad_input_is_one_line(
    seenet: Run, folder: Path, tmp_path: Path, given: tuple[str, object], told: str
) -> None:
    options = {"--prototxt": DEPLOY, "--weights": "dss.caffemodel", "--out": tmp_path / "out"} | dict([given])
    arguments = [part for pair in options.items() for part in pair]
    arguments = [
        folder / part if part in ("voc",) or str(part).endswith("model") else part for part in arguments
    ]
    photo = folder / "voc" / "JPEGImages" / "shapes_000001.jpg"
    status, _, err = seenet("saliency", photo, *arguments)
    assert status == 2 and told in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
