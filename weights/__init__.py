"""Caffe's weights and solver states in and out of files, and their conversion to today's formats."""

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
