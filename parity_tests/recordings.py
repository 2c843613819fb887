"""The recordings from genuine Caffe, and how results are held against them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from runtime import TEST, TRAIN, Net
from weights import LayerWeights

GOLDEN = Path(__file__).parents[1] / "reference" / "golden"
NETS = Path(__file__).parents[1] / "prototxt"

ENGINES = ("reference", "port")

ONE_LAYER, WHOLE_NET, NET_GRADIENT = 2e-6, 1e-5, 5e-5
"""DESIGN's tolerances, relative to the recording's largest magnitude."""

PHASES = {"TRAIN": TRAIN, "TEST": TEST}


@cache
def recorded(name: str) -> tuple[list | dict, dict[str, np.ndarray]]:
    """The description and the arrays of one recording."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return json.loads((GOLDEN / f"{name}.json").read_text()), dict(arrays)


def _together(*names: str) -> tuple[list, dict[str, np.ndarray]]:
    """The cases and arrays of several recordings, whose cases have names of their own."""
    suites = [recorded(name) for name in names]
    return [case for cases, _ in suites for case in cases], {
        k: v for _, arrays in suites for k, v in arrays.items()
    }


SEENET_TRAIN = _together("seenet_train", "seenet_train_shared")


def added(folder: str) -> list[str]:
    """Recordings of one case each, as `python -m parity_tests.record` writes them, under `reference/golden/folder`."""
    return [f"{folder}/{path.stem}" for path in sorted((GOLDEN / folder).glob("*.json"))]


def error(actual: np.ndarray, golden: np.ndarray, scale: float | None = None) -> float:
    """Largest absolute difference over the recording's largest magnitude (or `scale`)."""
    actual, golden = np.asarray(actual), np.asarray(golden)
    assert actual.shape == golden.shape, f"shape {actual.shape}, recorded {golden.shape}"
    if golden.size == 0:
        return 0.0
    assert np.isfinite(actual).all(), "not finite"
    difference = np.abs(actual.astype(np.float64) - golden.astype(np.float64)).max()
    largest = np.abs(golden).max() if scale is None else scale
    return float(difference / largest) if difference else 0.0


def he_uniform(shapes: dict[str, list[tuple[int, ...]]], seed: int) -> dict[str, list[np.ndarray]]:
    """The weights that recordings rebuild from a seed (golden/README.md)."""
    draw = np.random.RandomState(seed)
    weights: dict[str, list[np.ndarray]] = {}
    for layer, blobs in shapes.items():
        weights[layer] = []
        for i, shape in enumerate(blobs):
            bound = 0.1 if i else np.sqrt(6 / np.prod(shape[1:]))
            weights[layer].append(((2 * draw.random_sample(shape) - 1) * bound).astype(np.float32))
    return weights


def seenet_weights(model: nn.Module, seed: int) -> list[LayerWeights]:
    """`he_uniform` for a SeeNet module's convolutions."""
    convolutions = {name: conv for name, conv in model.named_children() if isinstance(conv, nn.Conv2d)}
    shapes = {name: [tuple(conv.weight.shape), tuple(conv.bias.shape)] for name, conv in convolutions.items()}
    return [LayerWeights(name, "Convolution", blobs) for name, blobs in he_uniform(shapes, seed).items()]


def fill_he_uniform(net: Net, seed: int) -> None:
    shapes = {name: [blob.shape for blob in blobs] for name, blobs in net.params.items()}
    for name, arrays in he_uniform(shapes, seed).items():
        for blob, array in zip(net.params[name], arrays, strict=True):
            blob.data[...] = array


def sampled(array: np.ndarray) -> np.ndarray:
    """At most 256 values spread over the flat array, as recordings keep of large ones."""
    flat = array.ravel()
    return flat[np.linspace(0, flat.size - 1, min(flat.size, 256)).astype(np.int64)]
