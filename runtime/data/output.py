"""HDF5Output's file: what one pass computed."""

import h5py
import numpy as np

from prototxt.caffe_pb2 import HDF5OutputParameter
from prototxt.errors import InputError
from prototxt.layers.declare import legacy_shape
from weights.files import atomic_path, plain_os_errors


class HDF5Pass:
    """The datasets `data` and `label`, of 4 axes each, in `hdf5_output_param.file_name`.

    As in Caffe the file holds one pass: a second one is refused, never written over the first.
    """

    def __init__(self, param: HDF5OutputParameter):
        self.path = param.file_name
        self.written = False

    def write(self, data: np.ndarray, label: np.ndarray) -> None:
        """Raises InputError for a second pass, and where the file cannot be written."""
        if self.written:
            raise InputError(
                f"{self.path} holds one pass already, and no more, as in Caffe: run the net once"
            )
        with atomic_path(self.path) as beside, plain_os_errors(), h5py.File(beside, "w") as file:
            for name, values in (("data", data), ("label", label)):
                file.create_dataset(name, data=values.reshape(legacy_shape(values.shape)))
        self.written = True
