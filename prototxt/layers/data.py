"""Layers that read batches from files, databases and memory, and the one that writes a file."""

import math
from typing import Any

from prototxt.caffe_pb2 import ImageGtDataParameter, LayerParameter, VideoDataParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
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

GROUND_TRUTH_CHANNELS = 6
"""Of ImageGtData's label maps: class, centre (x, y), width, height, overlap."""

ASPECT_STEP = 0.05
"""Between the aspect ratios that ImageGtData draws from."""

LABEL_IMAGES = ("DenseImageData", "ImageLabelmapData", "ImageSegData", "SelectSegBinary", "WindowSegData")
"""Data layers whose labels are images."""

opened_type("AnnotatedData", "Data", "VideoData", bottoms=(0, 0), tops=(1, 2))
opened_type("HDF5Data", bottoms=(0, 0), tops=(1, MANY))
opened_type("ImageData", "WindowData", bottoms=(0, 0), tops=(2, 2))
opened_type("MemoryData", bottoms=(0, 0), tops=(2, 3))
opened_type("ImageSegData", "SelectSegBinary", "WindowSegData", bottoms=(0, 0), tops=(1, 3))
opened_type("DenseImageData", "ImageLabelmapData", bottoms=(0, 0), tops=(2, 2))


opened_type("DataHeatmap", bottoms=(0, 0), tops=(2, 2))
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


# ---- The shapes of data that is elsewhere

_SETTINGS = {
    "AnnotatedData": "data_param",
    "Data": "data_param",
    "DenseImageData": "dense_image_data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "ImageGtData": "image_gt_data_param",
    "ImageLabelmapData": "image_data_param",
    "ImageSegData": "image_data_param",
    "MemoryData": "memory_data_param",
    "SelectSegBinary": "image_data_param",
    "VideoData": "data_param",
    "WindowData": "window_data_param",
    "WindowSegData": "image_data_param",
}
"""Data layer → where it has its batch size, and mostly its image size."""


def tells_shapes(layer: LayerParameter) -> bool:
    """Whether it is a data layer whose settings may tell its tops' shapes."""
    return layer.type in _SETTINGS


def told_shapes(
    layer: LayerParameter, image: Shape | None = None, batch: int | None = None
) -> list[Shape] | None:
    """The tops' shapes of a data layer, from its settings alone. A database's images are taken for coloured ones.

    Args:
        image: channels, height and width, for what the settings leave open.
        batch: in the place of the settings' batch size.

    Returns:
        None where the settings, and `image`, do not tell the size.

    Raises:
        InputError: settings that contradict each other.
    """
    video = meaning(layer) if layer.type == "VideoData" else ""
    if video == "C3D":
        return _clip_shapes(layer, image, batch)
    if layer.type in ("VideoSegmentationData", "VideoWithVoxelTruthData"):
        return _voxel_shapes(layer, image, batch)
    where = "video_data_param" if video == "TSN" else _SETTINGS.get(layer.type, "data_param")
    batch = batch or getattr(layer, where).batch_size or (1 if image else 0)
    if not batch:
        return None
    if layer.type == "ImageGtData":
        return _ground_truth_shapes(layer, image, batch)
    size = _image_size(layer, image)
    if size is None:
        return None
    channels = _channels(layer, image)
    label: Shape = (batch,)
    if video == "TSN":
        clips = layer.video_data_param
        channels = 2 if clips.modality == VideoDataParameter.FLOW else 3
        frames = clips.num_segments * clips.new_length
        return list[Shape]([(batch, frames * channels, *size), (batch, 1, 1, 1)])[: len(layer.top)]
    if layer.type == "AnnotatedData":
        label = (1, 1, 1, 8)  # a row for each box of the batch
    elif layer.type in LABEL_IMAGES:
        label = (batch, 1, *size)
    third: Shape = (batch, 1, 1, 2)  # each image's height and width
    if layer.type == "SelectSegBinary":
        third = (batch, layer.window_cls_data_param.label_dim, 1, 1)
    elif layer.type not in ("ImageSegData", "MemoryData", "WindowSegData"):
        third = label
    return [(batch, channels, *size), label, *[third] * len(layer.top)][: len(layer.top)]


def _image_size(layer: LayerParameter, image: Shape | None) -> tuple[int, int] | None:
    """Height and width: those of a crop before those that images are resized to."""
    transform, dense, memory = layer.transform_param, layer.dense_image_data_param, layer.memory_data_param
    height = transform.crop_size or transform.crop_height or dense.crop_height or transform.crop_h
    width = transform.crop_size or transform.crop_width or dense.crop_width or transform.crop_w
    for resize in transform.resize_param:
        height, width = height or resize.height, width or resize.width
    for settings in (layer.image_data_param, dense, layer.video_data_param):
        height, width = height or settings.new_height, width or settings.new_width
    if layer.type == "MemoryData":
        height, width = height or memory.height, width or memory.width
    if image is not None:
        height, width = height or image[1], width or image[2]
    return (height, width) if height and width else None


def _channels(layer: LayerParameter, image: Shape | None) -> int:
    if layer.type == "MemoryData" and layer.memory_data_param.channels:
        return layer.memory_data_param.channels
    images = layer.dense_image_data_param if layer.type == "DenseImageData" else layer.image_data_param
    if layer.transform_param.force_gray or not images.is_color:
        return 1
    return image[0] if image else 3


# ---- VideoData, C3D's


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


