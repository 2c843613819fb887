"""The Python layer. What a script's class makes is known once it was set up; the built-in ones are declared."""

import contextlib
from collections.abc import Iterator

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declare, Declared, Shapes, layer_type
from prototxt.layers.erasing import background_mask, crelu

BUILT_IN: dict[tuple[str, str], Declare] = {
    ("crelu_layer", "CReLULayer"): crelu,
    ("scan_background_layer", "BackgroundMaskLayer"): background_mask,
}
"""(module, layer) → its declaration."""


@layer_type("Python", bottoms=(0, MANY), tops=(0, MANY), reads_bottoms=True, reads_tops=True)
def python(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared | None:
    built_in = BUILT_IN.get((layer.python_param.module, layer.python_param.layer))
    if built_in is None:
        return None
    with saying_built_in(layer):
        return built_in(layer, shapes, tops)


@contextlib.contextmanager
def saying_built_in(layer: LayerParameter) -> Iterator[None]:
    """Let an InputError raised inside say that the layer is built in: another project's may have its name."""
    try:
        yield
    except InputError as error:
        name = layer.python_param.module
        raise InputError(
            f"{error} (this is the built-in {name}.{layer.python_param.layer}; --allow-module {name}, or "
            "allow_modules= in Python, takes your own)"
        ) from error
