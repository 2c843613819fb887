"""Layers of the forks for segmentation: biases by label, accuracy, pooling over superpixels."""

import ctypes

from prototxt.caffe_pb2 import BiasChannelParameter, LayerParameter, SuperpixelPoolingParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, layer_type, legacy_shape, text


@layer_type("SegAccuracy", bottoms=(2, 2))
def seg_accuracy(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    scores, labels = map(legacy_shape, shapes)
    if labels != (scores[0], 1, *scores[2:]):
        raise InputError(f"the labels {text(shapes[1])} must be one map for each image of {text(shapes[0])}")
    if not scores[1]:
        raise InputError(f"the scores {text(shapes[0])} are of no class")
    return Declared([(1, 1, 1, 3)])


@layer_type("BiasChannel", bottoms=(2, 2))
def bias_channel(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (scores, labels) = layer.bias_channel_param, map(legacy_shape, shapes)
    if min(param.bg_bias, param.fg_bias) < 0:
        raise InputError("bias_channel_param: bg_bias and fg_bias must be at least 0")
    if not 0 <= param.background_label < scores[1]:
        raise InputError(
            f"bias_channel_param: background_label {param.background_label} is not among {scores[1]} classes"
        )
    if param.label_type == BiasChannelParameter.PIXEL:
        if labels != (scores[0], 1, *scores[2:]):
            raise InputError(
                f"PIXEL labels {text(shapes[1])} must be one map for each image of {text(shapes[0])}"
            )
    elif labels[0] != scores[0] or labels[2:] != (1, 1):
        raise InputError(f"IMAGE labels {text(shapes[1])} must be (num, labels, 1, 1) with num {scores[0]}")
    return Declared([scores])


@layer_type("AdaptiveBiasChannel", bottoms=(2, 2), needs_values=True)
def adaptive_bias_channel(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, (scores, labels) = layer.adaptive_bias_channel_param, map(legacy_shape, shapes)
    if param.num_iter < 1:
        raise InputError("adaptive_bias_channel_param: num_iter must be at least 1")
    if param.margin_others < 0:
        raise InputError("adaptive_bias_channel_param: margin_others must be at least 0")
    if scores[1] < 2 or labels[0] != scores[0] or labels[1] < 1 or labels[2:] != (1, 1):
        raise InputError(
            f"AdaptiveBiasChannel needs scores (num, 2 or more, height, width) and labels (num, labels, 1, 1), not "
            f"{text(shapes[0])} and {text(shapes[1])}"
        )
    places = scores[2] * scores[3]
    for name in ("bg_portion", "fg_portion"):
        # Caffe would read behind the map at 1.
        if not 0 <= quantile(getattr(param, name), places) < places:
            raise InputError(f"adaptive_bias_channel_param: {name} must be at least 0 and below 1")
    return Declared([scores])


def quantile(portion: float, places: int) -> int:
    """How many places of a map are a share of it, by a product in float32; -1 for what is no share."""
    return int(ctypes.c_float(portion * places).value) if 0 <= portion <= 1 else -1


@layer_type("SuperpixelPooling", bottoms=(4, 4), tops=(2, 2))
def superpixel_pooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """How many superpixels there are is known in a forward pass; until then it is one, as of zeros."""
    if layer.superpixel_pooling_param.pool_type != SuperpixelPoolingParameter.AVE:
        # MAX reads a null pointer in Caffe.
        raise InputError("superpixel_pooling_param: pool_type must be AVE")
    features = _superpixels(shapes)
    return Declared([(1, features[1], 1, 1), (1, 1, 1, 1)])


@layer_type("SuperpixelPoolingTest", bottoms=(2, 2))
def superpixel_pooling_test(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """As SuperpixelPooling. It does not read the `superpixel_pooling_test_param` that its schema has."""
    if layer.superpixel_pooling_param.pool_type == SuperpixelPoolingParameter.STOCHASTIC:
        raise InputError("superpixel_pooling_param: pool_type must be MAX or AVE")
    features = _superpixels(shapes)
    return Declared([(1, features[1], 1, 1)])


def _superpixels(shapes: Shapes) -> Shape:
    features, *maps = shapes
    if len(features) != 4 or features[0] != 1:
        raise InputError(f"the features must be one image (1, channels, height, width), not {text(features)}")
    if any(legacy_shape(each) != (1, 1, *features[2:]) for each in maps):
        raise InputError(f"the maps {', '.join(map(text, maps))} must be 1×1×{features[2]}×{features[3]}")
    return features
