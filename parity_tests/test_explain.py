"""`seenet explain`: the maps are the published procedure's, the page stands alone, and bad input is one line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import port
from parity_tests.recordings import seenet_weights
from port.attention.explain import ERASED, NEGATED, POTENTIAL, explain, shares_of
from port.images import read_image, write_png
from port.voc.label_images import write_label_image
from weights import read_weights, write_weights

Run = Callable[..., tuple[int, str, str]]

NARROW = (4, 8, 16, 32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of noise, its label image, and weights: S_C with its own, with S_B's, without S_C, S_A alone."""
    made = tmp_path_factory.mktemp("explain")
    random = np.random.default_rng(5)
    write_png(made / "photo.png", random.integers(0, 256, (50, 70, 3), np.uint8))
    truth = np.zeros((50, 70), np.uint8)
    truth[10:30, 5:40], truth[40:, 50:] = 3, 255
    write_label_image(made / "truth.png", truth)
    write_label_image(made / "other_size.png", truth[:40])
    write_weights(made / "own.caffemodel", seenet_weights(port.SeeNet(channels=NARROW), 3))
    shared = seenet_weights(port.SeeNet(channels=NARROW, background=False), 3)
    write_weights(made / "deploy.caffemodel", shared)
    write_weights(made / "cam.caffemodel", [layer for layer in shared if not layer.name.endswith("_b2")])
    layers = {layer.name: layer for layer in read_weights(made / "own.caffemodel")}
    for stem in ("conv1", "conv2", "score"):
        layers[f"{stem}_b3"].blobs = layers[f"{stem}_b2"].blobs
    write_weights(made / "shared.caffemodel", list(layers.values()))
    return made


@pytest.mark.parametrize("thresholds", [(0.8, 0.0), (0.7, 0.05), (0.4, 0.2)])
def test_the_maps_are_the_published_ones(folder: Path, thresholds: tuple[float, float]) -> None:
    """The fused map is `attention_maps`' without mirroring; T's shares and what C-ReLU leaves follow its rule."""
    high, low = thresholds
    model = port.SeeNet.from_caffemodel(folder / "own.caffemodel", maxt=high, mint=low)
    image = read_image(folder / "photo.png")
    told = explain(model, image, 3, test_size=64)
    panels = {panel.title: panel.values for panel in told.panels}
    (published,) = port.attention_maps(model, image, [3], test_size=64, flip=False)
    np.testing.assert_allclose(panels["Fused"], published, rtol=0, atol=1e-6)
    zones = panels["T, the three zones"]
    assert {zone: (zones == zone).mean() for zone in (ERASED, POTENTIAL, NEGATED)} == pytest.approx(
        told.zones
    )
    before, after = (panels[f"conv5_3, mean, {when} C-ReLU"] for when in ("before", "after"))
    np.testing.assert_allclose(after, before * zones, rtol=0, atol=1e-5 * before.max())
    kept = panels["S_C's input"] > 0
    assert not kept[zones == ERASED].any()
    same = np.array_equal(panels["S_B, as C-ReLU has it"], panels["S_B without negation"])
    assert same == (low == 0)


def test_shares_are_of_the_sum_and_leave_open_pixels_out() -> None:
    values = np.array([[4.0, 1.0], [3.0, 100.0]], np.float32)
    mask = np.array([[3, 0], [7, 255]], np.uint8)
    shares = shares_of(values, mask, 2)
    assert (shares.own, shares.background, shares.others) == (0.5, 0.125, 0.375)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("own", "its own weights"),
        ("shared", "S_B's weights:"),
        ("deploy", "S_B's weights, since the file has no S_C"),
    ],
)
def test_the_page_stands_alone_and_tells_whose_answer_it_is(
    seenet: Run, folder: Path, tmp_path: Path, weights: str, told: str
) -> None:
    status, out, err = seenet(
        "explain", folder / "photo.png", "--labels", "bird", "--weights", folder / f"{weights}.caffemodel",
        "--mask", folder / "truth.png", "--test-size", 64, "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    page = (tmp_path / "photo_explain.html").read_text()
    assert told.replace("'", "&#39;") in page and "on bird" in page and "negated" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "something comes from elsewhere"
    assert (tmp_path / "photo_explain.png").stat().st_size > 10_000
    assert out.split() == [str(tmp_path / f"photo_explain.{kind}") for kind in ("html", "png")]


def test_two_files_are_seen_side_by_side_and_plain_attention_is_called_so(
    seenet: Run, folder: Path, tmp_path: Path
) -> None:
    status, _, err = seenet(
        "explain", folder / "photo.png", "--labels", "bird,14", "--weights", folder / "own.caffemodel",
        "--compare", folder / "cam.caffemodel", "--test-size", 64, "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    page = (tmp_path / "photo_explain.html").read_text()
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == [
        "bird · own.caffemodel", "bird · cam.caffemodel", "person · own.caffemodel", "person · cam.caffemodel",
    ]  # fmt: skip
    assert "no S_B: plain class attention" in page


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "--weights is missing: SeeNet's weights: "),
        (
            ("--weights", "own.caffemodel", "--mask", "other_size.png"),
            "is 70×40 pixels, the photograph is 70×50",
        ),
        (
            ("--weights", "own.caffemodel", "--mask", "truth.png", "--labels", "cat"),
            "has no cat: it has bird",
        ),
        (("--weights", "own.caffemodel", "--labels", "unicorn"), "unicorn"),
        (("--weights", "own.caffemodel", "--mint", "0.9"), "must be 0 ≤ mint ≤ maxt ≤ 1"),
        (("--weights", "absent.caffemodel"), "absent.caffemodel"),
        (("--weights", "own.caffemodel", "--compare", "photo.png"), "photo.png"),
    ],
)
def test_bad_input_is_one_line(
    seenet: Run, folder: Path, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    files = [str(folder / one) if "." in one and one != "0.9" else one for one in given]
    labels = () if "--labels" in given else ("--labels", "bird")
    status, _, err = seenet("explain", folder / "photo.png", *labels, "--out", tmp_path / "out", *files)
    assert status == 2 and told in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
