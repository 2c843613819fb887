"""A net as a translated model, held against `CaffeNet`: values, and what both learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from port.net import CaffeNet
from port.translate.compare import load_model, without_dropout
from port.translate.graph import Graph, graph_of
from port.translate.writing import Header, Written, write_model
from prototxt.caffe_pb2 import NetParameter


@dataclass
class Translated:
    """A net both ways.

    Attributes:
        model: the class that `written` defines, with the net's weights.
    """

    net: CaffeNet
    graph: Graph
    written: Written
    model: nn.Module
    header: Header

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model's outputs and CaffeNet's."""
        names = {self.net.plan.blobs[i]: i for i in self.net.plan.inputs}
        tensors = {name: torch.from_numpy(np.array(inputs[name])) for name in names}
        ours = self.model(*tensors.values())
        values = self.net.run({i: tensors[name] for name, i in names.items()})
        theirs = {self.net.plan.blobs[i]: values[i] for i in self.net.plan.outputs}
        return ours if isinstance(ours, dict) else {next(iter(self.graph.outputs)): ours}, theirs

    def learnt(self) -> tuple[dict[str, Tensor | None], dict[str, np.ndarray]]:
        """The gradients of the model's parameters, and CaffeNet's under the same names."""
        grads = {}
        for part in self.net.layers:
            owned = zip(part.blobs, part.owned, strict=True)
            grads[part.plan.index] = [
                np.zeros(blob.shape, np.float32) if owner.grad is None else owner.grad.numpy()
                for blob, owner in owned
            ]
        due = write_model(self.graph, self.header, grads).state
        return {name: parameter.grad for name, parameter in self.model.named_parameters()}, due


def translated(
    message: NetParameter, phase: int, weights: Mapping[str, Sequence[np.ndarray]] | None = None
) -> Translated:
    """The net as a model, dropout letting everything through in both.

    Raises:
        InputError: a layer that cannot be translated.
    """
    net = without_dropout(CaffeNet(message, phase, gradient="exact"))
    with torch.no_grad():
        for layer in net.layers:
            for blob, value in zip(layer.blobs, (weights or {}).get(layer.plan.name, ()), strict=False):
                blob.copy_(torch.from_numpy(value).reshape(blob.shape if value.size > 1 else ()))
    graph = graph_of(net.plan)
    header = Header("A net.", "Model", "A net.")
    blobs = {part.plan.index: [blob.detach().numpy().copy() for blob in part.blobs] for part in net.layers}
    written = write_model(graph, header, blobs)
    model = load_model(written.text, "Model", written.state, phase == 0)
    return Translated(net, graph, written, model, header)


def check_learning(made: Translated, inputs: Mapping[str, np.ndarray]) -> int:
    """Hold the gradients of a random sum of all outputs to CaffeNet's; how many parameters have one."""
    ours, theirs = made.outputs(inputs)
    loss = dict.fromkeys(("ours", "theirs"), torch.zeros(()))
    for output, top in theirs.items():
        if top.requires_grad:
            weights = torch.randn(top.shape, generator=torch.Generator().manual_seed(5))
            loss["ours"] = loss["ours"] + (ours[output].reshape(top.shape) * weights).sum()
            loss["theirs"] = loss["theirs"] + (top * weights).sum()
    if not loss["theirs"].requires_grad:
        return 0
    if loss["ours"].requires_grad:  # not where all is frozen
        loss["ours"].backward()
    loss["theirs"].backward()
    found, due = made.learnt()
    for key, grad in found.items():
        if grad is None:
            assert not np.any(due[key]), key
        else:
            largest = np.abs(due[key]).max()
            assert np.abs(grad.numpy() - due[key]).max() <= 5e-5 * largest + 1e-12, key
    return sum(grad is not None for grad in found.values())
