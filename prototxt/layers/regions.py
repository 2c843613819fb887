"""Layers of the R-CNN family that read a map at regions: rows [image, x1, y1, x2, y2] in pixels of the input.

ROIPooling and PSROIPooling are intel/caffe's, which has CPU code for what rbgirshick/caffe-fast-rcnn and
daijifeng001/caffe-rfcn compute, with zhaoweicai/mscnn's pad_ratio; ROIWarping, MaskPooling and MaskResize
daijifeng001/caffe-mnc's; ROIAlign jasjeetIM/Mask-RCNN's, or zhaoweicai/mscnn's; Proposal has py-faster-rcnn's rule.
"""

import math

from prototxt.caffe_pb2 import LayerParameter, ProposalParameter, ROIPoolingParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import (
    Declared,
    Shape,
    Shapes,
    layer_type,
    legacy_shape,
    refuse_other_fields,
    text,
)


def _regions(shape: Shape) -> int:
    """How many regions a blob of rows holds.

    Raises:
        InputError: rows of other than 5 numbers.
    """
    if not shape or math.prod(shape[1:]) != 5:
        raise InputError(f"the regions must be (rows, 5), [image, x1, y1, x2, y2], not {text(shape)}")
    return shape[0]


def pooled_sizes(param: ROIPoolingParameter) -> tuple[int, int]:
    """Height and width of what is made of a region. Intel's may give them as pooled_size, one for both or each.

    Raises:
        InputError: none given, or 0.
    """
    sizes = list(param.pooled_size) or [param.pooled_h, param.pooled_w]
    if len(sizes) > 2:
        raise InputError(f"roi_pooling_param: {len(sizes)} pooled_size: give 1 or 2")
    return check_sizes("roi_pooling_param", sizes[0], sizes[-1])


def _check_scale(where: str, scale: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"{where}: spatial_scale {scale} is not a number")


def check_sizes(where: str, height: int, width: int) -> tuple[int, int]:
    """Both, where they are above 0; else raises InputError."""
    if min(height, width) < 1:
        raise InputError(f"{where}: give pooled_h and pooled_w, both above 0")
    return height, width


def _check_places(layer: LayerParameter, shape: Shape) -> None:
    """Raises InputError for a map without rows or columns, between whose places nothing lies."""
    if 0 in legacy_shape(shape)[2:]:
        raise InputError(f"{layer.type} needs a map with rows and columns, not {text(shape)}")


@layer_type("ROIPooling", bottoms=(2, 2))
def roi_pooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.roi_pooling_param
    obeyed = ("pooled_h", "pooled_w", "spatial_scale", "pooled_size", "pad_ratio")
    refuse_other_fields("roi_pooling_param", param, *obeyed)
    _check_scale("roi_pooling_param", param.spatial_scale)
    if len(shapes[0]) != 4:
        raise InputError(f"ROIPooling needs a map (num, channels, height, width), not {text(shapes[0])}")
    return Declared([(_regions(shapes[1]), shapes[0][1], *pooled_sizes(param))])


@layer_type("PSROIPooling", bottoms=(2, 2))
def psroi_pooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.psroi_pooling_param
    if not param.HasField("spatial_scale"):
        raise InputError("psroi_pooling_param: give spatial_scale")
    _check_scale("psroi_pooling_param", param.spatial_scale)
    dim, group = param.output_dim, param.group_size
    if dim < 1 or group < 1:
        raise InputError("psroi_pooling_param: give output_dim and group_size, both above 0")
    channels = legacy_shape(shapes[0])[1]
    if channels != dim * group**2:
        raise InputError(
            f"psroi_pooling_param: output_dim {dim} and group_size {group} need a map with {dim * group**2} "
            f"channels, not {channels}"
        )
    return Declared([(_regions(shapes[1]), dim, group, group)])