def _voxel_shapes(layer: LayerParameter, image: Shape | None, batch: int | None) -> list[Shape] | None:
    """C3D's videos with a truth for each voxel; how long they are is in their files: 16 frames where it is guessed."""
    param, size = layer.image_data_param, layer.transform_param.crop_size
    if image is None or not (batch or param.batch_size):
        return None
    volume = (16, size or image[1], size or image[2])
    items = batch or param.batch_size
    shapes: list[Shape] = [(items, 3, *volume), (items, param.num_truth_channels, *volume)]
    return shapes[: len(layer.top)]


def _clip_shapes(layer: LayerParameter, image: Shape | None, batch: int | None) -> list[Shape] | None:
    old, param = clip_settings(layer)
    batch = batch or param.batch_size or (1 if image else 0)
    crop = param.crop_size if old else layer.transform_param.crop_size
    height, width = crop or param.new_height, crop or param.new_width
    if image is not None:
        height, width = height or image[1], width or image[2]
    if not (height and width and param.new_length and batch):
        return None
    labels: Shape = (batch, 1, 1, 1, 1) if old else (batch,)
    if not old and param.use_multiple_label:
        labels = (batch, param.num_of_labels)
    return [(batch, 3, param.new_length, height, width), labels][: len(layer.top)]


# ---- ImageGtData, MS-CNN's


def check_ground_truth(param: ImageGtDataParameter, tops: int) -> int:
    """The number of label maps, where the settings and the number of tops agree.

    Raises:
        InputError: they do not, or something is missing.
    """
    maps = len(param.downsample_rate)
    if not param.batch_size:
        raise InputError("image_gt_data_param.batch_size: give 1 or more")
    if not maps or len(param.field_h) != maps or len(param.field_w) != maps:
        raise InputError(
            f"image_gt_data_param: {maps} downsample_rate, {len(param.field_h)} field_h and {len(param.field_w)} "
            "field_w: give one of each for each label map"
        )
    if min(param.downsample_rate) < 1:
        raise InputError("image_gt_data_param: downsample_rate must be above 0")
    if param.coord_num != 4:
        raise InputError("image_gt_data_param: coord_num must be 4")
    wanted = 1 + maps + param.output_gt_boxes
    if tops != wanted:
        raise InputError(f"ImageGtData makes {wanted} tops with these settings, not {tops}")
    if param.do_multiple_scale and param.HasField("min_scale") and param.HasField("max_scale"):
        if not 0 < param.min_scale <= param.max_scale:
            raise InputError("image_gt_data_param: min_scale must be above 0 and at most max_scale")
        if param.HasField("min_whaspect") and param.HasField("max_whaspect") and aspects(param) < 1:
            raise InputError("image_gt_data_param: max_whaspect must be above min_whaspect by 0.05 or more")
    return maps


def ground_truth_size(param: ImageGtDataParameter, last: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images' top; `last` are those of the list's last image, where no setting tells them.

    Raises:
        InputError: a crop that is larger than the image.
    """
    height, width = (param.resize_height, param.resize_width) if resizes(param) else last
    if param.HasField("crop_width") and param.HasField("crop_height"):
        if param.crop_width > width or param.crop_height > height:
            raise InputError(
                f"image_gt_data_param: crop {param.crop_height}×{param.crop_width} (height × width) is larger than "
                f"the image, {height}×{width}"
            )
        height, width = param.crop_height or height, param.crop_width or width
    return height, width


def _ground_truth_shapes(layer: LayerParameter, image: Shape | None, batch: int) -> list[Shape] | None:
    param = layer.image_gt_data_param
    check_ground_truth(param, len(layer.top))
    size = _ground_truth_told(param)
    if size is None and image is not None:
        size = image[1], image[2]
    if size is None:
        return None
    shapes = ground_truth_shapes(param, size)
    return [(batch, *shape[1:]) if shape[0] == param.batch_size else shape for shape in shapes]


def _ground_truth_told(param: ImageGtDataParameter) -> tuple[int, int] | None:
    """Height and width of the images' top, where the settings alone tell them.

    Raises:
        InputError: as `ground_truth_size`.
    """
    if resizes(param):
        return ground_truth_size(param, (0, 0))
    cropped = param.crop_height, param.crop_width
    return cropped if all(cropped) else None


def ground_truth_shapes(param: ImageGtDataParameter, size: tuple[int, int]) -> list[Shape]:
    """The tops' shapes for images of `size`; as many boxes as there are in a batch come with it: 1 until then.

    Raises:
        InputError: a size that a downsample_rate does not fit: the fork counts its places in two ways.
    """
    shapes: list[Shape] = [(param.batch_size, 3, *size)]
    for rate in param.downsample_rate:
        places = tuple(n // rate for n in size)
        if places != tuple(math.floor(n / rate + 0.5) for n in size) or not all(places):
            raise InputError(
                f"image_gt_data_param: images of {size[0]}×{size[1]} (height × width) do not fit downsample_rate "
                f"{rate}: crop them to multiples of it"
            )
        shapes.append((param.batch_size, GROUND_TRUTH_CHANNELS, *places))
    return shapes + [(1, 7, 1, 1)] * param.output_gt_boxes


def resizes(param: ImageGtDataParameter) -> bool:
    """Whether images are resized before all else."""
    return param.HasField("resize_width") and param.HasField("resize_height")


def aspects(param: ImageGtDataParameter) -> int:
    """How many aspect ratios there are to draw from."""
    return math.floor((param.max_whaspect - param.min_whaspect) / ASPECT_STEP + 0.5)
