"""MatRead's and MatWrite's files: one blob in a MATLAB file each, as DeepLab's Caffe has them.

A file PREFIX + NAME + "_blob_I.mat" holds the array `data`, of the blob's axes in reverse (width first). NAME is from
a list, without the last `strip` characters, or "iter_" and the pass's number.
"""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from prototxt.caffe_pb2 import LayerParameter, MatReadParameter, MatWriteParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from runtime.data.order import saved_place
from runtime.data.output import held_back
from runtime.data.prefetch import Tops
from runtime.data.reading import read_lines
from weights.files import atomic_path, plain_os_errors
from weights.mat5 import read_mat5


def _names(param: MatReadParameter | MatWriteParameter) -> list[str]:
    """The list's names, cut; none without a list.

    Raises:
        InputError: a missing or empty list, or a name that is no longer than what is cut off.
    """
    if not param.HasField("source"):
        return []
    names = [line.split()[0] for line in read_lines(param.source) if line.split()]
    short = [name for name in names if len(name) <= param.strip]
    if short or not names:
        raise InputError(
            f"{param.source}: {short[0] if short else 'no name'}: nothing is left after strip: lower it"
        )
    return [name[: len(name) - param.strip] for name in names]


class MatBlobs:
    """MatRead: tops (batch_size, channels, height, width), float32, from the files of the list, around and around.

    Raises:
        InputError: a missing list or file, or one without a float32 array `data` of at most 3 axes and num 1.
    """

    def __init__(self, layer: LayerParameter, tops: int):
        self.param, self.tops = layer.mat_read_param, tops
        if self.param.batch_size < 1:
            raise InputError("mat_read_param: batch_size must be at least 1")
        if self.param.strip < 0:
            raise InputError("mat_read_param: strip must be at least 0")
        self.names = _names(self.param)
        if not self.names:
            raise InputError("mat_read_param: give source, a list of the files")
        self.position = 0
        self.shapes = [(self.param.batch_size, *self._read(0, top).shape) for top in range(tops)]

    def draw(self) -> list[int]:
        drawn = [(self.position + i) % len(self.names) for i in range(self.param.batch_size)]
        self.position = (drawn[-1] + 1) % len(self.names)
        return drawn

    def load(self, drawn: list[int]) -> Tops:
        tops = []
        for top, shape in enumerate(self.shapes):
            blobs = [self._read(index, top) for index in drawn]
            for index, blob in zip(drawn, blobs, strict=True):
                if blob.shape != shape[1:]:
                    raise InputError(
                        f"{self._path(index, top)}: {blob.shape}, the first file gives {shape[1:]}"
                    )
            tops.append(np.stack(blobs))
        return tuple(tops)

    def items(self, drawn: list[int]) -> list[str]:
        return [self._path(index, 0) for index in drawn]

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = saved_place(state["position"], len(self.names))

    def _path(self, index: int, top: int) -> str:
        return f"{self.param.prefix}{self.names[index]}_blob_{top}.mat"

    def _read(self, index: int, top: int) -> np.ndarray:
        path = self._path(index, top)
        try:
            data = read_mat5(path, ["data"])["data"]
        except InputError:
            raise
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{path}: cannot be read as a MATLAB file with an array named data ({error})"
            ) from error
        if isinstance(data, str):
            raise InputError(f"{path}: data is text: it must be single, width × height × channels")
        if data.dtype != np.float32 or data.ndim > 4 or (data.ndim == 4 and data.shape[3] != 1):
            raise InputError(
                f"{path}: data is {data.dtype} {data.shape}: it must be single, width × height × channels"
            )
        return np.ascontiguousarray(data.reshape((*data.shape, 1, 1, 1)[:3], order="F").T)


class MatFiles:
    """MatWrite: every `period` passes, one file for each bottom."""

    def __init__(self, param: MatWriteParameter):
        self.param, self.names, self.passes = param, _names(param), 0

    def write(self, *blobs: np.ndarray) -> None:
        """Raises InputError where the list has no name left, and where a file cannot be written."""
        if held_back():
            return
        number, self.passes = self.passes, self.passes + 1
        if number % self.param.period:
            return
        if self.names and number >= len(self.names):
            raise InputError(
                f"{self.param.source}: lists {len(self.names)} names, this is pass {number + 1}: list more"
            )
        name = self.names[number] if self.names else f"iter_{number}"
        for i, blob in enumerate(blobs):
            path = Path(f"{self.param.prefix}{name}_blob_{i}.mat")
            data = blob.reshape(legacy_shape(blob.shape)).T
            with atomic_path(path) as beside, plain_os_errors(), open(beside, "wb") as file:
                scipy.io.savemat(file, {"data": data})
