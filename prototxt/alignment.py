"""AutoCrop's offset: where two maps lie over one another, from the layers between them and a blob that both come from.

HED's, FCN's and DSS's Crop finds it so (crop_layer.cpp of the Caffe before BVLC's own Crop). A blob's positions are
related to those of the layer's first bottom by a scale and a shift, exactly, in fractions.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.windows import Window, convolution_window, pooling_window

Map = list[tuple[Fraction, Fraction]]
"""For height and width (scale, shift): position i below is i · scale + shift above."""

SAME_PLACES = frozenset(
    {
        *(
            "AbsVal",
            "BatchNorm",
            "Bias",
            "BN",
            "BNLL",
            "Clip",
            "Concat",
            "Dropout",
            "Eltwise",
            "ELU",
            "Exp",
            "Log",
        ),
        *(
            "LRN",
            "MVN",
            "Power",
            "PReLU",
            "ReLU",
            "ReLU6",
            "Scale",
            "Sigmoid",
            "Slice",
            "Softmax",
            "Split",
            "Swish",
        ),
        *("TanH", "Threshold"),
    }
)
"""Layer types whose tops have their bottoms' positions."""


def align(layer: LayerParameter, earlier: Sequence[LayerParameter]) -> None:
    """Give an AutoCrop its offset, as settings of a Crop, from the layers before it.

    Raises:
        InputError: maps that do not come from one blob, or differ in scale, or do not cover one another.
    """
    layer.crop_param.axis = 2
    layer.crop_param.ClearField("offset")
    layer.crop_param.offset.extend(_offset(layer, earlier))


def _offset(layer: LayerParameter, earlier: Sequence[LayerParameter]) -> list[int]:
    if len(layer.bottom) != 2:
        raise InputError(f"AutoCrop takes 2 bottom blobs, not {len(layer.bottom)}")
    producers: dict[str, LayerParameter] = {}
    for before in earlier:
        for top in before.top:
            producers.setdefault(top, before)
    first = dict(_path(layer.bottom[0], producers))
    for blob, down in _path(layer.bottom[1], producers):
        if blob in first:
            found = _compose(down, _inverse(first[blob]))
            if any(scale != 1 for scale, _ in found):
                raise InputError(
                    f'"{layer.bottom[0]}" and "{layer.bottom[1]}" differ in scale: they cannot be aligned'
                )
            offsets = [-shift for _, shift in found]
            if any(offset < 0 or offset.denominator != 1 for offset in offsets):
                shown = ", ".join(map(str, offsets))
                raise InputError(
                    f"the maps would be aligned by offsets of {shown}: whole numbers from 0 are possible"
                )
            return [int(offset) for offset in offsets]
    raise InputError(
        f'"{layer.bottom[0]}" and "{layer.bottom[1]}" come from no common blob by layers that keep positions: '
        "use Crop with an offset"
    )


def _path(blob: str, producers: dict[str, LayerParameter]) -> Iterator[tuple[str, Map]]:
    """The blob and, bottom by first bottom, those that it comes from, with the maps from their positions to its."""
    down: Map = [(Fraction(1), Fraction(0))] * 2
    while True:
        yield blob, down
        layer = producers.get(blob)
        if layer is None or not layer.bottom or layer.bottom[0] == blob:
            return
        step = _step(layer)
        if step is None:
            return
        blob, down = layer.bottom[0], _compose(down, step)


def _step(layer: LayerParameter) -> Map | None:
    """The map from the positions of a layer's first bottom to its top's; None where there is none."""
    if layer.type in SAME_PLACES:
        return [(Fraction(1), Fraction(0))] * 2
    if layer.type in ("Crop", "AutoCrop"):
        if layer.crop_param.axis != 2:
            return None
        offsets = [*(layer.crop_param.offset or [0]), *layer.crop_param.offset[:1], 0][:2]
        return [(Fraction(1), Fraction(-offset)) for offset in offsets]
    if layer.type in ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise"):
        return _inverse(_seen(convolution_window(layer.convolution_param, 2)))
    if layer.type == "Deconvolution":
        return _seen(convolution_window(layer.convolution_param, 2))
    if layer.type == "Pooling" and not layer.pooling_param.global_pooling:
        return _inverse(_seen(pooling_window(layer.pooling_param, 1, 1)))
    return None


def _seen(window: Window) -> Map:
    """From window i to the middle of what it covers."""
    return [
        (Fraction(stride), Fraction(extent - 1, 2) - pad)
        for stride, extent, pad in zip(window.stride, window.extent, window.pad, strict=True)
    ]


def _compose(after: Map, before: Map) -> Map:
    return [(a * c, a * d + b) for (a, b), (c, d) in zip(after, before, strict=True)]


def _inverse(down: Map) -> Map:
    return [(1 / scale, -shift / scale) for scale, shift in down]
