"""Caffe's fillers: the first values of a parameter blob, bit for bit (caffe/filler.hpp of Caffe 1.0, float).

A net fills layer by layer, weight before bias, each blob by one call of `fill`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Weight, legacy_shape, text
from runtime.rng import CaffeRNG

Shape = tuple[int, ...]


def first_values(layer: LayerParameter, index: int, weight: Weight, rng: CaffeRNG) -> np.ndarray:
    """A weight blob as the layer is built: float32, written in the prototxt itself, drawn by its filler, or zeros.

    Raises:
        InputError: another number of values in the prototxt than the shape has; see `fill`.
    """
    if index >= len(layer.blobs):
        if weight.filler is None:
            return np.zeros(weight.shape, np.float32)
        return fill(weight.shape, weight.filler, rng)
    given = layer.blobs[index]
    values = np.array(given.double_data or given.data, np.float32)
    if values.size != math.prod(weight.shape):
        raise InputError(f"blobs[{index}] has {values.size} values in the prototxt, not {text(weight.shape)}")
    return values.reshape(weight.shape)


def fill(shape: Sequence[int], filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    """An array of `shape`, float32, filled as Caffe's filler fills it, with numbers drawn from `rng`.

    Raises:
        InputError: for an unknown type, a shape that the filler cannot fill, or settings that Caffe refuses.
    """
    shape = tuple(shape)
    function = FILLERS.get(filler.type)
    if function is None:
        raise InputError(f'filler "{filler.type}" is unknown: use one of {", ".join(FILLERS)}')
    if math.prod(shape) == 0:
        raise InputError(
            f'filler "{filler.type}": shape {shape} holds no values: every dimension must be above 0'
        )
    if filler.sparse != -1 and filler.type != "gaussian":
        raise InputError(f'filler "{filler.type}": sparse is for the gaussian filler alone: remove it')
    try:
        return function(shape, filler, rng).reshape(shape)
    except InputError as error:
        raise InputError(f'filler "{filler.type}": {error}') from None


def _constant(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    return np.full(shape, filler.value, np.float32)


def _uniform(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    return rng.uniform(math.prod(shape), filler.min, filler.max)


def _gaussian(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    values = rng.gaussian(math.prod(shape), filler.mean, filler.std)
    if filler.sparse == -1:
        return values
    outputs = _outputs(shape)
    if not 0 <= filler.sparse <= outputs:
        raise InputError(f"sparse {filler.sparse} is not from 0 to the {outputs} outputs of shape {shape}")
    values *= rng.bernoulli(len(values), np.float32(filler.sparse) / np.float32(outputs))
    return values


def _positive_unitball(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    rows = rng.uniform(math.prod(shape), 0, 1).reshape(_outputs(shape), -1)
    sums = np.add.accumulate(rows, axis=1)[:, -1:]  # one by one, as Caffe's loop; np.sum adds in pairs
    with np.errstate(invalid="ignore"):
        return rows / sums


def _xavier(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    scale = np.sqrt(np.float32(3) / _fan(shape, filler))
    return rng.uniform(math.prod(shape), -scale, scale)


def _msra(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    return rng.gaussian(math.prod(shape), 0, np.sqrt(np.float32(2) / _fan(shape, filler)))


def _bilinear(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(
            f"shape {shape} is not (outputs, inputs, K, K): give a square kernel, two-dimensional"
        )
    side = shape[3]
    factor = math.ceil(side / 2)
    centre = np.float32((side - 1) / (2.0 * factor))
    ramp = np.float32(1) - np.abs(np.arange(side, dtype=np.float32) / np.float32(factor) - centre)
    return np.broadcast_to(np.outer(ramp, ramp), shape).copy()


def _diagonal(shape: Shape, filler: FillerParameter, rng: CaffeRNG) -> np.ndarray:
    """FlowNet2's: output n takes the mean of input n's window, times `diag_val` n, or 1 where there is none."""
    num, channels, height, width = legacy_shape(shape)
    weight = np.zeros((num, channels, height * width), np.float32)
    for n in range(min(num, channels)):
        value = np.float32(filler.diag_val[n] if n < len(filler.diag_val) else 1)
        weight[n, n] = value / np.float32(height * width)
    return weight


FILLERS: dict[str, Callable[[Shape, FillerParameter, CaffeRNG], np.ndarray]] = {
    "constant": _constant,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
    "diagonal": _diagonal,
}


def _outputs(shape: Shape) -> int:
    if not shape:
        raise InputError(
            "a blob without axes has no outputs to count: use constant, uniform or plain gaussian"
        )
    return shape[0]


def _fan(shape: Shape, filler: FillerParameter) -> np.float32:
    """The count that `variance_norm` asks for; Caffe's fan_out is count / shape[1], for any kind of layer."""
    fan_in = math.prod(shape) // _outputs(shape)
    fan_out = math.prod(shape) // (shape[1] if len(shape) > 1 else 1)
    if filler.variance_norm == FillerParameter.FAN_OUT:
        return np.float32(fan_out)
    if filler.variance_norm == FillerParameter.AVERAGE:
        return np.float32(fan_in + fan_out) / np.float32(2)
    return np.float32(fan_in)
