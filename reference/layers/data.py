"""Layers that read batches from files, databases and memory, and the one that writes a file."""

import numpy as np

from reference.layer import Arrays, Layer, layer
from runtime.blob import Blob
from runtime.data.mat import MatFiles
from runtime.data.output import HDF5Pass


@layer(
    *(
        "AnnotatedData",
        "Data",
        "DataHeatmap",
        "DenseImageData",
        "HDF5Data",
        "ImageData",
        "ImageGtData",
        "ImageLabelmapData",
        "ImageSegData",
    ),
    *("MatRead", "MemoryData", "SelectSegBinary", "VideoData", "WindowData", "WindowSegData"),
)
class DataLayer(Layer):
    """The tops are the source's next batch, read when it is asked for."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """A batch brings its own shapes."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, values in zip(top, self.opened.load(self.opened.draw()), strict=True):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """MemoryData: read from these arrays from now on; raises InputError where they do not fit."""
        self.opened.reset(data, labels)


@layer("HDF5Output")
class HDF5Output(Layer):
    def set_up(self) -> None:
        self.file = HDF5Pass(self.param.hdf5_output_param)

    def run(self, data: np.ndarray, label: np.ndarray) -> None:
        self.file.write(data, label)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


@layer("MatWrite")
class MatWrite(Layer):
    def set_up(self) -> None:
        self.files = MatFiles(self.param.mat_write_param)

    def run(self, *bottoms: np.ndarray) -> None:
        self.files.write(*bottoms)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
