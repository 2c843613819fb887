"""Interp, bilinear resizing of the DeepLab line of forks."""

from collections.abc import Sequence

from prototxt.caffe_pb2 import InterpParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, refuse_in_place


@layer_type("Interp")
def interp(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    refuse_in_place(layer)
    param = layer.interp_param
    if param.pad_beg > 0 or param.pad_end > 0:
        raise InputError("interp_param: pad_beg and pad_end only crop: give 0 or less")
    num, channels, *sizes = legacy_shape(shapes[0])
    cropped = cropped_sizes(param, sizes)
    out = interp_sizes(param, cropped)
    # What each place gives to each of the top's, row by row and column by column, and what it is made of.
    scratch = [(4, *pair) for pair in zip(out, cropped, strict=True)]
    return Declared([(num, channels, *out)], scratch=scratch)


def cropped_sizes(param: InterpParameter, sizes: Sequence[int]) -> tuple[int, ...]:
    """What is left of height and width after the crop.

    Raises:
        InputError: nothing.
    """
    cropped = tuple(size + param.pad_beg + param.pad_end for size in sizes)
    if min(cropped) < 1:
        raise InputError(f"interp_param: nothing is left of {tuple(sizes)} after cropping")
    return cropped


def interp_sizes(param: InterpParameter, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The top's height and width: one factor goes before both sizes, and those before both factors.

    Raises:
        InputError: none of these, or one below 1.
    """
    shrink, zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
    if shrink == zoom and param.HasField("height") and param.HasField("width"):
        if min(param.height, param.width) < 1:
            raise InputError("interp_param: height and width must be at least 1")
        return (param.height, param.width)
    if not shrink and not zoom:
        raise InputError("interp_param: give height and width, zoom_factor or shrink_factor")
    if min(param.shrink_factor, param.zoom_factor) < 1:  # what is not given is 1
        raise InputError("interp_param: shrink_factor and zoom_factor must be at least 1")
    return tuple((size - 1) // param.shrink_factor * param.zoom_factor + 1 for size in sizes)
