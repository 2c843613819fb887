"""Layer types of the user's own, for `port.layers.register`; docs/own_layers.md shows how."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from torch import Tensor

from port.layer import LAYERS, Layer, as_tuple, being_traced
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES, Declared, LayerType, Shapes, text
from prototxt.own import OWN_FIELDS, OwnParam, as_filler, claim


def register(
    layer_type: str, fields: Collection[str] = (), replaces: bool = False, **facts: Any
) -> Callable[[type[Layer]], type[Layer]]:
    """Make a class the port's layer for a type of the user's own.

    The class derives from `port.layers.Layer`, which tells what `forward` has, and has besides

        @staticmethod
        def declare(param, shapes, tops) -> Declared

    which checks the layer's message and its bottoms' shapes (raising `InputError`), and gives the shapes of its
    tops (as many as `tops`) and its weights, with their fillers.

    Args:
        fields: the fields of the layer's message that the class reads by its own schema: names, for which
            `--proto` (`use_proto`) gives the fork's schema, or a mapping to defaults (`prototxt.own.OWN_FIELDS`).
        replaces: put the class in the place of a type that is built in.
        facts: of `prototxt.layers.declare.LayerType`: the numbers of bottoms and tops, whether it is a loss, …

    Raises:
        InputError: a type that is registered already, by another class; one that is built in, without `replaces`;
            a class without `declare`, or one that is no `Layer`.
    """

    def registered(cls: type[Layer]) -> type[Layer]:
        if not (isinstance(cls, type) and issubclass(cls, Layer)):
            raise InputError(f"{layer_type}: {cls!r} is no layer: derive it from port.layers.Layer")
        if not callable(getattr(cls, "declare", None)):
            raise InputError(f"{layer_type}: {cls.__name__} has no declare(param, shapes, tops)")
        there = LAYERS.get(layer_type)
        if layer_type in OWN_FIELDS:
            if there is not None and _home(there) != _home(cls):
                raise InputError(
                    f"layer type {layer_type} is registered twice: by {_home(there)} and by {_home(cls)}"
                )
        elif layer_type in LAYER_TYPES and not replaces:
            raise InputError(
                f"layer type {layer_type} is built in: register it with replaces=True to put {_home(cls)} in its place"
            )
        kind = LayerType(_declaration(layer_type, cls), **facts)
        claim(layer_type, fields)
        LAYER_TYPES[layer_type], LAYERS[layer_type] = kind, cls
        return cls

    return registered


def _home(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _declaration(
    layer_type: str, cls: type[Layer]
) -> Callable[[LayerParameter, Shapes, int], Declared | None]:
    own: Callable[[OwnParam, Shapes, int], Declared] = getattr(cls, "declare")  # noqa: B009 (no Layer's)

    def declare(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
        made = own(OwnParam(layer), shapes, tops)
        if not isinstance(made, Declared):
            raise InputError(f"{_home(cls)}.declare must give a Declared, not {made!r}")
        return replace(
            made,
            tops=[tuple(shape) for shape in made.tops],
            weights=[replace(x, shape=tuple(x.shape), filler=as_filler(x.filler)) for x in made.weights],
        )

    return declare


def check_tops(layer: Layer, bottoms: tuple[Tensor, ...], tops: Tensor | tuple[Tensor, ...]) -> None:
    """A forward hook: hold what a class of the user's computes to what it declares.

    Raises:
        InputError: another number of tops, or another shape.
    """
    if being_traced():
        return
    declared = layer.plan.top_shapes(*(tuple(bottom.shape) for bottom in bottoms))
    found = [tuple(top.shape) for top in as_tuple(tops)]
    if found != [tuple(shape) for shape in declared]:
        raise InputError(
            f"{_home(type(layer))}.forward gives tops of shape {_listed(found)}; it declares {_listed(declared)}"
        )


def _listed(shapes: Shapes) -> str:
    return ", ".join(map(text, shapes)) or "none"
