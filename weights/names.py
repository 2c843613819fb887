"""Names of weights outside Caffe: LAYER.PARAM, in state dicts of PyTorch and in safetensors.

Caffe numbers the blobs of a layer. Here the first two are `weight` and `bias`; a BatchNorm's are `mean`,
`variance` and `factor` (the running sums, and what both are to be divided by); where a layer has more, each
is named by its number. A layer keeps its name, dots and slashes included: the last dot ends it.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from prototxt.errors import InputError
from weights.layer_weights import LayerWeights, stored_blobs

_DEFAULT = ("weight", "bias")
_BATCH_NORM = ("mean", "variance", "factor")


def param_names(layer_type: str, count: int) -> tuple[str, ...]:
    """The names of the `count` blobs of a layer of Caffe's type `layer_type` ("" where unknown)."""
    names = _BATCH_NORM if layer_type == "BatchNorm" else _DEFAULT
    return names[:count] if count <= len(names) else tuple(map(str, range(count)))


def to_state_dict(layers: Iterable[LayerWeights], where: object = "state dict") -> dict[str, np.ndarray]:
    """Each blob under its name LAYER.PARAM, in the order of the layers; no copies.

    Raises:
        InputError: for two layers of one name, a blob that is left out, or one that is no float32 or float64.
    """
    state = {}
    for layer in layers:
        blobs = stored_blobs(layer, where)
        params = param_names(layer.type, len(blobs))
        named = {f"{layer.name}.{param}": blob for param, blob in zip(params, blobs, strict=True)}
        if not state.keys().isdisjoint(named):
            raise InputError(f'{where}: two layers are named "{layer.name}": write .caffemodel')
        state |= named
    return state


def from_state_dict(state: Mapping[str, np.ndarray], where: object = "state dict") -> list[LayerWeights]:
    """The layers that a state dict names, in the order in which each first appears.

    The order of the keys within a layer does not matter: its blobs are in Caffe's order. Only of a BatchNorm
    do the names say the type.

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
    for layer_type, names in (
        ("", _DEFAULT[:count]),
        ("BatchNorm", _BATCH_NORM[:count]),
        ("", tuple(map(str, range(count)))),
    ):
        if params.keys() == set(names):
            return LayerWeights(name, layer_type, [params[param] for param in names])
    found = ", ".join(sorted(params)[:10]) + (", …" if count > 10 else "")
    raise InputError(
        f'{where}: layer "{name}" has parameters {found}: Caffe\'s are weight, bias; '
        "or mean, variance, factor; or 0, 1, 2, …"
    )
