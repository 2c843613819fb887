"""Caffe's weights and solver states in and out of files, and their conversion to today's formats.

The public names load their modules, NumPy and HDF5 when they are first used: `seenet --help` needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weights.binaryproto import read_binaryproto, write_binaryproto
    from weights.caffemodel import read_caffemodel, write_caffemodel
    from weights.formats import read_weights, write_weights
    from weights.hdf5 import read_hdf5, write_hdf5
    from weights.layer_weights import LayerWeights, check_finite, match_by_name
    from weights.names import from_state_dict, param_names, to_state_dict
    from weights.solverstate import SolverSnapshot, read_solverstate, write_solverstate

__all__ = [
    "LayerWeights",
    "SolverSnapshot",
    "check_finite",
    "from_state_dict",
    "match_by_name",
    "param_names",
    "read_binaryproto",
    "read_caffemodel",
    "read_hdf5",
    "read_solverstate",
    "read_weights",
    "to_state_dict",
    "write_binaryproto",
    "write_caffemodel",
    "write_hdf5",
    "write_solverstate",
    "write_weights",
]

_HOMES = {
    "LayerWeights": "weights.layer_weights",
    "SolverSnapshot": "weights.solverstate",
    "check_finite": "weights.layer_weights",
    "from_state_dict": "weights.names",
    "match_by_name": "weights.layer_weights",
    "param_names": "weights.names",
    "read_binaryproto": "weights.binaryproto",
    "read_caffemodel": "weights.caffemodel",
    "read_hdf5": "weights.hdf5",
    "read_solverstate": "weights.solverstate",
    "read_weights": "weights.formats",
    "to_state_dict": "weights.names",
    "write_binaryproto": "weights.binaryproto",
    "write_caffemodel": "weights.caffemodel",
    "write_hdf5": "weights.hdf5",
    "write_solverstate": "weights.solverstate",
    "write_weights": "weights.formats",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
