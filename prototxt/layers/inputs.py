"""Layers without bottoms that read no file."""

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, Weight, layer_type, text


@layer_type("Input", bottoms=(0, 0), tops=(1, MANY))
def input_(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """A blob that the prototxt gives no shape has no values until the caller reshapes it."""
    given = layer.input_param.shape
    if len(given) not in (0, 1, tops):
        raise InputError(f"input_param has {len(given)} shapes for {tops} tops: give 0, 1 or one for each")
    if not given:
        return Declared([(0,)] * tops)
    return Declared([tuple(given[i if len(given) > 1 else 0].dim) for i in range(tops)])


@layer_type("Parameter", bottoms=(0, 0))
def parameter(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    shape = tuple(layer.parameter_param.shape.dim)
    return Declared([shape], [Weight(shape)])


@layer_type("DummyData", bottoms=(0, 0), tops=(1, MANY))
def dummy_data(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param = layer.dummy_data_param
    if len(param.data_filler) not in (0, 1, tops):
        raise InputError(
            f"dummy_data_param: {len(param.data_filler)} data_filler for {tops} tops: give none, one, or one for each"
        )
    older = (param.num, param.channels, param.height, param.width)
    given = older if any(older) else (param.shape,)
    if (any(older) and param.shape) or any(len(each) not in (1, tops) for each in given):
        raise InputError(
            f"dummy_data_param: give shape, or num, channels, height and width, 1 or {tops} of each"
        )
    if any(older):
        shapes = [tuple(each[i if len(each) > 1 else 0] for each in older) for i in range(tops)]
    else:
        shapes = [tuple(param.shape[i if len(param.shape) > 1 else 0].dim) for i in range(tops)]
    if any(0 in shape for shape in shapes):
        raise InputError(f"dummy_data_param: a top of shape {', '.join(map(text, shapes))} holds no values")
    return Declared(shapes)


def dummy_fillers(layer: LayerParameter, tops: int) -> list[FillerParameter]:
    """One filler for each of DummyData's tops. A `constant` fills once, at set-up; others fill in every pass."""
    fillers = list(layer.dummy_data_param.data_filler) or [FillerParameter()]
    return fillers * tops if len(fillers) == 1 else fillers
