"""What recurrent layers become."""

import math
from collections.abc import Sequence

from port.translate.ops import Expression, Slot, learned, translates
from prototxt.errors import InputError
from prototxt.layers.declare import Shape
from prototxt.layers.recurrent import in_rows
from prototxt.plan import LayerPlan


@translates("LSTM", "RNN")
def _recurrent(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, states = layer.param.recurrent_param, {"LSTM": 2, "RNN": 1}[layer.type]
    exposed = states if param.expose_hidden else 0
    static = len(shapes) > 2 + exposed
    slots = [Slot("inputs", math.prod(shapes[0][2:])), Slot("outputs", param.num_output)]
    if static:
        slots.append(Slot("static", math.prod(shapes[2][1:]), "static"))
    names = ["input.weight", "input.bias", *(["static.weight"] if static else []), "hidden.weight"]
    if layer.type == "RNN":
        # Caffe's order: W_hh, then W_ho and b_o.
        names += ["output.weight", "output.bias"]
    module = learned(layer, layer.type, slots, names)
    if not exposed:
        return Expression(f"{{m}}({{0}}, {{1}}{', {2}' if static else ''})", module)
    first = 2 + static
    given = ", ".join(f"{{{i}}}" for i in range(first, first + states))
    return Expression(f"{{m}}.steps({{0}}, {{1}}, {given}{', {2}' if static else ''})", module)


@translates("LSTMUnit")
def _lstm_unit(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("lstm_unit({0}, {1}, {2})")


@translates("Lstm")
def _published_lstm(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    """caffe-lstm's and CTPN's: the same cell; without markers each call is a sequence of its own."""
    param = layer.param.lstm_param
    if in_rows(layer.param, shapes[0]):
        raise InputError("Lstm over rows, with batch_size, has no counterpart here")
    if layer.param.phase == 0 and param.clipping_threshold > 0:
        raise InputError("Lstm that clips its gradients has no counterpart here: set clipping_threshold: 0")
    slots = [Slot("inputs", math.prod(shapes[0][2:])), Slot("outputs", param.num_output)]
    names = ["input.weight", "hidden.weight", "input.bias"]
    module = learned(layer, "LSTM", slots, names)
    cont = "{1}.reshape({0}.shape[:2])" if len(shapes) > 1 else "one_sequence({0})"
    return Expression(f"{{m}}({{0}}, {cont})", module)
