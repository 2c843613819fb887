"""DenseCRF and MultiStageMeanfield: against Krähenbühl and Koltun's own code, exact sums, and each other."""

import importlib

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, PHASES, error
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.permutohedral import Permutohedral

CLASSES, HEIGHT, WIDTH = 4, 16, 17
SETTINGS = "max_iter: 5 pos_w: 3 pos_xy_std: 3 bi_w: 5 bi_xy_std: 20 bi_rgb_std: 10"


def _inputs(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.RandomState(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([40 * np.sin(rows / 4), 30 * np.cos(columns / 5), 3.0 * rows + columns])
    return {
        "x": draw.uniform(-2, 2, (1, CLASSES, HEIGHT, WIDTH)).astype(np.float32),
        "image": (image + draw.uniform(-4, 4, image.shape))[None].astype(np.float32),
        "size": np.float32([HEIGHT, WIDTH]).reshape(1, 1, 1, 2),
    }


def _net(engine: str, layer: str, inputs: dict[str, np.ndarray]) -> Net:
    lines = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in values.shape)
        + " } } }"
        for name, values in inputs.items()
    ]
    net = importlib.import_module(f"{engine}.pycaffe").Net.from_message(
        parse_net("\n".join([*lines, f'layer {{ name: "l" top: "y" {layer} }}'])), PHASES["TEST"]
    )
    for name, values in inputs.items():
        net.blobs[name].data[...] = values
    return net


def _crf(engine: str, settings: str, inputs: dict[str, np.ndarray], bottoms: str) -> np.ndarray:
    layer = f'type: "DenseCRF" {bottoms} dense_crf_param {{ {settings} }}'
    net = _net(engine, layer, inputs)
    net.forward()
    return net.blobs["y"].data.copy()


ALL = 'bottom: "x" bottom: "size" bottom: "image"'


@pytest.mark.parametrize("engine", ENGINES)
def test_dense_crf_equals_the_authors_code(engine: str) -> None:
    """pydensecrf wraps it, and agrees within 1e-6 of a probability.

    (For a number of pixels that 4 does not divide, its code for four at a time adds points at the origin, which
    change sparse lattices by up to 0.04; here there are none.)
    """
    crf = pytest.importorskip("pydensecrf.densecrf")
    inputs = _inputs()
    theirs = crf.DenseCRF(HEIGHT * WIDTH, CLASSES)
    theirs.setUnaryEnergy(np.ascontiguousarray(-inputs["x"].reshape(CLASSES, -1)))
    places = np.indices((HEIGHT, WIDTH), np.float32)[::-1].reshape(2, -1)
    colours = inputs["image"].reshape(3, -1)
    for features, weight in ((places / 3, 3), (np.concatenate([places / 20, colours / 10]), 5)):
        features = np.ascontiguousarray(features, np.float32)
        theirs.addPairwiseEnergy(features, weight, crf.DIAG_KERNEL, crf.NORMALIZE_AFTER)
    wanted = np.array(theirs.inference(5)).reshape(1, CLASSES, HEIGHT, WIDTH)
    assert np.abs(_crf(engine, SETTINGS, inputs, ALL) - wanted).max() < 1e-6


@pytest.mark.parametrize(
    ("settings", "bottoms"),
    [(SETTINGS, ALL), (SETTINGS + " output_probability: false", ALL), ("pos_w: 3 pos_xy_std: 3", ALL[:26])],
)
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (30, 30), (9, 11)])
def test_engines_agree_on_dense_crf(settings: str, bottoms: str, size: tuple[int, int]) -> None:
    inputs = _inputs(1)
    inputs["size"][...] = np.float32(size).reshape(1, 1, 1, 2)
    one, other = (_crf(engine, settings, inputs, bottoms) for engine in ENGINES)
    assert error(other, one) <= 5 * ONE_LAYER  # five steps of softmaxes and filters
    if size[0] < HEIGHT:
        assert not one[:, :, size[0] :].any()
        assert not one[:, :, :, size[1] :].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_that_does_not_fit(engine: str) -> None:
    inputs = _inputs()
    inputs["size"][...] = np.float32([9, 30]).reshape(1, 1, 1, 2)
    with pytest.raises(InputError, match="9×30 does not fit into a map of 16×17"):
        _crf(engine, SETTINGS, inputs, ALL)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_lattice_is_near_a_gaussian(dimensions: int) -> None:
    draw = np.random.RandomState(dimensions)
    features = draw.uniform(0, 4, (300, dimensions)).astype(np.float32)
    values = draw.uniform(size=(2, 300))
    kernel = np.exp(-((features[:, None] - features) ** 2).sum(2) / 2)
    lattice = Permutohedral(features)
    found = lattice.filter(values) / lattice.filter(np.ones((1, 300)))
    assert np.abs(found - values @ kernel / kernel.sum(0)).max() < 0.06


MEANFIELD = (
    'type: "MultiStageMeanfield" bottom: "x" bottom: "first" bottom: "image" multi_stage_meanfield_param {'
    " num_iterations: 3 theta_alpha: 20 theta_beta: 10 theta_gamma: 3 spatial_filter_weight: 3 "
    "bilateral_filter_weight: 5 }"
)


def test_meanfield_of_potts_models_is_dense_crf() -> None:
    """With diagonal weights CRF-RNN's softmaxes are DeepLab's: one step of mean field more."""
    inputs = _inputs(2)
    inputs["first"] = inputs["x"]
    results = []
    for engine in ENGINES:
        net = _net(engine, MEANFIELD, {k: v for k, v in inputs.items() if k != "size"})
        for blob, value in zip(net.params["l"], (3, 5, -1), strict=True):
            np.testing.assert_array_equal(blob.data[0, 0], value * np.eye(CLASSES))
        net.forward()
        scores = net.blobs["y"].data
        shares = np.exp(scores - scores.max(1, keepdims=True))
        wanted = _crf(engine, SETTINGS.replace("max_iter: 5", "max_iter: 3"), _inputs(2), ALL)
        assert np.abs(shares / shares.sum(1, keepdims=True) - wanted).max() < 1e-5
        draw = np.random.RandomState(3)
        for blob in net.params["l"]:
            blob.data[...] = draw.uniform(-1, 1, blob.shape)
        net.forward()
        results.append(net.blobs["y"].data.copy())
    assert (
        error(results[1], results[0]) <= 5 * ONE_LAYER
    )  # three layers' worth of softmaxes, filters and products


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (f'type: "DenseCRF" {ALL} dense_crf_param {{ pos_w: 3 }}', "as many pos_w as pos_xy_std"),
        (f'type: "DenseCRF" {ALL} dense_crf_param {{ bi_w: 3 bi_xy_std: 1 }}', "as many bi_w"),
        (f'type: "DenseCRF" {ALL} dense_crf_param {{ pos_w: 3 pos_xy_std: 0 }}', "above 0"),
        (f'type: "DenseCRF" {ALL[:26]} dense_crf_param {{ {SETTINGS} }}', "third bottom"),
        (MEANFIELD.replace("num_iterations: 3", "num_iterations: 1"), "num_iterations must be at least 2"),
    ],
)
def test_refused(layer: str, message: str) -> None:
    inputs = _inputs() | {"first": _inputs()["x"]}
    for engine in ENGINES:
        with pytest.raises(InputError, match=message):
            _net(engine, layer, inputs)
