"""HDF5Data's source: rows of the datasets in a list of HDF5 files."""

from typing import Any

import h5py
import numpy as np

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.limits import max_memory
from runtime.c_random import process_random
from runtime.data.order import MOST_DRAWN, saved_order, saved_place
from runtime.data.prefetch import Share
from runtime.data.reading import naming, read_names
from weights.hdf5 import check_stored, member, open_hdf5

Tops = tuple[np.ndarray, ...]


class HDF5Rows:
    """HDF5Data: a top for each dataset of its name, (batch, …), float32; files in order, row after row.

    With `shuffle`, files and rows are shuffled by C's `rand()`, as in Caffe: `random_seed` has no say.

    Raises:
        InputError: a missing list or file, a dataset that is missing or not of numbers, unlike lengths.
    """

    def __init__(self, param: LayerParameter, share: Share):
        if param.HasField("transform_param"):
            raise InputError("HDF5Data does not transform data: remove transform_param")
        self.param, self.names, self.share = param.hdf5_data_param, list(param.top), share
        if not self.param.batch_size:
            raise InputError("hdf5_data_param.batch_size: give 1 or more")
        self.files = read_names(self.param.source)
        self.file_order = list(range(len(self.files)))
        self._shuffle(self.file_order)
        self.file = self.row = self.offset = 0
        self.row_order: list[int] = []
        self._load_file()
        self.shapes = [(self.param.batch_size, *values.shape[1:]) for values in self.values]

    def draw(self) -> tuple[Tops, list[str]]:
        """The rows themselves, and where they stand: a batch may run from one file into the next."""
        tops = tuple(np.empty(shape, np.float32) for shape in self.shapes)
        items = []
        for i in range(self.param.batch_size):
            rank, count = self.share()
            while self.offset % count != rank:
                self._advance()
            for top, values in zip(tops, self.values, strict=True):
                top[i] = values[self.row_order[self.row]]
            items.append(f"{self._path()}: row {self.row_order[self.row]}")
            self._advance()
        return tops, items

    def load(self, drawn: tuple[Tops, list[str]]) -> Tops:
        return drawn[0]

    def items(self, drawn: tuple[Tops, list[str]]) -> list[str]:
        return drawn[1]

    def state(self) -> dict[str, Any]:
        return {
            "files": list(self.file_order),
            "file": self.file,
            "rows": self.row_order,
            "row": self.row,
            "offset": self.offset,
            "random": process_random.state() if self.param.shuffle else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another list of files."""
        if len(state["files"]) != len(self.files) or (state["random"] is None) == self.param.shuffle:
            raise InputError(
                f"the saved order is of {len(state['files'])} files, {self.param.source} lists "
                f"{len(self.files)}, or shuffle was changed: resume with the same net and list"
            )
        self.file_order = saved_order(state["files"], len(self.files))
        self.file = saved_place(state["file"], len(self.files))
        self._load_file()
        if len(state["rows"]) != len(self.row_order):
            raise InputError(
                f"{self._path()}: {len(self.row_order)} rows, the saved order is of {len(state['rows'])}: "
                "resume with the same files"
            )
        count = len(self.row_order)
        self.row_order, self.row = saved_order(state["rows"], count), saved_place(state["row"], count)
        self.offset = saved_place(state["offset"], MOST_DRAWN)
        if self.param.shuffle:
            process_random.restore(state["random"])

    def _advance(self) -> None:
        self.row += 1
        self.offset += 1
        if self.row < len(self.row_order):
            return
        self.row = 0
        if len(self.files) > 1:
            self.file += 1
            if self.file == len(self.files):
                self.file = 0
                self._shuffle(self.file_order)
            self._load_file()
        self.row_order = list(self.row_order)
        self._shuffle(self.row_order)  # for a file just loaded, the second time

    def _load_file(self) -> None:
        path = self._path()
        with naming(self.param.source), open_hdf5(path, "HDF5 data file") as file:
            self.values = [_dataset(file, name, path) for name in self.names]
        lengths = {len(values) for values in self.values}
        if len(lengths) > 1:
            told = ", ".join(
                f"{name} {len(values)}" for name, values in zip(self.names, self.values, strict=True)
            )
            raise InputError(f"{path}: datasets of unlike lengths: {told}")
        if not lengths or 0 in lengths:
            raise InputError(f"{path}: holds no rows")
        self._check_shapes(path)
        self.row_order = list(range(lengths.pop()))
        self._shuffle(self.row_order)

    def _check_shapes(self, path: str) -> None:
        if not hasattr(self, "shapes"):
            return
        for name, values, shape in zip(self.names, self.values, self.shapes, strict=True):
            if values.shape[1:] != shape[1:]:
                raise InputError(
                    f"{path}: rows of {name} are {values.shape[1:]}, in earlier files {shape[1:]}"
                )

    def _path(self) -> str:
        return self.files[self.file_order[self.file]]

    def _shuffle(self, items: list[int]) -> None:
        if self.param.shuffle:
            process_random.shuffle(items)


def _dataset(file: h5py.File, name: str, path: str) -> np.ndarray:
    found = member(file, name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f'{path}: has no dataset "{name}", which is what the top is called')
    if found.dtype.kind not in "fiu":
        raise InputError(f'{path}: dataset "{name}" is of type {found.dtype}: it must hold numbers')
    if not found.shape:
        raise InputError(f'{path}: dataset "{name}" is a single number: it needs a first axis, of rows')
    check_stored(found)
    if 4 * found.size > max_memory():
        raise InputError(
            f'{path}: dataset "{name}" takes {4 * found.size} bytes of memory: more than allowed'
        )
    return found.astype(np.float32)[...]
