"""A written model held against `CaffeNet`, operation by operation."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """One blob: how far the model's is from CaffeNet's, and CaffeNet's largest magnitude."""

    blob: str
    shape: Shape
    difference: float
    largest: float

    @property
    def share(self) -> float:
        return self.difference / self.largest if self.largest else self.difference

    @property
    def within(self) -> bool:
        return self.share <= TOLERANCE


def load_model(text: str, class_name: str, state: Mapping[str, np.ndarray], train: bool, **names: Any) -> nn.Module:
    """The model that the text defines, its weights loaded; in training its dropouts let everything through."""
    module = types.ModuleType("translated_model")
    module.__dict__.update(names)
    exec(compile(text, "model.py", "exec"), module.__dict__)
    model = getattr(module, class_name)()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    model.train(train)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return model


def without_dropout(net: CaffeNet) -> CaffeNet:
    """The net, its dropouts letting everything through: what a comparison can be made on."""
    for layer in net.layers:
        if layer.plan.type == "Dropout":
            layer.phase = 1
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
    values = net.run({i: tensors[net.plan.blobs[i]] for i in net.plan.inputs})
    named = {name: values[i] for i, name in enumerate(net.plan.blobs) if i in values}
    seen: list[Sequence[Tensor]] = []

    def watch(result: Any) -> Any:
        seen.append(as_tuple(result))
        return result

    model = load_model(written.watched, class_name, written.state, net.plan.phase == 0, _seen=watch)
    model(*tensors.values())
    found = []
    for makes, results in zip(written.order, seen, strict=True):
        for value, result in zip(makes, results, strict=True):
            if graph.blobs.get(value.blob) is value:
                due = named[value.blob]
                ours = result.reshape(due.shape)
                difference = (ours.double() - due.double()).abs().max().item() if due.numel() else 0.0
                largest = due.abs().max().item() if due.numel() else 0.0
                found.append(Compared(value.blob, tuple(due.shape), difference, largest))
    return found, {name: named[name] for name in graph.outputs}
