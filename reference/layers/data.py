"""Layers that read batches from files, databases and memory, and the one that writes a file."""

from abc import abstractmethod

import numpy as np

from reference.layer import Arrays, Layer, Shape, layer
from runtime.blob import Blob
from runtime.data.database import DatabaseImages
from runtime.data.hdf5 import HDF5Rows
from runtime.data.images import LabelledImages, PairedImages
from runtime.data.memory import MemoryImages
from runtime.data.output import HDF5Pass
from runtime.data.prefetch import Source, whole
from runtime.data.windows import ImageWindows
from runtime.rng import caffe_rng


class _DataLayer(Layer):
    """The tops are a source's next batch, read when it is asked for."""

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.source = self.make_source()
        for blob, shape in zip(top, self.source.shapes, strict=True):
            blob.reshape(*shape)

    @abstractmethod
    def make_source(self) -> Source:
        """The source, set up as Caffe sets it up."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """A batch brings its own shapes."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, values in zip(top, self.source.load(self.source.draw()), strict=True):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None


@layer("ImageData")
class ImageData(_DataLayer):
    def make_source(self) -> Source:
        return LabelledImages(self.param, caffe_rng())


@layer("ImageSegData")
class ImageSegData(_DataLayer):
    def make_source(self) -> Source:
        return PairedImages(self.param, caffe_rng())


@layer("WindowData")
class WindowData(_DataLayer):
    def make_source(self) -> Source:
        return ImageWindows(self.param, caffe_rng())


@layer("Data")
class Data(_DataLayer):
    def make_source(self) -> Source:
        return DatabaseImages(self.param, len(self.plan.tops) > 1, whole, caffe_rng())


@layer("HDF5Data")
class HDF5Data(_DataLayer):
    def make_source(self) -> Source:
        return HDF5Rows(self.param, whole)


@layer("MemoryData")
class MemoryData(_DataLayer):
    def make_source(self) -> Source:
        return MemoryImages(self.param, caffe_rng())

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Read from these arrays from now on; raises InputError where they do not fit."""
        self.source.reset(data, labels)


@layer("HDF5Output")
class HDF5Output(Layer):
    def add_weights(self, data: Shape, label: Shape) -> None:
        self.file = HDF5Pass(self.param.hdf5_output_param)

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        self.file.check(data, label)
        return []

    def run(self, data: np.ndarray, label: np.ndarray) -> None:
        self.file.write(data, label)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
