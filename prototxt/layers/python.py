"""The Python layer. What a script's class makes is known once it was set up; the built-in ones are declared."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.layers.declare import MANY, Declare, Declared, Shapes, layer_type
from prototxt.layers.erasing import erasing

BUILT_IN: dict[tuple[str, str], Declare] = {
    ("crelu_layer", "CReLULayer"): erasing,
    ("scan_background_layer", "BackgroundMaskLayer"): erasing,
}
"""(module, layer) → its declaration."""


@layer_type("Python", bottoms=(0, MANY), tops=(0, MANY), reads_bottoms=True, reads_tops=True)
def python(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared | None:
    built_in = BUILT_IN.get((layer.python_param.module, layer.python_param.layer))
    return built_in(layer, shapes, tops) if built_in else None
