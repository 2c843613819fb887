"""AutoCrop's offset: where two maps lie over one another, from the layers between them and a blob that both come from.

HED's, FCN's and DSS's Crop finds it so (crop_layer.cpp of the Caffe before BVLC's own Crop). A blob's positions are
related to those of the layer's first bottom by a scale and a shift, exactly, in fractions.
"""

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


_SAME: Map = [(Fraction(1), Fraction(0))] * 2
_MOST_SCALE = 1 << 31


class Positions:
    """Where each blob of a net lies over the blob that it comes from, bottom by first bottom, as layers are added."""

    def __init__(self) -> None:
        self._from: dict[str, tuple[str, Map]] = {}

    def add(self, layer: LayerParameter) -> None:
        """Take note of what a layer makes. An AutoCrop is aligned first."""
        step = _step_or_none(layer)
        for top in layer.top:
            source, down = self._of(layer.bottom[0]) if step else (top, _SAME)
            down = _compose(step, down) if step else _SAME
            if any(not 1 / _MOST_SCALE <= scale <= _MOST_SCALE for scale, _ in down):
                source, down = top, _SAME
            self._from.setdefault(top, (source, down))

    def align(self, layer: LayerParameter) -> None:
        """Give an AutoCrop its offset, as settings of a Crop, from the layers before it.

        Raises:
            InputError: maps that do not come from one blob, or differ in scale, or do not cover one another.
        """
        layer.crop_param.axis = 2
        layer.crop_param.ClearField("offset")
        layer.crop_param.offset.extend(self._offset(layer))

    def _of(self, blob: str) -> tuple[str, Map]:
        return self._from.get(blob, (blob, _SAME))

    def _offset(self, layer: LayerParameter) -> list[int]:
        if len(layer.bottom) != 2:
            raise InputError(f"AutoCrop takes 2 bottom blobs, not {len(layer.bottom)}")
        (first, to_first), (second, to_second) = map(self._of, layer.bottom)
        if first != second:
            raise InputError(
                f'"{layer.bottom[0]}" and "{layer.bottom[1]}" come from no common blob by layers that keep positions: '
                "use Crop with an offset"
            )
        found = _compose(to_second, _inverse(to_first))
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


def _step_or_none(layer: LayerParameter) -> Map | None:
    """As `_step`; None too for a layer of other axes, and for one that its own set-up refuses."""
    if not layer.bottom or layer.bottom[0] in layer.top:
        return None
    try:
        return _step(layer)
    except InputError:
        return None


def _step(layer: LayerParameter) -> Map | None:
    """The map from the positions of a layer's first bottom to its top's; None where there is none."""
    if layer.type in SAME_PLACES:
        return _SAME
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
