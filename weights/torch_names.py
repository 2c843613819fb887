"""Weights under the names that PyTorch's users expect: BatchNorm's statistics divided, torchvision's keys.

Caffe's BatchNorm holds sums and what to divide them by, and a Scale after it the factor and the term; PyTorch's
holds all four. Where a net is one of torchvision's by its layers' names, its keys become torchvision's:

- VGG-16 and VGG-19 as Simonyan published them;
- ResNet-50, -101 and -152 as He published them. torchvision's have the stride of a block in its 3×3 convolution, He's
  in the first 1×1, and pool with pad 1 where He's rounds up: change `stride` there to get He's numbers.

BVLC's GoogLeNet is not torchvision's, which has batch normalisation and 3×3 for 5×5: it keeps its names.
All of these expect BGR from 0 to 255 less the mean, as in Caffe.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from prototxt.errors import InputError
from weights.files import atomic_path
from weights.layer_weights import LayerWeights, stored_blobs
from weights.names import param_names, unique_names
from weights.tensors import write_pth_state

_VGG = {
    13: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    16: (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
"""Number of convolutions → where torchvision's `features` has them."""


def torch_state(layers: Sequence[LayerWeights], where: object = "weights") -> dict[str, np.ndarray]:
    """The state dict of a net in PyTorch's terms.

    Raises:
        InputError: a blob that is left out, or one that is no float32 or float64.
    """
    state = _merged(layers, where)
    return _vgg(state) or _resnet(state) or state


def kept_names(names: Iterable[str]) -> str:
    """Why a well-known net's layers keep their names, or ""."""
    if {"inception_3a/5x5", "inception_5b/5x5", "loss3/classifier"} <= set(names):
        return (
            "BVLC's GoogLeNet keeps its layers' names: torchvision's GoogLeNet is another network (batch "
            "normalisation, 3×3 for 5×5, no LRN) and cannot take these weights."
        )
    return ""


def write_torch_state(path: str | os.PathLike, state: dict[str, np.ndarray]) -> None:
    """Write a state dict as .safetensors, .pth, .pt or .npz.

    Raises:
        InputError: another suffix, or a file that cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt", ".npz"):
        raise InputError(f"{path}: PyTorch's names go into a .safetensors, .pth or .npz: name it so")
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    if suffix in (".pth", ".pt"):
        write_pth_state(path, state)
        return
    with atomic_path(path) as beside:
        if suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(state, beside)
        else:
            np.savez(beside, **state)  # type: ignore[arg-type]  # the stub takes a name for allow_pickle


def _merged(layers: Sequence[LayerWeights], where: object) -> dict[str, np.ndarray]:
    """Each layer's blobs by name; BatchNorm's as PyTorch has them, with those of a Scale that follows."""
    layers = [layer for layer in layers if layer.blobs]
    state: dict[str, np.ndarray] = {}
    names = unique_names(layer.name for layer in layers)
    norm: tuple[str, int] | None = None
    for name, layer in zip(names, layers, strict=True):
        blobs = stored_blobs(layer, where)
        if layer.type == "BatchNorm" and len(blobs) == 3:
            factor = 0.0 if blobs[2].item() == 0 else 1 / blobs[2].item()
            state[f"{name}.running_mean"] = blobs[0].ravel() * blobs[0].dtype.type(factor)
            state[f"{name}.running_var"] = blobs[1].ravel() * blobs[1].dtype.type(factor)
            norm = name, blobs[0].size
            continue
        if norm and layer.type == "Scale" and len(blobs) == 2 and blobs[0].size == blobs[1].size == norm[1]:
            name, blobs = norm[0], [blob.ravel() for blob in blobs]
        norm = None
        params = param_names("Convolution" if layer.type == "Scale" else layer.type, len(blobs))
        state |= {f"{name}.{param}": blob for param, blob in zip(params, blobs, strict=True)}
    return state


def _vgg(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    convolutions = sorted({key.split(".")[0] for key in state if re.fullmatch(r"conv\d_\d\.weight", key)})
    places = _VGG.get(len(convolutions))
    due = {*convolutions, "fc6", "fc7", "fc8"}
    if places is None or {key.rpartition(".")[0] for key in state} != due:
        return {}
    renamed = {name: f"features.{i}" for name, i in zip(convolutions, places, strict=True)}
    renamed |= {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    return _renamed(state, renamed)


def _resnet(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {"conv1": "conv1", "bn_conv1": "bn1"}
    stages: dict[str, list[str]] = {}
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    for name in layers:
        found = re.fullmatch(r"(res|bn)(\d)([a-z]\d*)_branch(1|2[abc])", name)
        if found:
            kind, stage, block, branch = found.groups()
            blocks = stages.setdefault(stage, [])
            if block not in blocks:
                blocks.append(block)
            place = f"layer{int(stage) - 1}.{blocks.index(block)}"
            if branch == "1":
                renamed[name] = f"{place}.downsample.{0 if kind == 'res' else 1}"
            else:
                renamed[name] = f"{place}.{'conv' if kind == 'res' else 'bn'}{'abc'.index(branch[1]) + 1}"
    last = [name for name in layers if name not in renamed]
    if sorted(stages) != ["2", "3", "4", "5"] or last != ["fc1000"] or "conv1.weight" not in state:
        return {}
    renamed["fc1000"] = "fc"
    state = dict(state)
    bias = state.pop("conv1.bias", None)
    if bias is not None:  # torchvision's first convolution has none: the normalisation takes it away
        state["bn_conv1.running_mean"] = state["bn_conv1.running_mean"] - bias
    return _renamed(state, renamed)


def _renamed(state: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, np.ndarray]:
    found = {}
    for key, value in state.items():
        layer, _, param = key.rpartition(".")
        found[f"{names[layer]}.{param}"] = value
    return found
