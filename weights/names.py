"""Names of weights outside Caffe: LAYER.PARAM, in state dicts of PyTorch and in safetensors.

Caffe numbers the blobs of a layer. Here they have the names of the layer type's declaration: most often
`weight` and `bias`; a BatchNorm's are `mean`, `variance` and `factor` (the running sums, and what both are to be
divided by). Where a layer has more, each is named by its number. A layer keeps its name, dots and slashes
included: the last dot ends it.
"""

from collections.abc import Iterable, Mapping

import numpy as np

import prototxt.layers  # noqa: F401  (declares the layers)
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES
from weights.layer_weights import LayerWeights, stored_blobs

_DEFAULT: tuple[str, ...] = ("weight", "bias")


def param_names(layer_type: str, count: int) -> tuple[str, ...]:
    """The names of the `count` blobs of a layer of Caffe's type `layer_type` ("" where unknown)."""
    names = LAYER_TYPES[layer_type].weight_names if layer_type in LAYER_TYPES else _DEFAULT
    return names[:count] if count <= len(names) else tuple(map(str, range(count)))


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, the later ones of equal names with a suffix that no other name has: act, act#2, act#3."""
    names = list(names)
    taken, found = set(names), []
    seen: dict[str, int] = {}
    for name in names:
        unique = name
        if name in seen:
            count = seen[name]
            while unique in taken:
                count += 1
                unique = f"{name}#{count}"
            seen[name] = count
            taken.add(unique)
        else:
            seen[name] = 1
        found.append(unique)
    return found


def to_state_dict(layers: Iterable[LayerWeights], where: object = "state dict") -> dict[str, np.ndarray]:
    """Each blob under its name LAYER.PARAM, in the order of the layers; no copies.

    Of layers of one name the later ones have a suffix, as in a net's state dict (`unique_names`).

    Raises:
        InputError: for a blob that is left out, or one that is no float32 or float64.
    """
    layers = list(layers)
    state: dict[str, np.ndarray] = {}
    for name, layer in zip(unique_names(layer.name for layer in layers), layers, strict=True):
        blobs = stored_blobs(layer, where)
        params = param_names(layer.type, len(blobs))
        state |= {f"{name}.{param}": blob for param, blob in zip(params, blobs, strict=True)}
    return state


def from_state_dict(state: Mapping[str, np.ndarray], where: object = "state dict") -> list[LayerWeights]:
    """The layers that a state dict names, in the order in which each first appears.

    The order of the keys within a layer does not matter: its blobs are in Caffe's order. The names say the type
    only where they are not weight and bias.

    Raises:
        InputError: where a key is no LAYER.PARAM, or a layer's names are not the first ones of one kind.
    """
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for key, blob in state.items():
        layer, dot, param = key.rpartition(".")
        if not dot or not _is_text(key):
            raise InputError(f'{where}: "{key}" is not named LAYER.PARAM: rename it')
        grouped.setdefault(layer, {})[param] = blob
    return [_layer(name, params, where) for name, params in grouped.items()]


def _is_text(key: str) -> bool:
    """Not so where it holds half of a surrogate pair, which no file can."""
    return key.encode(errors="ignore").decode() == key


def _layer(name: str, params: Mapping[str, np.ndarray], where: object) -> LayerWeights:
    count = len(params)
    candidates = [("", _DEFAULT), *((kind, facts.weight_names) for kind, facts in LAYER_TYPES.items())]
    for kind, names in (*candidates, ("", tuple(map(str, range(count))))):
        if params.keys() == set(names[:count]):
            return LayerWeights(name, kind, [params[param] for param in names[:count]])
    found = ", ".join(sorted(params)[:10]) + (", …" if count > 10 else "")
    raise InputError(
        f'{where}: layer "{name}" has parameters {found}: Caffe\'s are weight, bias; '
        "or mean, variance, factor; or 0, 1, 2, …"
    )
