""".caffemodel.h5: weights as Net::ToHDF5 groups them, /data/LAYER/INDEX."""

import contextlib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import h5py
import numpy as np

from prototxt.errors import InputError
from weights.files import atomic_path
from weights.layer_weights import LayerWeights, stored_blobs
from weights.opening import HDF5_MAGIC, check_unpacked, first_bytes, not_a
from weights.wire import MAX_AXES


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike, kind: str) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever is wrong with it becomes an InputError that says it is no `kind`.

    Reach what is in it by `member` and `read_dataset`, which never leave the file.
    """
    first_bytes(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except _BROKEN as error:
        raise not_a(kind, path, error, HDF5_MAGIC) from error


_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)
"""What h5py and NumPy raise for damaged files."""


@contextlib.contextmanager
def new_hdf5(path: str | os.PathLike, *, sync: bool = False) -> Iterator[h5py.File]:
    """An HDF5 file to write, of the version that Caffe writes, which appears at `path` when it is whole."""
    with atomic_path(path, sync=sync) as beside, beside.open("r+b", buffering=0) as raw:
        kept = _KeepsError(raw)
        with h5py.File(kept, "w", libver="earliest") as file:
            yield file
        if kept.error:
            raise kept.error


class _KeepsError:
    """A file that answers HDF5 as if each write had worked, and keeps the first error for later.

    HDF5 ends the process where a write fails while it closes the file, as on a full disk.
    """

    def __init__(self, raw: io.FileIO):
        self._raw = raw
        self.error: OSError | None = None
        self.seek, self.tell, self.read, self.readinto = raw.seek, raw.tell, raw.read, raw.readinto

    def write(self, data: memoryview) -> int:
        done = 0
        try:
            while done < len(data) and not self.error:
                done += self._raw.write(data[done:])
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def flush(self) -> None:
        """Nothing waits to be written."""


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype | None:
    """What a group itself holds under a name, or None.

    Raises:
        ValueError: a link, which may lead into other files or round in circles.
    """
    # By the low-level calls: h5py's own look where a link leads before they tell that it is one.
    key = name.encode("utf-8", "surrogateescape")
    if not group.id.links.exists(key):
        return None
    if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{group.name.rstrip('/')}/{name} is a link: its numbers may lie anywhere")
    return group[name]


MOST_COMPRESSED = 1032
"""A byte that deflate, HDF5's compression, has written stands for at most so many."""


