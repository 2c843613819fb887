"""Layers that read batches from files, databases and memory, and the one that writes a file."""

from typing import Any

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    MANY,
    Declared,
    Shape,
    Shapes,
    layer_type,
    legacy_shape,
    opened_type,
    refuse_other_fields,
    text,
)

LABEL_IMAGES = ("ImageSegData", "ImageLabelmapData", "DenseImageData")
"""Data layers whose labels are images."""

opened_type("AnnotatedData", "Data", "VideoData", bottoms=(0, 0), tops=(1, 2))
opened_type("HDF5Data", bottoms=(0, 0), tops=(1, MANY))
opened_type("ImageData", "WindowData", bottoms=(0, 0), tops=(2, 2))
opened_type("MemoryData", bottoms=(0, 0), tops=(2, 3))
opened_type("ImageSegData", bottoms=(0, 0), tops=(1, 3))
opened_type("DenseImageData", "ImageLabelmapData", bottoms=(0, 0), tops=(2, 2))


opened_type("MatRead", bottoms=(0, 0), tops=(1, MANY))


def reads_clips(layer: LayerParameter) -> bool:
    """Whether a VideoData layer is C3D's, which reads clips, and not SSD's, which reads a video's frames."""
    return bool(layer.video_data_param.source) or layer.HasField("image_data_param")


def clip_settings(layer: LayerParameter) -> tuple[bool, Any]:
    """Whether the layer is of C3D 1.0, and the message of its settings.

    Raises:
        InputError: a setting that C3D's layer does not read.
    """
    old = not layer.video_data_param.source
    where, param = (
        ("image_data_param", layer.image_data_param) if old else ("video_data_param", layer.video_data_param)
    )
    refuse_other_fields(where, param, *_CLIPS, *(_CLIPS_1_0 if old else _CLIPS_1_1))
    return old, param


_CLIPS = (
    *("source", "batch_size", "rand_skip", "shuffle", "new_height", "new_width", "new_length"),
    *("use_image", "sampling_rate", "use_temporal_jitter"),
)
_CLIPS_1_0 = ("scale", "mean_file", "mean_value", "crop_size", "mirror")
_CLIPS_1_1 = (
    *("root_folder", "max_sampling_rate", "use_sampling_rate_jitter", "use_multiple_label", "num_of_labels"),
)


def clip_shapes(layer: LayerParameter) -> list[Shape] | None:
    """The shapes that a layer of clips makes, as far as its settings tell them."""
    old, param = clip_settings(layer)
    crop = param.crop_size if old else layer.transform_param.crop_size
    height, width = crop or param.new_height, crop or param.new_width
    if not (height and width and param.new_length and param.batch_size):
        return None
    labels: Shape = (param.batch_size, 1, 1, 1, 1) if old else (param.batch_size,)
    if not old and param.use_multiple_label:
        labels = (param.batch_size, param.num_of_labels)
    return [(param.batch_size, 3, param.new_length, height, width), labels][: len(layer.top)]


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
