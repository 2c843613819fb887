"""Caffe's data layers: what fills a net's first blobs from files, databases and memory; and what writes a file."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.caffe_layers.voc_data import VocImages, settings_of
from port.layer import PYTHON_LAYERS, Layer, layer
from port.ranks import solver_count, solver_rank
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared
from prototxt.layers.python import saying_built_in
from prototxt.plan import Step
from runtime.data.mat import MatFiles
from runtime.data.output import HDF5Pass
from runtime.data.prefetch import Prefetcher, Share, whole
from runtime.data.sources import open_source
from runtime.set_up import Opened

AHEAD = 4
"""Batches read ahead: Caffe's default `prefetch`."""

TRAIN = 0


def open_data(step: Step, palette_labels: bool = False) -> Opened | None:
    """The source of a data layer, which shares training data out among ranks; None for another kind of layer."""
    return open_source(step, share_of(step.param), palette_labels)


def share_of(layer: LayerParameter) -> Share:
    """(rank, count) by which training data is shared out, as Caffe's `Skip` does."""
    return (lambda: (solver_rank(), solver_count())) if layer.phase == TRAIN else whole


@layer(
    *("AnnotatedData", "Data", "DataHeatmap", "DenseImageData", "ImageData", "ImageGtData"),
    *("ImageLabelmapData",),
    *("ImageSegData", "MatRead", "VideoData", "WindowData"),
)
class DataLayer(Layer):
    """A layer over a source of batches, which are read ahead; what is read ahead never shows.

    Attributes:
        source: what it reads from.
        prefetcher: its `waited` is the seconds that passes have waited for data.
    """

    ahead = AHEAD

    def set_up(self) -> None:
        # Where this is, the tops go; a net's `.to(device)` moves it.
        self.register_buffer("where", torch.empty(0), persistent=False)
        self.source = self.opened
        ahead = 0 if getattr(self.source, "in_step", False) else self.ahead
        self.prefetcher = Prefetcher(self.source, ahead, self._tensors)

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


@layer("HDF5Data", "MemoryData")
class MemoryDataLayer(DataLayer):
    """Rows that are in memory already, so that nothing is read ahead."""

    ahead = 0

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """MemoryData: read from these arrays from now on: (n, channels, height, width), and n labels.

        Raises:
            InputError: other shapes, or n that is no multiple of the batch size.
        """
        self.source.reset(data, labels)


@layer("SelectSegBinary", "WindowSegData")
class SegWindowLayer(DataLayer):
    """Windows whose draws come from Caffe's own generator, in step with other layers: nothing is drawn ahead."""

    ahead = 0


class VOCDataLayer(DataLayer):
    """The built-in twin of `voc_layers.VOCDataLayer`: the same draws, read ahead."""

    @staticmethod
    def open(step: Step) -> Opened:
        with saying_built_in(step.param):
            if len(step.tops) != 2:
                raise InputError(f"VOCDataLayer makes two tops, data and label, not {len(step.tops)}")
            settings = settings_of(step.param.python_param.param_str, InputError)
        train = step.param.phase == TRAIN
        source = VocImages(settings, train, share_of(step.param), InputError)
        return source, Declared(source.shapes)


PYTHON_LAYERS["voc_layers", "VOCDataLayer"] = VOCDataLayer


@layer("HDF5Output")
class HDF5Output(Layer):
    """Writes its two bottoms to `hdf5_output_param.file_name`, once."""

    def set_up(self) -> None:
        self.file = HDF5Pass(self.param.hdf5_output_param)

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        self.file.write(*(bottom.detach().cpu().numpy() for bottom in bottoms))
        return ()


@layer("MatWrite")
class MatWrite(Layer):
    """Writes its bottoms into MATLAB files, every `period` passes."""

    def set_up(self) -> None:
        self.files = MatFiles(self.param.mat_write_param)

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        self.files.write(*(bottom.detach().cpu().numpy() for bottom in bottoms))
        return ()
