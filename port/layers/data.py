"""Caffe's data layers: what fills a net's first blobs from files, databases and memory."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.caffe_layers.voc_data import VocImages, settings_of
from port.layer import PYTHON_LAYERS, Layer, Shape, layer
from port.ranks import solver_count, solver_rank
from prototxt.errors import InputError
from runtime.data.database import DatabaseImages
from runtime.data.hdf5 import HDF5Rows
from runtime.data.images import LabelledImages, PairedImages
from runtime.data.memory import MemoryImages
from runtime.data.output import HDF5Pass
from runtime.data.prefetch import Prefetcher, Source, whole
from runtime.data.windows import ImageWindows
from runtime.rng import caffe_rng

AHEAD = 4
"""Batches read ahead: Caffe's default `prefetch`."""

TRAIN = 0


class DataLayer(Layer):
    """A layer over a source of batches.

    Set-up draws from Caffe's process-wide generator exactly what Caffe's set-up draws, so that the fillers
    after it are Caffe's. From then on a source has generators of its own; what is read ahead never shows.

    Attributes:
        prefetcher: its `waited` is the seconds that passes have waited for data.
    """

    ahead = AHEAD

    def set_up(self) -> None:
        # Where this is, the tops go; a net's `.to(device)` moves it.
        self.register_buffer("where", torch.empty(0), persistent=False)
        self.source = self.make_source()
        self.prefetcher = Prefetcher(self.source, self.ahead, self._tensors)

    @abstractmethod
    def make_source(self) -> Source:
        """The source, set up as Caffe sets it up."""

    def top_shapes(self) -> list[Shape]:
        return self.source.shapes

    def forward(self) -> tuple[Tensor, ...]:
        """The next batch: float32 (float64 in a float64 net), on the device that the net was moved to."""
        dtype = torch.promote_types(torch.float32, self.where.dtype)
        return tuple(top.to(self.where.device, dtype, non_blocking=True) for top in self.prefetcher.next())

    def state(self) -> dict[str, Any]:
        """Where reading stands after the last batch that `forward` gave, as plain data that JSON can hold."""
        return self.prefetcher.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the batch after the one where `state()` was taken.

        Raises:
            InputError: the state of another list or other settings.
        """
        self.prefetcher.restore(state)

    def items(self) -> list[str]:
        """What each image of the last batch is (file, line, name), for messages about it."""
        return self.prefetcher.items()

    def _tensors(self, tops: tuple[np.ndarray, ...]) -> list[Tensor]:
        tensors = [torch.from_numpy(top) for top in tops]
        return [tensor.pin_memory() for tensor in tensors] if self.where.is_cuda else tensors

    def share(self) -> tuple[int, int]:
        """(rank, count) by which training data is shared out, as Caffe's `Skip` does."""
        return (solver_rank(), solver_count()) if self.phase == TRAIN else whole()


@layer("ImageData")
class ImageData(DataLayer):
    """Images and labels from a list of files. Every rank reads the whole list, as in Caffe: shuffle it."""

    def make_source(self) -> Source:
        return LabelledImages(self.param, caffe_rng())


@layer("ImageSegData")
class ImageSegData(DataLayer):
    """Images and label images from a list of pairs: the SeeNet group's fork.

    Set on the class, before nets are built: `rescale` to have `scale_factors` used, which that fork reads and
    then ignores; `palette_indices` to have the indices of palette label images, which Caffe cannot read.
    """

    rescale = False
    palette_indices = False

    def make_source(self) -> Source:
        return PairedImages(self.param, caffe_rng(), self.rescale, self.palette_indices)


@layer("WindowData")
class WindowData(DataLayer):
    """Windows of images, foreground and background, warped to one size, from an R-CNN window file."""

    def make_source(self) -> Source:
        return ImageWindows(self.param, caffe_rng())


@layer("Data")
class Data(DataLayer):
    """Images, and labels where there is a second top, from an LMDB."""

    def make_source(self) -> Source:
        return DatabaseImages(self.param, len(self.plan.tops) > 1, self.share, caffe_rng())


@layer("HDF5Data")
class HDF5Data(DataLayer):
    """Rows of HDF5 datasets, one for each top; in memory, so that nothing is read ahead."""

    ahead = 0

    def make_source(self) -> Source:
        return HDF5Rows(self.param, self.share)


@layer("MemoryData")
class MemoryData(DataLayer):
    """Arrays that a program hands over by `reset(data, labels)`."""

    ahead = 0

    def make_source(self) -> Source:
        return MemoryImages(self.param, caffe_rng())

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Read from these arrays from now on: (n, channels, height, width), and n labels.

        Raises:
            InputError: other shapes, or n that is no multiple of the batch size.
        """
        self.source.reset(data, labels)


class VOCDataLayer(DataLayer):
    """The built-in twin of `voc_layers.VOCDataLayer`: the same draws, read ahead."""

    def make_source(self) -> Source:
        if len(self.plan.tops) != 2:
            raise InputError(f"VOCDataLayer makes two tops, data and label, not {len(self.plan.tops)}")
        settings = settings_of(self.param.python_param.param_str, InputError)
        return VocImages(settings, self.phase == TRAIN, self.share, InputError)


PYTHON_LAYERS["voc_layers", "VOCDataLayer"] = VOCDataLayer


@layer("HDF5Output")
class HDF5Output(Layer):
    """Writes its two bottoms to `hdf5_output_param.file_name`, once."""

    def set_up(self, data: Shape, label: Shape) -> None:
        self.file = HDF5Pass(self.param.hdf5_output_param)

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        self.file.check(tuple(data), tuple(label))
        return []

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        self.file.write(*(bottom.detach().cpu().numpy() for bottom in bottoms))
        return ()
