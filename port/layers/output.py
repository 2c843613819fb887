"""HDF5Output: what a net computed, as a file."""

import h5py
import numpy as np
from torch import Tensor

from port.layer import Layer, Shape, layer
from port.layers.checks import legacy_shape
from prototxt.errors import InputError
from weights.files import atomic_path, plain_os_errors


@layer("HDF5Output")
class HDF5Output(Layer):
    """Writes its bottoms as the datasets `data` and `label`, of 4 axes each, to `hdf5_output_param.file_name`.

    As in Caffe the file holds one pass: a second one is refused, never written over the first.
    """

    def set_up(self, data: Shape, label: Shape) -> None:
        if not self.param.hdf5_output_param.file_name:
            raise InputError("hdf5_output_param: give file_name")
        self.written = False

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        if legacy_shape(data)[0] != legacy_shape(label)[0]:
            raise InputError(
                f"data of shape {tuple(data)} and labels of {tuple(label)}: as many of both are due"
            )
        return []

    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        self.top_shapes(tuple(data.shape), tuple(label.shape))
        path = self.param.hdf5_output_param.file_name
        if self.written:
            raise InputError(f"{path} holds one pass already, and no more, as in Caffe: run the net once")
        arrays = {"data": _four_axes(data), "label": _four_axes(label)}
        with atomic_path(path) as beside, plain_os_errors(), h5py.File(beside, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
        self.written = True
        return ()


def _four_axes(blob: Tensor) -> np.ndarray:
    return blob.detach().cpu().numpy().reshape(legacy_shape(tuple(blob.shape)))
