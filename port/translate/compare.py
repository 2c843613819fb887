"""A written model held against `CaffeNet`, operation by operation."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from port.layer import as_tuple
from port.net import CaffeNet
from port.translate.graph import Graph
from port.translate.writing import Written
from prototxt.layers.declare import Shape

TOLERANCE = 1e-5
"""The largest difference that is allowed, as a share of the blob's largest magnitude: a whole net's."""


@dataclass(frozen=True)
class Compared:
    """One blob: how far the model's is from CaffeNet's, and CaffeNet's largest magnitude.

    Attributes:
        errors: where some blob is out, the model's own and CaffeNet's, against CaffeNet in float64.
    """

    blob: str
    shape: Shape
    difference: float
    largest: float
    errors: tuple[float, float] | None = None

    @property
    def share(self) -> float:
        return self.difference / self.largest if self.largest else self.difference

    @property
    def within(self) -> bool:
        """Near enough, or as near to the truth as CaffeNet itself: rounding that a net enlarges is no fault."""
        if self.share <= TOLERANCE or self.errors is None:
            return self.share <= TOLERANCE
        return self.errors[0] <= 1.5 * self.errors[1] + 1e-7 * self.largest


def load_model(
    text: str, class_name: str, state: Mapping[str, np.ndarray], train: bool, **names: Any
) -> nn.Module:
    """The model that the text defines, its weights loaded; its dropouts let everything through."""
    module = types.ModuleType("translated_model")
    module.__dict__.update(names)
    exec(compile(text, "model.py", "exec"), module.__dict__)
    model = getattr(module, class_name)()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    model.train(train)
    for layer in model.modules():
        if "Dropout" in type(layer).__name__:
            layer.p = 0.0
    return model


def without_dropout(net: CaffeNet) -> CaffeNet:
    """The net, its dropouts letting everything through: what a comparison can be made on."""
    for layer in net.layers:
        if layer.plan.type in ("Dropout", "SpatialDropout", "SeLUDropout"):
            layer.phase = 1
            if layer.param.dropout_param.sample_weights_test:
                layer.forward = lambda x: x
    return net


@torch.no_grad()
def compare(
    net: CaffeNet, graph: Graph, written: Written, class_name: str, inputs: Mapping[str, np.ndarray]
) -> tuple[list[Compared], dict[str, Tensor]]:
    """Each blob of the model against the net's, and the net's outputs.

    Args:
        net: with exact gradients, its dropouts as `without_dropout` makes them.
    """
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    named = _blobs(net, tensors)
    seen: list[Sequence[Tensor]] = []

    def watch(result: Any) -> Any:
        seen.append(as_tuple(result))
        return result

    model = load_model(written.watched, class_name, written.state, net.plan.phase == 0, _seen=watch)
    model(*tensors.values())
    pairs = [
        (value, result)
        for makes, results in zip(written.order, seen, strict=True)
        for value, result in zip(makes, results, strict=True)
    ]
    ours = {value.blob: result for value, result in pairs if graph.blobs.get(value.blob) is value}
    found = [
        Compared(name, tuple(named[name].shape), _distance(result, named[name]), _distance(named[name]))
        for name, result in ours.items()
    ]
    if not all(blob.within for blob in found):
        truth = _blobs(net.double(), {name: tensor.double() for name, tensor in tensors.items()})
        found = [
            replace(blob, errors=tuple(_distance(x[blob.blob], truth[blob.blob]) for x in (ours, named)))
            for blob in found
        ]
    return found, {name: named[name] for name in graph.outputs}


def _blobs(net: CaffeNet, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for layer in net.layers:  # each pass begins as the first one did
        if isinstance(getattr(layer, "memory", None), Tensor):
            layer.memory.zero_()
        if layer.plan.type == "Lstm":
            layer.state = None
    values = net.run({i: inputs[net.plan.blobs[i]] for i in net.plan.inputs})
    return {net.plan.blobs[i]: value for i, value in values.items()}


def _distance(a: Tensor, b: Tensor | None = None) -> float:
    """The largest difference, or, of one, the largest magnitude."""
    difference = a.double() if b is None else a.double().reshape(b.shape) - b.double()
    return difference.abs().max().item() if a.numel() else 0.0
