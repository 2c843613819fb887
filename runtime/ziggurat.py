"""Normal numbers as boost 1.74 makes them in float: the ziggurat, read from a sequence of 32-bit words.

A ziggurat covers the area under a density with layers of equal area (Marsaglia and Tsang, "The Ziggurat
Method for Generating Random Variables", 2000). A word's low 8 bits choose a layer and, for the normal, a
sign; its high 24 bits choose a place across the layer. Nearly always (98.8 % of samples) the place lies
inside the layer above as well, thus under the curve, and the sample is done: one word, no history. The others
read on:

- at a layer's edge, one more word for a height, which accepts the place or starts again;
- in the tail beyond the lowest layer, pairs of exponential numbers from a second ziggurat.

Hence `standard_normals` computes every word as if it began a sample, then strikes out the words that were
read as something else. Boost computes in float from tables in double: each entry is rounded where boost does.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np

NORMAL_TAIL = Decimal("3.442619855896652121424320491467")  # where the curve leaves the lowest of 128 layers
NORMAL_AREA = Decimal("0.009912563035336461079095685305810")  # of each layer under exp(-x²/2)
EXPONENTIAL_TAIL = Decimal("7.697117470131049714044628048015")  # the same for exp(-x) and 256 layers
EXPONENTIAL_AREA = Decimal("0.003949659822581557219977571956815")

PLACE_UNIT = np.float32(2.0**-24)
WORD_UNIT = np.float32(2.0**-32)


class Ziggurat(NamedTuple):
    """Layers from the lowest up, each array (layers,) float32.

    Across, a layer ends at `width`, the one above it at `inner`; `overhang` is the difference. Upwards, it
    goes from the density `floor` to the density `ceiling`; `rise` is the difference.
    """

    width: np.ndarray
    inner: np.ndarray
    overhang: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    rise: np.ndarray


def _ziggurat(
    layers: int,
    tail: Decimal,
    area: Decimal,
    density: Callable[[Decimal], Decimal],
    inverse: Callable[[Decimal], Decimal],
) -> tuple[Ziggurat, np.ndarray]:
    """The layers in float32, and the edges (layers + 1) in double."""
    with localcontext() as context:
        context.prec = 30  # the recursion loses digits; doubles need 17 of what is left
        edges = [area / density(tail), tail]
        heights = [Decimal(0), density(tail)]
        while len(edges) < layers:
            heights.append(heights[-1] + area / edges[-1])
            edges.append(inverse(heights[-1]))
    x = np.array([*edges, 0], np.float64)
    y = np.array([*heights, 1], np.float64)
    in_double = (x[:-1], x[1:], x[:-1] - x[1:], y[:-1], y[1:], y[1:] - y[:-1])
    return Ziggurat(*(part.astype(np.float32) for part in in_double)), x


NORMAL, _NORMAL_EDGES = _ziggurat(
    128, NORMAL_TAIL, NORMAL_AREA, lambda x: (-x * x / 2).exp(), lambda y: (-2 * y.ln()).sqrt()
)
EXPONENTIAL, _ = _ziggurat(256, EXPONENTIAL_TAIL, EXPONENTIAL_AREA, lambda x: (-x).exp(), lambda y: -y.ln())

# Indexed by a word's low byte: the layer twice over, once for each sign (odd is positive).
_SIGN = np.tile(np.array([-1, 1], np.float32), 128)
_STEP = _SIGN * np.repeat(NORMAL.width, 2) * PLACE_UNIT


def _least_float_not_below(edges: np.ndarray) -> np.ndarray:
    nearest = edges.astype(np.float32)
    return np.where(nearest < edges, np.nextafter(nearest, np.float32(np.inf)), nearest)


# Boost compares the float place with the double edge, which is the same as comparing with the next float up.
_INNER = np.repeat(_least_float_not_below(_NORMAL_EDGES[1:]), 2)


def standard_normals(words: np.ndarray) -> tuple[np.ndarray, int]:
    """The samples that `words` (n, uint32) holds in full: float32 of mean 0 and deviation 1, in order.

    Also returned: how many words are done with. Those after them begin a sample that needs more words.
    """
    layer = words.astype(np.uint8)
    values = (words >> 8).astype(np.float32) * _STEP[layer]
    returned = np.abs(values) < _INNER[layer]

    starts = np.flatnonzero(~returned)
    in_tail = layer[starts] < 2
    returned[starts], ends = _edge_samples(words, starts, layer[starts] >> 1, np.abs(values[starts]))

    begin = 0
    for start, end, tail in zip(starts.tolist(), ends.tolist(), in_tail.tolist(), strict=True):
        if start < begin:
            continue  # read as a part of the sample before
        if tail:
            magnitude, end = _tail_sample(words, start)
            values[start] = magnitude * _SIGN[layer[start]]
            returned[start] = True
        if end > len(words):
            return values[:start][returned[:start]], start
        returned[start + 1 : end] = False
        begin = end
    return values[returned], len(words)


def _edge_samples(
    words: np.ndarray, starts: np.ndarray, layer: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """At a layer's edge: whether each place is under the curve (a sample), and where the next sample begins.

    That is beyond the words if the height's word is. Above the curve, boost begins the sample again.
    """
    height_at = starts + 1
    padded = np.append(words, np.uint32(0))
    while (is_one := padded[np.minimum(height_at, len(words))].astype(np.float32) * WORD_UNIT == 1).any():
        height_at += is_one  # boost draws again where rounding to float gave 1
    height = padded[np.minimum(height_at, len(words))].astype(np.float32) * WORD_UNIT

    width, floor = NORMAL.width[layer], NORMAL.floor[layer]
    inset = width - x
    y = floor + height * NORMAL.rise[layer]
    above_diagonal = NORMAL.overhang[layer] * height - inset
    above_tangent = y - (floor + inset * floor * width)
    convex = width >= 1
    above_upper = np.where(convex, above_diagonal, above_tangent)
    above_lower = np.where(convex, above_tangent, above_diagonal)
    curve = np.exp(-(x * x / np.float32(2)), dtype=np.float64).astype(np.float32)
    return (above_upper < 0) & ((above_lower < 0) | (y < curve)), height_at + 1


class _Reader:
    """Hands out words one by one."""

    def __init__(self, words: np.ndarray, at: int):
        self.words = words
        self.at = at

    def word(self) -> int:
        if self.at >= len(self.words):
            raise _OutOfWordsError
        self.at += 1
        return int(self.words[self.at - 1])

    def unit_float(self) -> np.float32:
        while (value := np.float32(self.word()) * WORD_UNIT) == 1:
            pass
        return value


class _OutOfWordsError(Exception):
    pass


def _tail_sample(words: np.ndarray, start: int) -> tuple[np.float32, int]:
    """A magnitude in the tail, and where the next sample begins: beyond the words if they run out."""
    reader = _Reader(words, start + 1)
    edge = NORMAL.inner[0]
    try:
        while True:
            x = _exponential(reader) / edge
            y = _exponential(reader)
            if y + y > x * x:
                return x + edge, reader.at
    except _OutOfWordsError:
        return np.float32(0), len(words) + 1


def _exponential(reader: _Reader) -> np.float32:
    shift = np.float32(0)
    while True:
        place, layer = divmod(reader.word(), 256)
        width, inner = EXPONENTIAL.width[layer], EXPONENTIAL.inner[layer]
        x = np.float32(place) * PLACE_UNIT * width
        if x < inner:
            return shift + x
        if layer == 0:
            shift = shift + inner  # the tail of an exponential is the exponential again, moved
            continue
        height = reader.unit_float()
        y = EXPONENTIAL.floor[layer] + height * EXPONENTIAL.rise[layer]
        ceiling = EXPONENTIAL.ceiling[layer]
        under_diagonal = EXPONENTIAL.overhang[layer] * height - (width - x) < 0
        under_tangent = y - (ceiling + (inner - x) * ceiling) < 0
        if under_diagonal and (under_tangent or y < np.float32(np.exp(np.float64(-x)))):
            return x + shift