def read_dataset(group: h5py.Group, name: str) -> np.ndarray:
    """A dataset as the float32 or float64 array that Caffe would make of it: integers become float32.

    Raises:
        ValueError: where it holds no numbers, is missing, or is not in the file as large as it says.
    """
    dataset = member(group, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu" or dataset.shape is None:
        raise ValueError(f"{group.name}/{name} is no array of numbers")
    check_stored(dataset)
    check_unpacked(dataset.file.filename, dataset.nbytes)
    return dataset.astype(np.float64 if dataset.dtype == np.float64 else np.float32)[()]


def check_stored(dataset: h5py.Dataset) -> None:
    """Raises ValueError unless the numbers of a dataset lie in its own file, all of them."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its numbers in other files")
    if dataset.ndim > MAX_AXES:
        raise ValueError(f"{dataset.name} has {dataset.ndim} axes, Caffe's blobs have at most {MAX_AXES}")
    stored, size = dataset.id.get_storage_size(), dataset.file.id.get_filesize()
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    most = stored * (MOST_COMPRESSED if dataset.id.get_create_plist().get_nfilters() else 1)
    if stored > size or claimed > most + _NOT_WRITTEN:
        raise ValueError(f"{dataset.name} claims {claimed} bytes, {min(stored, size)} are in the file")


_NOT_WRITTEN = 4096
"""Bytes that a dataset may lack: HDF5 gives zeros for what was never written, and never more than it must."""


def read_hdf5(path: str | os.PathLike, *, with_empty: bool = False) -> list[LayerWeights]:
    """The layers of a .caffemodel.h5, sorted by name as HDF5 keeps them; it does not hold their types.

    Args:
        with_empty: also the layers that have no blobs in the file.

    Raises:
        InputError: where the file is missing, cut short, or holds no weights of Caffe's.
    """
    with open_hdf5(path, "caffemodel.h5") as file:
        data = member(file, "data")
        if not isinstance(data, h5py.Group):
            raise not_a("caffemodel.h5", path, "it has no group /data", HDF5_MAGIC)
        seen = {_identity(data)}
        layers, size = [], 0
        for name in data:
            for layer in _layers(name, member(data, name), seen):
                layers.append(layer)
                size += sum(blob.nbytes for blob in layer.present)
                check_unpacked(path, size)
    return [layer for layer in layers if layer.blobs or with_empty]


def _layers(name: str, group: h5py.Group, seen: set[tuple[int, int]]) -> Iterator[LayerWeights]:
    """The layer that a group is, and those below it: a name with "/" lies in a group of a group.

    Args:
        seen: the groups that came before: each may be reached by one way alone, or a few make millions.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"/data/{name} is no group of blobs")
    if _identity(group) in seen:
        raise ValueError(f"/data/{name} is a group that another name reaches too")
    seen.add(_identity(group))
    if name.count("/") > _MOST_LEVELS:
        raise ValueError(f"groups lie within groups more than {_MOST_LEVELS} deep")
    below = {key: member(group, key) for key in group}
    blobs = [key for key, item in below.items() if isinstance(item, h5py.Dataset)]
    if blobs or not below:
        # h5py gives surrogates for bytes that are not UTF-8; prototxts are read with replacements.
        text = name.encode("utf-8", "surrogateescape").decode(errors="replace")
        yield LayerWeights(text, blobs=_blobs(group, blobs))
    for key, item in below.items():
        if not isinstance(item, h5py.Dataset):
            yield from _layers(f"{name}/{key}", item, seen)


_MOST_LEVELS = 100


def _identity(group: h5py.Group) -> tuple[int, int]:
    info = h5py.h5o.get_info(group.id)
    return info.fileno, info.addr


def _blobs(group: h5py.Group, names: Sequence[str]) -> list[np.ndarray | None]:
    for name in names:
        if not re.fullmatch("0|[1-9][0-9]?", name):
            raise ValueError(f"{group.name}/{name} is not named by the index of a blob")
    found = {int(name): read_dataset(group, name) for name in names}
    return [found.get(index) for index in range(max(found, default=-1) + 1)]


def write_hdf5(
    path: str | os.PathLike,
    layers: Sequence[LayerWeights],
    *,
    progress: Callable[[int], None] | None = None,
    sync: bool = False,
) -> None:
    """Write a .caffemodel.h5 as Net::ToHDF5 does: a group for every layer given, with or without blobs.

    A blob that is None is left out, as Caffe does with one that another layer owns. A "/" in a layer's name
    makes groups within groups; Caffe 1.0 itself can neither write nor find such a layer.

    Raises:
        InputError: where the file cannot be written or HDF5 cannot hold the layers' names.
    """
    _check_names(layers, path)
    with new_hdf5(path, sync=sync) as file:
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
    counts = Counter(names)
    groups = {name[: end.start()] for name in names for end in re.finditer("/|$", name)}
    datasets = {f"{layer.name}/{index}" for layer in layers for index in range(len(layer.blobs))}
    for name in names:
        if not {"", "."}.isdisjoint(name.split("/")) or "\0" in name:
            raise InputError(f'{path}: HDF5 cannot hold a layer named "{name}": write another format')
        if counts[name] > 1:
            raise InputError(f'{path}: HDF5 cannot hold two layers named "{name}": write .caffemodel')
    for name in groups & datasets:
        raise InputError(f'{path}: HDF5 cannot name both a layer and a blob "{name}": write another format')
