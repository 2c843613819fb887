"""Mean fields of fully connected CRFs: DeepLab's and PSPNet's DenseCRF, CRF-RNN's MultiStageMeanfield."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, Weight, layer_type, legacy_shape, text


@layer_type("DenseCRF", bottoms=(2, 3))
def dense_crf(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottoms: scores, each image's height and width, and the images (BGR) where there are bilateral kernels."""
    param, (scores, sizes, *images) = layer.dense_crf_param, map(legacy_shape, shapes)
    if layer.HasField("densecrf_param"):
        raise InputError("densecrf_param, CCNN's, is not supported: give dense_crf_param")
    if param.max_iter < 0:
        raise InputError("dense_crf_param: max_iter must be at least 0")
    if len(param.pos_w) != len(param.pos_xy_std):
        raise InputError("dense_crf_param: give as many pos_w as pos_xy_std")
    if not len(param.bi_w) == len(param.bi_xy_std) == len(param.bi_rgb_std):
        raise InputError("dense_crf_param: give as many bi_w as bi_xy_std and bi_rgb_std")
    if min([*param.pos_xy_std, *param.bi_xy_std, *param.bi_rgb_std], default=1) <= 0:
        raise InputError("dense_crf_param: standard deviations must be above 0")
    if bool(images) != bool(param.bi_w):
        raise InputError("DenseCRF takes the images as a third bottom where bi_w is given, and only there")
    if sizes[0] != scores[0] or sizes[1] * sizes[2] * sizes[3] < 2:
        raise InputError(
            f"the second bottom {text(shapes[1])} must hold height and width of {scores[0]} images"
        )
    if images and images[0] != (scores[0], 3, *scores[2:]):
        raise InputError(f"the images {text(shapes[2])} must be {scores[0]}×3×{scores[2]}×{scores[3]}")
    return Declared([scores])


def counted_size(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of what counts of a map: all, or the image's own where the map was padded.

    Raises:
        InputError: an image that is larger than the map one way and smaller the other.
    """
    if rows >= height and columns >= width:
        return height, width
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise InputError(f"an image of {rows}×{columns} does not fit into a map of {height}×{width}")
    return rows, columns


@layer_type("MultiStageMeanfield", bottoms=(3, 3), weight_names=("spatial", "bilateral", "compatibility"))
def multi_stage_meanfield(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottoms: the unary terms, what the first softmax is of, the images (RGB). Weights: (1, 1, classes, classes)."""
    param, (unary, first, images) = layer.multi_stage_meanfield_param, map(legacy_shape, shapes)
    if param.num_iterations < 2:
        raise InputError("multi_stage_meanfield_param: num_iterations must be at least 2")
    if min(param.theta_alpha, param.theta_beta, param.theta_gamma) <= 0:
        raise InputError(
            "multi_stage_meanfield_param: theta_alpha, theta_beta and theta_gamma must be above 0"
        )
    if first != unary:
        raise InputError(f"the bottoms {text(shapes[0])} and {text(shapes[1])} must have one shape")
    if images != (unary[0], 3, *unary[2:]):
        raise InputError(f"the images {text(shapes[2])} must be {unary[0]}×3×{unary[2]}×{unary[3]}")
    return Declared([unary], [Weight((1, 1, unary[1], unary[1]))] * 3)
