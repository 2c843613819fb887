"""A net set up as Caffe sets it up: planned, its files opened, its weights drawn, layer by layer in this order."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prototxt.caffe_pb2 import NetParameter
from prototxt.layers.declare import Declared, type_of
from prototxt.plan import Plan, Step, plan_net
from runtime.fillers import fill, first_values
from runtime.rng import CaffeRNG, caffe_rng

Opened = tuple[Any, Declared]
"""What a layer's set-up opened (a source of batches, a script's layer), and what it makes of its bottoms."""


@dataclass
class NetSetUp:
    """A planned net with what its layers begin with.

    Attributes:
        values: for each declared layer its weights' first values, float32. A script's layer keeps its own.
        opened: for each layer what its set-up opened, or None.
    """

    plan: Plan
    values: list[list[np.ndarray]] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list)


def set_up_net(
    net: NetParameter,
    phase: int,
    level: int,
    stages: Sequence[str],
    where: str,
    open_layer: Callable[[Step], Opened | None],
) -> NetSetUp:
    """Plan a net and draw its weights, from Caffe's generator.

    Args:
        open_layer: sets up one layer; None where its declaration says all.

    Raises:
        InputError: `file:line: layer "x": …` for whatever Caffe, or the engine, refuses.
    """
    with contextlib.suppress(_Opened):
        plan_net(
            net, phase, level, stages, where, _up_to_files
        )  # what is wrong is told before minutes of drawing
    values: list[list[np.ndarray]] = []
    opened: list[Any] = []

    def set_up(step: Step) -> Declared | None:
        thing, told = open_layer(step) or (None, None)
        if step.declared and type_of(step.param).own_random:
            thing = CaffeRNG(int(caffe_rng().words(1)[0]))
        opened.append(thing)
        values.append(_drawn(step, step.declared) if step.declared else [])
        return told

    return NetSetUp(plan_net(net, phase, level, stages, where, set_up), values, opened)


class _Opened(Exception):
    """Up to here a net is planned without opening anything."""


def _up_to_files(step: Step) -> None:
    if step.declared is None:
        raise _Opened


def _drawn(step: Step, made: Declared) -> list[np.ndarray]:
    rng = caffe_rng()
    drawn = {
        i: first_values(step.param, i, made.weights[i], rng) for i in made.filled or range(len(made.weights))
    }
    values = [drawn[i] for i in range(len(made.weights))]
    for _ in range(made.steps - 1):
        for weight in made.redrawn:
            if weight.filler is not None:
                fill(weight.shape, weight.filler, rng)
    return values
