"""How a layer type is declared: what Caffe accepts of it, once, for every engine.

A family's file declares its types with `layer_type`. The function under it gets the layer's message, the
bottoms' shapes and the number of tops, refuses what Caffe refuses, and gives the tops' shapes and the weights:

    @layer_type("Tile")
    def tile(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
        ...
        return Declared([top])
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from prototxt.caffe_pb2 import FillerParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.forks import HARMLESS
from prototxt.limits import TooLargeError
from prototxt.unknown import unknown_type

Shape = tuple[int, ...]
Shapes = Sequence[Shape]

UNKNOWN: Shape = (-1,)
"""The shape of a blob that only a set-up can tell, in a plan without set-up."""

MANY = 1 << 30
MOST_VALUES = (1 << 31) - 1
"""Caffe counts a blob's values in an int."""


@dataclass(frozen=True)
class Weight:
    """One weight blob.

    Attributes:
        filler: of its first values; None: zeros, and nothing is drawn.
        fixed: what set-up sets to 0 in the blob's `param` itself, so that no solver changes the blob.
    """

    shape: Shape
    filler: FillerParameter | None = None
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declared:
    """What a layer makes of bottoms of given shapes.

    Attributes:
        tops: the tops' shapes.
        weights: the weight blobs, in Caffe's order.
        steps: time steps that a recurrent layer is unrolled for, once, at set-up.
        redrawn: weights that Caffe fills again for each further step and throws away; the numbers are drawn.
        scratch: what a pass needs besides, for a while: a map with its padding around it.
        script: a Python layer of the user's: it may write into its bottoms, and its backward may read any blob.
        filled: the order in which the weights are filled; () for theirs.
    """

    tops: Shapes
    weights: Sequence[Weight] = ()
    steps: int = 1
    redrawn: Sequence[Weight] = ()
    scratch: Shapes = ()
    script: bool = False
    filled: Sequence[int] = ()


Declare = Callable[[LayerParameter, Shapes, int], Declared | None]
"""(message, bottoms' shapes, number of tops) → what it makes of them; None where only its set-up can tell."""


@dataclass(frozen=True)
class LayerType:
    """The declaration of one layer type (include/caffe/layers/*.hpp).

    Attributes:
        declare: checks the settings and the bottoms; gives what the layer makes of them.
        bottoms, tops: least and greatest number of bottom (top) blobs.
        equal: as many tops as bottoms.
        loss: the first top is a loss of weight 1 unless the layer says otherwise, and is made if missing.
        own_weight: whether such a loss has a weight only where the layer gives it `loss_weight`.
        no_forced_gradient: bottoms (labels, sequence markers) that `force_backward` leaves alone.
        reads_bottoms, reads_tops: whether Caffe's backward reads the data of those blobs again.
        keeps_copy_in_place: in place, the backward reads a copy of bottom 0 that forward kept.
        shares_memory: with one bottom and one top (Split: any number) the tops lie in the bottom's memory;
            where that depends on the settings, a function of the layer's message.
        own_random: whether its set-up takes one word of Caffe's generator as the seed of one of its own.
        weight_names: of the weight blobs, outside Caffe.
        needs_values: a bottom without values is refused: the published code does nothing defined with it.
        ends_gradient: no backward runs, and none is asked for behind it (FlowNet2's AllowBackward).
    """

    declare: Declare
    bottoms: tuple[int, int] = (1, 1)
    tops: tuple[int, int] = (1, 1)
    equal: bool = False
    loss: bool = False
    own_weight: Callable[[LayerParameter], bool] = lambda layer: False
    no_forced_gradient: tuple[int, ...] = ()
    reads_bottoms: bool = False
    reads_tops: bool = False
    keeps_copy_in_place: bool = False
    shares_memory: bool | Callable[[LayerParameter], bool] = False
    own_random: bool = False
    weight_names: tuple[str, ...] = field(default=("weight", "bias"))
    needs_values: bool = False
    ends_gradient: bool = False


LAYER_TYPES: dict[str, LayerType] = {}
"""Caffe's layer type → its declaration."""


def layer_type(*names: str, **facts: Any) -> Callable[[Declare], Declare]:
    """Declare the layer types `names`; `facts` are `LayerType`'s."""

    def declare(function: Declare) -> Declare:
        for name in names:
            LAYER_TYPES[name] = LayerType(function, **facts)
        return function

    return declare


def known_at_set_up(layer: LayerParameter, shapes: Shapes, tops: int) -> None:
    """The declaration of a layer of which only its set-up knows what it makes."""


def opened_type(*names: str, **facts: Any) -> None:
    """Declare layer types that open files: only their set-up knows what they make."""
    layer_type(*names, **facts)(known_at_set_up)


