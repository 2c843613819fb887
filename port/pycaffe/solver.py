"""pycaffe's solvers: `port.training.loop`'s training on a net of blobs."""

import os
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

from port.pycaffe.net import Net
from port.pycaffe.process import LOG
from port.training.caffe_log import CaffeLog, log_backward, log_forward, log_net, log_norms
from port.training.loop import Solver
from port.training.net import Output
from port.training.solver_nets import NetSource
from port.training.solvers import SOLVERS
from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.plan import LayerPlan
from prototxt.read import read_net, read_solver
from runtime.blob import Blob
from weights import LayerWeights
from weights.names import unique_names


class SGDSolver:
    """`caffe.SGDSolver(file)`: the class says the type, not the file; `get_solver` goes by the file.

    Raises:
        InputError: whatever is wrong with the files, in one line.
    """

    type = "SGD"
    display = 0  # published notebooks set it

    def __init__(self, solver_file: str | os.PathLike):
        param = read_solver(solver_file)
        param.type = self.type
        self._solver = Solver(param, _make_net, log=LOG, where=os.fspath(solver_file))

    @property
    def _blob_net(self) -> "BlobNet":
        return cast(BlobNet, self._solver.net)

    @property
    def net(self) -> Net:
        return self._blob_net.net

    @property
    def test_nets(self) -> list[Net]:
        return [cast(BlobNet, test_net).net for test_net in self._solver.test_nets]

    @property
    def iter(self) -> int:
        return self._solver.iteration

    @property
    def param(self) -> SolverParameter:
        return self._solver.param

    @property
    def lr(self) -> float:
        return float(self._solver.rate)

    def step(self, iterations: int) -> None:
        self._solver.step(iterations)

    def solve(self, resume_file: str | os.PathLike | None = None) -> None:
        if resume_file is not None:
            LOG("solver.cpp:292", f"Restoring previous solver status from {os.fspath(resume_file)}")
            self.restore(resume_file)
        self._solver.solve()

    def snapshot(self) -> None:
        self._solver.snapshot()

    def restore(self, state_file: str | os.PathLike) -> None:
        self._solver.restore(state_file)

    def apply_update(self) -> None:
        """Change the weights by the gradients in their diffs; `iter` goes up by one."""
        self._blob_net.find_memory()
        self._solver.apply_update()

    def share_weights(self, net: Net) -> None:
        net.share_with(self.net)

    def add_callback(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]) -> None:
        self._solver.callbacks.append((on_start, on_gradients_ready))


class NesterovSolver(SGDSolver):
    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    type = "AdaDelta"


class AdamSolver(SGDSolver):
    type = "Adam"


def get_solver(solver_file: str | os.PathLike) -> SGDSolver:
    """The solver of the type that the file names."""
    kind = read_solver(solver_file).type
    solvers: list[type[SGDSolver]] = [SGDSolver, *SGDSolver.__subclasses__()]
    classes = {cls.type: cls for cls in solvers}
    if kind not in classes:
        raise InputError(
            f'{os.fspath(solver_file)}: type: "{kind}" is unknown: use one of {", ".join(SOLVERS)}'
        )
    return classes[kind](solver_file)


class BlobNet:
    """A pycaffe net as `port.training.loop` asks for it. The weights are the blobs' own memory."""

    def __init__(self, net: Net, log: CaffeLog):
        self.net, self.plan, self.log, self.debug = net, net.plan, log, False
        self._layers = list(zip(net.plan.layers, net.layers, strict=True))
        self._learned = [
            (torch.empty(0), blob, param)
            for plan, layer in self._layers
            for blob, param in zip(layer.blobs, plan.params, strict=True)
            if param.owner is None
        ]
        self.find_memory()

    def find_memory(self) -> None:
        """Look again where the blobs' memory is: a script may have shared it anew."""
        for weight, blob, _ in self._learned:
            weight.grad = None
            weight.data = torch.from_numpy(blob.data)
            weight.grad = torch.from_numpy(blob.diff)

    def log_layers(self, net: NetParameter) -> None:
        log_net(self.log, self.plan, net)

    def learnable(self) -> list[dict[str, Any]]:
        return [
            {"params": [weight], "lr_mult": spec.lr_mult, "decay_mult": spec.decay_mult}
            for weight, _, spec in self._learned
        ]

    def clear_param_diffs(self) -> None:
        self.net.clear_param_diffs()
        self.find_memory()

    def copy_from(self, path: str) -> None:
        self.net.copy_from(path)

    def share_with(self, other: "BlobNet") -> None:
        self.net.share_with(other.net)

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]:
        return self.net.layer_weights(owners_only)

    def forward(self) -> np.float32:
        loss = np.float32(0)
        for i, (plan, layer) in enumerate(self._layers):
            loss += np.float32(self.net._forward(i, i))
            if self.debug:
                log_forward(self.log, plan, self.plan.blobs, *_data(self._tops(plan), layer.blobs))
        return loss

    def forward_backward(self) -> np.float32:
        loss = self.forward()
        if not np.isfinite(loss):
            return loss
        for i, (plan, layer) in reversed(list(enumerate(self._layers))):
            self.net._backward(i, i)
            if self.debug and plan.needs_backward:
                bottoms = [self.net._blobs[j] for j in plan.bottoms]
                log_backward(self.log, plan, self.plan.blobs, *_diffs(bottoms, layer.blobs))
        if self.debug:
            log_norms(self.log, *zip(*((w, w.grad) for w, _, _ in self._learned), strict=True))
        return loss

    def outputs(self) -> list[Output]:
        return [
            Output(self.plan.blobs[i], self.plan.loss_weights.get(i, 0), self.net._blobs[i].data.reshape(-1))
            for i in self.plan.outputs
        ]

    def first_wrong(self) -> str:
        for plan, layer in self._layers:
            if not all(np.isfinite(blob.data).all() for blob in layer.blobs):
                return f'the weights of layer "{plan.name}" ({plan.where})'
            if not all(np.isfinite(blob.data).all() for blob in self._tops(plan)):
                return f'the output of layer "{plan.name}" ({plan.where})'
        return "the sum of the losses"

    def stateful(self) -> dict[str, Any]:
        keys = unique_names(plan.name for plan in self.plan.layers)
        found = {
            key: getattr(layer, "module", layer) for key, layer in zip(keys, self.net.layers, strict=True)
        }
        return {key: layer for key, layer in found.items() if callable(getattr(layer, "restore", None))}

    def _tops(self, plan: LayerPlan) -> list[Blob]:
        return [self.net._blobs[i] for i in plan.tops]


def _make_net(source: NetSource) -> BlobNet:
    if isinstance(source.net, str):
        net, where = read_net(source.net), source.net
    else:
        net, where = source.net, "prototxt"
    return BlobNet(Net.from_message(net, source.phase, source.level, source.stages, where), LOG)


def _data(*groups: list[Blob]) -> list[list[torch.Tensor]]:
    return [[torch.from_numpy(blob.data) for blob in blobs] for blobs in groups]


def _diffs(*groups: list[Blob]) -> list[list[torch.Tensor]]:
    return [[torch.from_numpy(blob.diff) for blob in blobs] for blobs in groups]
