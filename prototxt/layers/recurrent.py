"""RNN, LSTM, and the LSTM's unit of one step (recurrent_layer.cpp)."""

import math

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shape, Shapes, Weight, layer_type, text


@layer_type("RNN", bottoms=(2, 4), tops=(1, 2), no_forced_gradient=(1,), reads_bottoms=True)
def rnn(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, size = layer.recurrent_param, layer.recurrent_param.num_output
    square = Weight((size, size), param.weight_filler)
    return _recurrent(layer, shapes, tops, 1, 1, [square, square, Weight((size,), param.bias_filler)])


@layer_type("LSTM", bottoms=(2, 5), tops=(1, 3), no_forced_gradient=(1,), reads_bottoms=True)
def lstm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    param, size = layer.recurrent_param, layer.recurrent_param.num_output
    return _recurrent(layer, shapes, tops, 2, 4, [Weight((4 * size, size), param.weight_filler)])


def _recurrent(
    layer: LayerParameter, shapes: Shapes, tops: int, states: int, gates: int, step: list[Weight]
) -> Declared:
    """A layer over (steps, streams, …) with `states` blobs of state and `gates` values a step for each output.

    Weights: for x (rows, size), a bias (rows), for a static input (rows, its size), then `step`'s own.
    """
    param, (x, cont, *rest) = layer.recurrent_param, shapes
    exposed = states if param.expose_hidden else 0
    static = len(rest) > exposed
    if not exposed <= len(rest) <= exposed + 1 or tops != 1 + exposed:
        raise InputError(
            f"{layer.type} {'with' if exposed else 'without'} expose_hidden takes {2 + exposed} bottoms "
            f"({3 + exposed} with a static input) and makes {1 + exposed} tops, not {len(shapes)} and {tops}"
        )
    if param.num_output < 1:
        raise InputError("recurrent_param: num_output must be at least 1")
    if len(x) < 3 or x[0] < 1:
        raise InputError(f"the first bottom must be (steps, streams, …), not {text(x)}")
    if cont != x[:2]:
        raise InputError(f"the sequence markers must be {text(x[:2])} (steps, streams), not {text(cont)}")
    rows = gates * param.num_output
    weights = [Weight((rows, math.prod(x[2:])), param.weight_filler), Weight((rows,), param.bias_filler)]
    if static:
        if len(rest[0]) < 2 or rest[0][0] != x[1]:
            raise InputError(f"the static input must be ({x[1]} streams, …), not {text(rest[0])}")
        weights.append(Weight((rows, math.prod(rest[0][1:])), param.weight_filler))
    state: Shape = (1, x[1], param.num_output)
    if any(given != state for given in rest[static:]):
        given = ", ".join(map(text, rest[static:]))
        raise InputError(
            f"each blob of the state must be {text(state)} (1, streams, num_output), not {given}"
        )
    # Caffe fills the layers of every step before they share the first one's weights.
    return Declared([(*x[:2], state[2])] + [state] * exposed, weights + step, steps=x[0], redrawn=step)


@layer_type("LSTMUnit", bottoms=(3, 3), tops=(2, 2), no_forced_gradient=(2,))
def lstm_unit(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    cell, gates, cont = shapes
    if len(cell) != 3 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
        raise InputError(
            "the bottoms must be (1, streams, size), (1, streams, 4 · size) and (1, streams), not "
            f"{text(cell)}, {text(gates)} and {text(cont)}"
        )
    return Declared([cell, cell])


@layer_type("Lstm", bottoms=(1, 2), no_forced_gradient=(1,), reads_bottoms=True, reads_tops=True)
def junhyuk_lstm(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """caffe-lstm's and CTPN's: weights for the input, for the last output, and biases; gates i, f, o, g.

    CTPN's bottom is (steps, streams, …), caffe-lstm's own (steps · streams, …), batch_size being the streams.
    """
    param, shape = layer.lstm_param, shapes[0]
    rows = in_rows(layer, shape)
    if rows and (not shape or shape[0] < 1 or not param.batch_size or shape[0] % param.batch_size):
        raise InputError(
            f"lstm_param: batch_size {param.batch_size} must divide the {text(shape[:1])} rows, steps times streams"
        )
    if rows:
        shape = (shape[0] // param.batch_size, param.batch_size, *shape[1:])
    if len(shape) < 3 or min(shape[:2]) < 1:
        raise InputError(f"the first bottom must be (steps, streams, …), not {text(shape)}")
    if len(shapes) > 1 and math.prod(shapes[1]) != shape[0] * shape[1]:
        raise InputError(
            f"the sequence markers must be {text(shape[:2])} (steps, streams), not {text(shapes[1])}"
        )
    size = param.num_output
    if size < 1:
        raise InputError("lstm_param: num_output must be at least 1")
    weights = [
        Weight((4 * size, math.prod(shape[2:])), param.weight_filler),
        Weight((4 * size, size), param.weight_filler),
        Weight((4 * size,), param.bias_filler),
    ]
    return Declared([(math.prod(shape[:2]), size) if rows else (*shape[:2], size)], weights)


def in_rows(layer: LayerParameter, shape: Shape) -> bool:
    """Whether a Lstm's bottom has steps and streams along one axis."""
    return layer.lstm_param.HasField("batch_size") or len(shape) == 2
