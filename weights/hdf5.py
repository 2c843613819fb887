""".caffemodel.h5: weights as Net::ToHDF5 groups them, /data/LAYER/INDEX."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence

import h5py
import numpy as np

from prototxt.errors import InputError
from weights.files import atomic_path, plain_os_errors
from weights.layer_weights import LayerWeights, stored_blobs
from weights.opening import HDF5_MAGIC, first_bytes, not_a


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike, kind: str) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever is wrong with it becomes an InputError that says it is no `kind`."""
    first_bytes(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise not_a(kind, path, error, HDF5_MAGIC) from error


@contextlib.contextmanager
def new_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file to write, of the version that Caffe writes, which appears at `path` when it is whole."""
    with atomic_path(path) as beside, plain_os_errors(), h5py.File(beside, "w", libver="earliest") as file:
        yield file


def read_dataset(group: h5py.Group, name: str) -> np.ndarray:
    """A dataset as the float32 or float64 array that Caffe would make of it: integers become float32.

    Raises:
        ValueError: where it holds no numbers or is missing.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{group.name}/{name} is no array of numbers")
    return dataset.astype(np.float64 if dataset.dtype == np.float64 else np.float32)[()]


def read_hdf5(path: str | os.PathLike, *, with_empty: bool = False) -> list[LayerWeights]:
    """The layers of a .caffemodel.h5, sorted by name as HDF5 keeps them; it does not hold their types.

    Args:
        with_empty: also the layers that have no blobs in the file.

    Raises:
        InputError: where the file is missing, cut short, or holds no weights of Caffe's.
    """
    with open_hdf5(path, "caffemodel.h5") as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise not_a("caffemodel.h5", path, "it has no group /data", HDF5_MAGIC)
        layers = [layer for name, group in file["data"].items() for layer in _layers(name, group)]
    return [layer for layer in layers if layer.blobs or with_empty]


def _layers(name: str, group: h5py.Group) -> Iterator[LayerWeights]:
    """The layer that a group is, and those below it: a name with "/" lies in a group of a group."""
    if not isinstance(group, h5py.Group):
        raise ValueError(f"/data/{name} is no group of blobs")
    below = {key: group.get(key) for key in group}
    blobs = [key for key, item in below.items() if isinstance(item, h5py.Dataset)]
    if blobs or not below:
        yield LayerWeights(name, blobs=_blobs(group, blobs))
    for key, item in below.items():
        if key not in blobs:
            yield from _layers(f"{name}/{key}", item)


def _blobs(group: h5py.Group, names: Sequence[str]) -> list[np.ndarray | None]:
    for name in names:
        if not re.fullmatch("0|[1-9][0-9]?", name):
            raise ValueError(f"{group.name}/{name} is not named by the index of a blob")
    found = {int(name): read_dataset(group, name) for name in names}
    return [found.get(index) for index in range(max(found, default=-1) + 1)]


def write_hdf5(
    path: str | os.PathLike, layers: Sequence[LayerWeights], *, progress: Callable[[int], None] | None = None
) -> None:
    """Write a .caffemodel.h5 as Net::ToHDF5 does: a group for every layer given, with or without blobs.

    A blob that is None is left out, as Caffe does with one that another layer owns. A "/" in a layer's name
    makes groups within groups; Caffe 1.0 itself can neither write nor find such a layer.

    Raises:
        InputError: where the file cannot be written or HDF5 cannot hold the layers' names.
    """
    _check_names(layers, path)
    with new_hdf5(path) as file:
        data = file.create_group("data")
        for layer in layers:
            group = data.require_group(layer.name)
            stored_blobs(LayerWeights(layer.name, blobs=[*layer.present]), path)
            for index, blob in enumerate(layer.blobs):
                if blob is not None:
                    group.create_dataset(str(index), data=blob)
                    if progress:
                        progress(blob.nbytes)


def _check_names(layers: Sequence[LayerWeights], path: str | os.PathLike) -> None:
    names = [layer.name for layer in layers]
    groups = {name[: end.start()] for name in names for end in re.finditer("/|$", name)}
    datasets = {f"{layer.name}/{index}" for layer in layers for index in range(len(layer.blobs))}
    for name in names:
        if not {"", "."}.isdisjoint(name.split("/")) or "\0" in name:
            raise InputError(f'{path}: HDF5 cannot hold a layer named "{name}": write another format')
        if names.count(name) > 1:
            raise InputError(f'{path}: HDF5 cannot hold two layers named "{name}": write .caffemodel')
    for name in groups & datasets:
        raise InputError(f'{path}: HDF5 cannot name both a layer and a blob "{name}": write another format')
