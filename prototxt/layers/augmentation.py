"""FlowNet2's augmentation of images and flow, as far as nothing is drawn: in TEST its layers crop and centre.

What is drawn (in TRAIN, or with `augment_during_test`) is not supported: `drawn` names it.
"""

import math

from prototxt.caffe_pb2 import TRAIN, AugmentationParameter, LayerParameter, RandomGeneratorParameter
from prototxt.errors import InputError
from prototxt.layers.declare import (
    Declared,
    Shape,
    Shapes,
    Weight,
    layer_type,
    legacy_shape,
    refuse_in_place,
    text,
)

SPATIAL = ("mirror", "dx", "dy", "angle", "zoom_x", "zoom_y")
CHROMATIC = ("gamma", "brightness", "contrast", "color1", "color2", "color3")
_EIGEN = (
    *(
        f"{step}_{mean}{i}"
        for mean in ("nomean", "withmean")
        for step in ("pow", "add", "mult")
        for i in range(3)
    ),
    *("lmult_pow", "lmult_add", "lmult_mult", "col_angle"),
)
_EFFECTS = (
    *("fog_amount", "fog_size", "motion_blur_angle", "motion_blur_size"),
    *("shadow_angle", "shadow_distance", "shadow_strength", "noise"),
)
COEFFICIENTS: tuple[str, ...] = (*SPATIAL, *CHROMATIC, *_EIGEN, *_EFFECTS)
"""What a row of augmentation parameters holds, in this order: 42 numbers. Those of `FACTORS` are logarithms."""

FACTORS: frozenset[str] = frozenset(
    name
    for name in COEFFICIENTS
    if name.startswith(("zoom", "gamma", "contrast", "color", "pow", "mult", "lmult_pow", "lmult_mult"))
)
"""Coefficients whose neutral value is 1; the others' is 0."""


def crops(param: AugmentationParameter) -> bool:
    """Whether DataAugmentation transforms at all: both sizes of the crop must be given."""
    return param.HasField("crop_width") and param.HasField("crop_height")


def drawn(layer: LayerParameter) -> list[str]:
    """The settings by which the layer would draw augmentations, none where it draws none."""
    param = layer.augmentation_param
    given = layer.type == "DataAugmentation" and (len(layer.bottom) > 1 or not crops(param))
    if given or not (layer.phase == TRAIN or param.augment_during_test):
        return []
    kind = RandomGeneratorParameter.DESCRIPTOR
    return [field.name for field, _ in param.ListFields() if field.message_type is kind]


@layer_type(
    "DataAugmentation",
    bottoms=(1, 2),
    tops=(1, 2),
    ends_gradient=True,
    needs_values=True,
    weight_names=("passes", "mean", "channel_mean"),
)
def data_augmentation(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottom 1: parameters, one row of 42 for each image. Top 1: those that were used.

    Weights: the number of passes and, with `recompute_mean`, the running mean image and each channel's mean.
    """
    param = layer.augmentation_param
    num, channels, *sizes = legacy_shape(shapes[0])
    crop = [param.crop_height, param.crop_width] if crops(param) else sizes
    if crops(param):
        refuse_in_place(layer)
        if min(crop) < 1 or any(part > size for part, size in zip(crop, sizes, strict=True)):
            raise InputError(
                f"augmentation_param: a crop of {text(tuple(crop))} must be at least 1 and fit into {text(shapes[0])}"
            )
        if min(sizes) < 2:
            raise InputError(f"DataAugmentation crops images of at least 2×2, not {text(shapes[0])}")
    rows = shapes[1] if len(shapes) > 1 else (num, len(COEFFICIENTS), 1, 1)
    _check_rows(rows, num)
    if _subtracts_given(param) and channels > len(param.mean):
        raise InputError(f"augmentation_param: mean has {len(param.mean)} values for {channels} channels")
    weights: list[Shape] = [(1, 1, 1, 1)]
    if param.recompute_mean:
        weights += [(1, channels, crop[0], crop[1]), (1, channels, 1, 1)]
    # The layer adds a multiplier of 0 for each weight behind those that the prototxt gives.
    given = len(layer.param)
    fixed = [() if i < given else ("lr_mult", "decay_mult") for i in range(len(weights))]
    return Declared(
        [(num, channels, crop[0], crop[1]), rows][:tops],
        [Weight(shape, fixed=names) for shape, names in zip(weights, fixed, strict=True)],
    )


def _subtracts_given(param: AugmentationParameter) -> bool:
    return not param.recompute_mean and len(param.mean) == 3 and not param.mean_per_pixel


@layer_type("GenerateAugmentationParameters", bottoms=(1, 3), ends_gradient=True, needs_values=True)
def generate_parameters(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottom 0: parameters to start from, or images to count. Bottoms 1 and 2: the images, before and after."""
    param, (num, _, *sizes) = layer.augmentation_param, legacy_shape(shapes[0])
    refuse_in_place(layer)
    if len(shapes) == 2:
        raise InputError("GenerateAugmentationParameters takes 1 or 3 bottoms, not 2")
    if len(shapes) == 1 and not crops(param):
        raise InputError("augmentation_param: give crop_width and crop_height, or three bottoms")
    if len(shapes) == 1 and max(sizes) < 2 and not (param.bottomwidth and param.bottomheight):
        raise InputError("augmentation_param: give bottomwidth and bottomheight, or images as bottom 0")
    if num < 1:
        raise InputError("GenerateAugmentationParameters needs at least one image")
    if keeps_given(layer, shapes[0]):
        _check_rows(shapes[0], num)
    return Declared([(num, len(COEFFICIENTS), 1, 1)])


def keeps_given(layer: LayerParameter, first: Shape) -> bool:
    """Whether GenerateAugmentationParameters starts from what bottom 0 holds, and not from nothing."""
    alone = len(layer.bottom) == 1 and max(legacy_shape(first)[2:]) > 1
    return not alone and layer.augmentation_param.mode in ("add", "replace")


@layer_type("FlowAugmentation", bottoms=(3, 3), ends_gradient=True, needs_values=True)
def flow_augmentation(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """A flow (num, 2, height, width) and the parameters of image 0 and of image 1."""
    param, (num, channels, *_) = layer.augmentation_param, legacy_shape(shapes[0])
    refuse_in_place(layer)
    if min(param.crop_width, param.crop_height) < 1:
        raise InputError("augmentation_param: give crop_width and crop_height")
    if channels != 2:
        raise InputError(f"the flow {text(shapes[0])} must have 2 channels, x and y")
    for rows in shapes[1:]:
        _check_rows(rows, num)
    return Declared([(num, 2, param.crop_height, param.crop_width)])


def _check_rows(rows: Shape, num: int) -> None:
    if math.prod(rows) < num * len(COEFFICIENTS):
        raise InputError(
            f"augmentation parameters of shape {text(rows)}: give {len(COEFFICIENTS)} for each of {num} images"
        )
