"""Weights in and out of every format, found by what a file begins with when read, by suffix when written."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prototxt.errors import InputError
from weights.arrays import read_mat, read_npz, write_mat, write_npz
from weights.caffemodel import read_caffemodel, write_caffemodel
from weights.files import remove_partial
from weights.hdf5 import read_hdf5, write_hdf5
from weights.layer_weights import LayerWeights
from weights.opening import HDF5_MAGIC, first_bytes
from weights.tensors import read_pth, read_safetensors, write_pth, write_safetensors

_BY_NAME = {".safetensors": (read_safetensors, write_safetensors)} | dict.fromkeys(
    (".pth", ".pt"), (read_pth, write_pth)
)
_BY_NAME |= {".npz": (read_npz, write_npz), ".mat": (read_mat, write_mat)}
_HDF5_SUFFIXES = (".h5", ".hdf5")


def read_weights(path: str | os.PathLike, *, with_empty: bool = False) -> list[LayerWeights]:
    """The layers of a file of weights: .caffemodel of any age, .caffemodel.h5, .safetensors, .pth, .npz or .mat.

    HDF5 is known by its first bytes, as Caffe knows it, the others by suffix; any further suffix means
    .caffemodel. The arrays are float32 or float64 as stored, and may be read-only views of the mapped file.

    Args:
        with_empty: also the layers without blobs, as Caffe's copy by name sees them.

    Raises:
        InputError: where the file is missing, cut short, or not what its name says.
    """
    if first_bytes(path).startswith(HDF5_MAGIC):
        return read_hdf5(path, with_empty=with_empty)
    suffix = Path(path).suffix.lower()
    if suffix in _BY_NAME:
        return _BY_NAME[suffix][0](path)
    return read_caffemodel(path, with_empty=with_empty)


def check_writable_format(path: str | os.PathLike) -> None:
    """Raises InputError where no format of weights has the suffix of `path`."""
    if Path(path).suffix.lower() not in (*_BY_NAME, *_HDF5_SUFFIXES, ".caffemodel"):
        raise InputError(
            f"{path}: unknown kind of file: name it .caffemodel, .caffemodel.h5, .safetensors, .pth, .npz or .mat"
        )


def write_weights(
    path: str | os.PathLike,
    layers: Sequence[LayerWeights],
    *,
    net_name: str = "",
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
    sync: bool = False,
) -> None:
    """Write layers in the format that the suffix of `path` names, each number as wide as it is.

    What a killed process left of an earlier try is removed first.

    Args:
        net_name: the net's name, which only a .caffemodel holds.
        metadata: entries as `weights.metadata` makes them, which only a .safetensors holds.
        progress: told each number of bytes of weights written.
        sync: for Caffe's two formats, as `weights.files.atomic_path` has it.

    Raises:
        InputError: for an unknown suffix, metadata for a format that holds none, or where the file cannot be
            written; nothing is then left of it.
    """
    check_writable_format(path)
    path = Path(path)
    suffix = path.suffix.lower()
    remove_partial(path.parent, path.stem)
    if metadata and suffix != ".safetensors":
        raise InputError(f"{path}: only a .safetensors holds the net's text beside its weights: name it so")
    if metadata:
        write_safetensors(path, layers, metadata=metadata, progress=progress)
    elif suffix in _BY_NAME:
        _BY_NAME[suffix][1](path, layers, progress=progress)
    elif suffix in _HDF5_SUFFIXES:
        write_hdf5(path, layers, progress=progress, sync=sync)
    else:
        write_caffemodel(path, layers, net_name=net_name, progress=progress, sync=sync)
