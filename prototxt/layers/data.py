"""Layers that read batches from files, databases and memory, and the one that writes a file."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, layer_type, legacy_shape, opened_type, text

LABEL_IMAGES = ("ImageSegData", "ImageLabelmapData", "DenseImageData")
"""Data layers whose labels are images."""

opened_type("AnnotatedData", "Data", "VideoData", bottoms=(0, 0), tops=(1, 2))
opened_type("HDF5Data", bottoms=(0, 0), tops=(1, MANY))
opened_type("ImageData", "WindowData", bottoms=(0, 0), tops=(2, 2))
opened_type("MemoryData", bottoms=(0, 0), tops=(2, 3))
opened_type("ImageSegData", bottoms=(0, 0), tops=(1, 3))
opened_type("DenseImageData", "ImageLabelmapData", bottoms=(0, 0), tops=(2, 2))


opened_type("ImageGtData", bottoms=(0, 0), tops=(2, MANY))
opened_type("MatRead", bottoms=(0, 0), tops=(1, MANY))


@layer_type("MatWrite", bottoms=(1, MANY), tops=(0, 0))
def mat_write(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    for shape in shapes:
        legacy_shape(shape)
    if layer.mat_write_param.period < 1:
        raise InputError("mat_write_param: period must be at least 1")
    if layer.mat_write_param.strip < 0:
        raise InputError("mat_write_param: strip must be at least 0")
    return Declared([])


@layer_type("HDF5Output", bottoms=(2, 2), tops=(0, 0))
def hdf5_output(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    data, label = shapes
    if not layer.hdf5_output_param.file_name:
        raise InputError("hdf5_output_param: give file_name")
    if legacy_shape(data)[0] != legacy_shape(label)[0]:
        raise InputError(f"data {text(data)} and labels {text(label)} must have the same number of rows")
    return Declared([])