def type_of(layer: LayerParameter) -> LayerType:
    """The declaration of the layer's type.

    Raises:
        InputError: a type that is not declared; the nearest names are offered.
    """
    found = LAYER_TYPES.get(layer.type)
    if found is None:
        raise InputError(unknown_type(layer.type, LAYER_TYPES))
    return found


def declared(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared | None:
    """What the layer makes of bottoms of these shapes; None where only its set-up can tell.

    Raises:
        InputError: what Caffe refuses of the settings or the shapes.
    """
    kind = type_of(layer)
    if kind.needs_values:
        for shape in shapes:
            if 0 in shape:
                raise InputError(f"{layer.type} needs values: a bottom is of shape {text(shape)}")
    result = kind.declare(layer, shapes, tops)
    return checked(result) if result else None


def checked(result: Declared) -> Declared:
    """`result`, its sizes within Caffe's bounds.

    Raises:
        InputError: a negative size.
        TooLargeError: a blob of 2^31 values or more.
    """
    for what, sizes in (("top", result.tops), ("weights", [weight.shape for weight in result.weights])):
        for shape in sizes:
            if min(shape, default=0) < 0:
                raise InputError(f"the {what} would be of shape {text(shape)}: a size is negative")
            if max(shape, default=0) > MOST_VALUES:
                raise TooLargeError(
                    f"the {what} would be of shape {text(shape)}: a size is above {MOST_VALUES}"
                )
            if math.prod(shape) > MOST_VALUES:
                raise TooLargeError(
                    f"the {what} would be of shape {text(shape)}: {math.prod(shape)} values, more than Caffe's "
                    f"{MOST_VALUES}"
                )
    return result


def top_shapes(layer: LayerParameter, at_setup: Declared, shapes: Shapes) -> Shapes:
    """The tops' shapes when a layer that was set up as `at_setup` says is given bottoms of other shapes.

    Raises:
        InputError: what Caffe refuses, and bottoms that the weights do not fit.
    """
    result = declared(layer, shapes, len(at_setup.tops)) or at_setup
    for mine, due in zip(at_setup.weights, result.weights, strict=True):
        if mine.shape != due.shape:
            raise InputError(
                f"the weights are of shape {text(mine.shape)}; a bottom of shape {text(shapes[0])} needs "
                f"{text(due.shape)}"
            )
    if result.steps != at_setup.steps:
        raise InputError(f"{layer.type} was set up for {at_setup.steps} steps; the bottom has {result.steps}")
    return result.tops


def text(shape: Shape) -> str:
    """A shape for people: "64×3×3×3"; a blob without axes is a "scalar"."""
    if shape == UNKNOWN:
        return "unknown"
    return "×".join(map(str, shape)) or "scalar"


# ---- what several families ask


def legacy_shape(shape: Shape) -> tuple[int, int, int, int]:
    """(num, channels, height, width), 1 for an axis that is missing: how Caffe's older layers see a blob.

    Raises:
        InputError: more than four axes.
    """
    if len(shape) > 4:
        raise InputError(f"this layer type takes blobs of at most 4 axes, not {text(shape)}")
    num, channels, height, width, *_ = (*shape, 1, 1, 1, 1)
    return num, channels, height, width


def refuse_in_place(layer: LayerParameter) -> None:
    """Raises InputError where a top is a bottom: for code that writes before it has read, data or gradient."""
    if set(layer.top) & set(layer.bottom):
        raise InputError(f"{layer.type} does not work in place: give the top a name of its own")


def same_shape(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """The declaration of a layer whose top is shaped like its bottom."""
    return Declared([shapes[0]])


def check_label_count(scores: Shape, labels: Shape, axis: int) -> None:
    """Demand one label for each prediction, the classes lying along `axis`.

    Raises:
        InputError: where the counts differ.
    """
    due = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    if math.prod(labels) != due:
        raise InputError(
            f"{math.prod(labels)} labels ({text(labels)}) for {due} predictions ({text(scores)}, classes along "
            f"axis {axis}): give one label for each"
        )


def refuse_other_fields(where: str, param: Message, *obeyed: str) -> None:
    """Raise InputError for a field of a fork's message that is set, to something else than its default, and that
    nothing obeys here.

    Args:
        where: the message's name as a field, "prior_box_param".
        obeyed: names of the fields that are.
    """
    for entry, value in param.ListFields():
        plain = entry.message_type is None and not entry.is_repeated
        known = entry.name in (*obeyed, "unknown") or entry.name in HARMLESS
        if not known and not (plain and value == entry.default_value):
            raise InputError(f"{where}: {entry.name} is a fork's setting that is not supported here")
