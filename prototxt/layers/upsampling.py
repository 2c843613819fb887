"""Layers that make a map larger: by a pooling's places, or by repeating."""

from prototxt.caffe_pb2 import LayerParameter, UnpoolingParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import Declared, Shape, Shapes, layer_type, refuse_in_place, text
from prototxt.layers.windows import Window


@layer_type("Upsample", bottoms=(1, 2))
def upsample(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """SegNet's with two bottoms, x and the places of a MAX pooling; else nearest neighbour (MobileNet-YOLO)."""
    refuse_in_place(layer)
    shape = shapes[0]
    if len(shape) != 4:
        raise InputError(f"Upsample needs 4 axes (num, channels, height, width), not {text(shape)}")
    if meaning(layer) != "SegNet":
        scale = layer.upsample_param.scale if layer.upsample_param.HasField("scale") else 1
        if scale < 1:
            raise InputError(f"upsample_param: scale {scale} must be at least 1")
        return Declared([(*shape[:2], *(size * scale for size in shape[2:]))])
    if shapes[1] != shape:
        raise InputError(
            f"the places {text(shapes[1])} must have the shape of the first bottom {text(shape)}"
        )
    return Declared([(*shape[:2], *_upsampled(layer, shape))])


def _upsampled(layer: LayerParameter, shape: Shape) -> tuple[int, int]:
    """The height and width that SegNet's Upsample makes."""
    param = layer.upsample_param
    if param.HasField("upsample_h") and param.HasField("upsample_w"):
        if min(param.upsample_h, param.upsample_w) < 2:
            raise InputError("upsample_param: upsample_h and upsample_w must be at least 2")
        return param.upsample_h, param.upsample_w
    high, wide = param.HasField("scale_h"), param.HasField("scale_w")
    if high != wide or (high and param.HasField("scale")):
        raise InputError("upsample_param: give upsample_h and upsample_w, or scale, or scale_h and scale_w")
    default = param.scale if param.HasField("scale") else 2
    scales = (param.scale_h, param.scale_w) if high else (default, default)
    if min(scales) < 2:
        raise InputError("upsample_param: the scale must be at least 2")
    cut = (param.pad_out_h, param.pad_out_w)
    if any(less and scale != 2 for less, scale in zip(cut, scales, strict=True)):
        raise InputError("upsample_param: pad_out_h and pad_out_w go with a scale of 2 only")
    height, width = (n * scale - less for n, scale, less in zip(shape[2:], scales, cut, strict=True))
    return height, width


@layer_type("Unpooling", bottoms=(1, 2))
def unpooling(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """DeconvNet's: MAX by the places of bottom 1, or at each window's start; AVE and TILE over whole windows."""
    refuse_in_place(layer)
    param, shape = layer.unpooling_param, shapes[0]
    if len(shape) != 4:
        raise InputError(f"Unpooling needs 4 axes (num, channels, height, width), not {text(shape)}")
    if len(shapes) > 1 and shapes[1] != shape:
        raise InputError(
            f"the places {text(shapes[1])} must have the shape of the first bottom {text(shape)}"
        )
    window = unpooling_window(param)
    both = param.HasField("unpool_h") and param.HasField("unpool_w")
    if both == param.HasField("unpool_size") or param.HasField("unpool_h") != param.HasField("unpool_w"):
        raise InputError("unpooling_param: give unpool_size, or unpool_h and unpool_w")
    sizes = (param.unpool_h, param.unpool_w) if both else (param.unpool_size,) * 2
    if min(sizes) < 1:
        raise InputError("unpooling_param: the unpooled size must be at least 1")
    if param.unpool != UnpoolingParameter.MAX:
        starts = [(n - 1) * step for n, step in zip(shape[2:], window.stride, strict=True)]
        if any(start >= size for start, size in zip(starts, sizes, strict=True)):
            raise InputError(f"the last window begins at {tuple(starts)}, outside of a map of {text(sizes)}")
    return Declared([(*shape[:2], *sizes)])


def unpooling_window(param: UnpoolingParameter) -> Window:
    """Kernel and stride of Unpooling.

    Raises:
        InputError: no kernel, one that is given twice, or a pad, which DeconvNet's code refuses.
    """

    def pair(both: str, short: str) -> tuple[int, int]:
        high, wide = param.HasField(f"{short}_h"), param.HasField(f"{short}_w")
        if high != wide or (high and param.HasField(both)):
            raise InputError(f"unpooling_param: give {both}, or {short}_h and {short}_w, not a mix")
        return (
            (getattr(param, f"{short}_h"), getattr(param, f"{short}_w"))
            if high
            else (getattr(param, both),) * 2
        )

    kernel, stride, pad = pair("kernel_size", "kernel"), pair("stride", "stride"), pair("pad", "pad")
    if not all(kernel) or not all(stride):
        raise InputError("unpooling_param: kernel_size is missing, or a kernel or stride is 0")
    if any(pad):
        raise InputError("unpooling_param: pad must be 0")
    return Window(kernel, stride, pad, (1, 1))