@layer_type("ROIAlign", bottoms=(2, 2))
def roi_align(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Mask R-CNN's, or MS-CNN's, with ROIPooling's settings: it reads bins' corners, one more than there are bins."""
    shape = _regions(shapes[1]), legacy_shape(shapes[0])[1]
    if meaning(layer) == "Mask R-CNN":
        param = layer.roi_align_param
        _check_scale("roi_align_param", param.spatial_scale)
        return Declared([(*shape, *check_sizes("roi_align_param", param.pooled_h, param.pooled_w))])
    pooling = layer.roi_pooling_param
    refuse_other_fields("roi_pooling_param", pooling, "pooled_h", "pooled_w", "spatial_scale", "pad_ratio")
    _check_scale("roi_pooling_param", pooling.spatial_scale)
    _check_places(layer, shapes[0])
    height, width = pooled_sizes(pooling)
    return Declared([(*shape, height + 1, width + 1)])


@layer_type("ROIWarping", bottoms=(2, 2))
def roi_warping(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.roi_warping_param
    _check_scale("roi_warping_param", param.spatial_scale)
    _check_places(layer, shapes[0])
    sizes = check_sizes("roi_warping_param", param.pooled_h, param.pooled_w)
    return Declared([(_regions(shapes[1]), legacy_shape(shapes[0])[1], *sizes)])


@layer_type("MaskPooling", bottoms=(2, 2), reads_bottoms=True)
def mask_pooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    features, masks = map(legacy_shape, shapes)
    if (features[0], *features[2:]) != (masks[0], *masks[2:]) or masks[1] != 1:
        raise InputError(
            f"the masks {text(shapes[1])} must be (num, 1, height, width) of the map {text(shapes[0])}"
        )
    return Declared([features])


@layer_type("MaskResize", needs_values=True)
def mask_resize(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.mask_resize_param
    if min(param.output_height, param.output_width) < 1:
        raise InputError("mask_resize_param: give output_height and output_width, both above 0")
    return Declared([(*legacy_shape(shapes[0])[:2], param.output_height, param.output_width)])


@layer_type("Proposal", bottoms=(3, 3), tops=(1, 2))
def proposal(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The bottoms are scores (1, 2 for each anchor, …), shifts (1, 4 for each, …), and [height, width, scale].

    How many regions are proposed is known in a forward pass; until then the tops have one row, as in the original.
    """
    count = len(anchors(layer.proposal_param))
    scores, shifts = map(legacy_shape, shapes[:2])
    if scores[0] != 1:
        raise InputError(f"Proposal works on one image at a time, not {scores[0]}")
    if scores[1] != 2 * count or shifts != (1, 4 * count, *scores[2:]):
        raise InputError(
            f"for {count} anchors the scores must be (1, {2 * count}, height, width) and the shifts (1, "
            f"{4 * count}, height, width), not {text(shapes[0])} and {text(shapes[1])}"
        )
    if math.prod(shapes[2]) < 3:
        raise InputError(
            f"the third bottom must hold the image's height, width and scale, not {text(shapes[2])}"
        )
    return Declared([(1, 5), (1, 1, 1, 1)][:tops])


def anchors(param: ProposalParameter) -> list[tuple[float, float, float, float]]:
    """Corners of the boxes at the map's first place: for each ratio (height over width), for each scale.

    Without any: ratios 0.5, 1, 2 and scales 8, 16, 32. A ratio's sides are rounded, half to even, before they are
    scaled.

    Raises:
        InputError: a ratio or a scale that is not above 0.
    """
    ratios, scales = list(param.ratio) or [0.5, 1, 2], list(param.scale) or [8, 16, 32]
    if not all(0 < value < math.inf for value in (*ratios, *scales)):
        raise InputError("proposal_param: ratio and scale must be above 0, and numbers")
    centre = 0.5 * (param.base_size - 1)
    found = []
    for ratio in ratios:
        width = round(math.sqrt(param.base_size**2 / ratio))
        height = round(width * ratio)
        for scale in scales:
            x, y = 0.5 * (width * scale - 1), 0.5 * (height * scale - 1)
            found.append((centre - x, centre - y, centre + x, centre + y))
    return found
