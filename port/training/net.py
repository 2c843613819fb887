"""A `CaffeNet` as a solver runs it: pass by pass, from its own data layers, on one device."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.layer import Layer
from port.net import CaffeNet, Observer
from port.training.caffe_log import CaffeLog, log_backward, log_forward, log_net, log_norms
from prototxt.caffe_pb2 import NetParameter
from prototxt.plan import LayerPlan, Plan
from runtime import net_weights
from runtime.rng import caffe_rng
from weights import LayerWeights
from weights.opening import is_hdf5


@dataclass(frozen=True)
class Output:
    """One output blob after a pass: what the log shows of it.

    Attributes:
        values: float32, flat.
    """

    name: str
    loss_weight: float
    values: np.ndarray


class TrainingNet:
    """What a solver asks of a net is listed in `port.training.loop.TrainableNet`.

    Args:
        net: a path, or a net that `read_net` gave.
        phase, level, stages: what the layers' rules are judged by; stages are added to the net's own.
        amp: run passes in bfloat16 where PyTorch's autocast would. Caffe has no such thing.
        palette_labels: as `CaffeNet`'s.

    Attributes:
        inputs: the tensors of `Input` layers, by blob name; zeros until someone fills them, as in Caffe.
    """

    def __init__(
        self,
        net: str | os.PathLike | NetParameter,
        phase: int,
        level: int = 0,
        stages: Sequence[str] = (),
        *,
        log: CaffeLog,
        allow_modules: Collection[str] = (),
        device: torch.device | str = "cpu",
        amp: bool = False,
        palette_labels: bool = False,
    ):
        self.log, self.device, self.amp = log, torch.device(device), amp
        self.net = CaffeNet(net, phase, level, stages, allow_modules, palette_labels=palette_labels).to(
            self.device
        )
        self.plan: Plan = self.net.plan
        self.debug = False
        self.inputs = {
            name: torch.zeros(self.net.blob_shapes[name], device=self.device) for name in self.net.inputs
        }
        self._loss = torch.zeros(())
        self._outputs: dict[int, Tensor] = {}
        self._sources: dict[int, tuple[Tensor, ...]] = {}
        self._passed: list[tuple[LayerPlan, tuple[Tensor, ...]]] = []
        self._replaced: list[Tensor] = []
        self._random_before: dict[str, Any] = {}

    def log_layers(self, net: NetParameter) -> None:
        """Say how the net was built from its message, as Caffe does."""
        log_net(self.log, self.plan, net)

    # ---- weights

    def learnable(self) -> list[dict[str, Any]]:
        """The weight blobs in Caffe's order, each shared one once, as groups for a solver."""
        return [
            {"params": [weight], "lr_mult": param.lr_mult, "decay_mult": param.decay_mult}
            for plan, layer in self._layers
            for weight, param in zip(layer.owned, plan.params, strict=True)
            if param.owner is None
        ]

    def clear_param_diffs(self) -> None:
        for weight in self.net.parameters():
            weight.grad = None

    def copy_from(self, path: str | os.PathLike) -> None:
        """Copy weights by layer name, as Caffe does, from any format that `weights` reads.

        Raises:
            InputError: a shape that differs, or an unreadable file.
        """
        skipped = self.net.load_weights(path)
        place = "net.cpp:801" if is_hdf5(path) else "net.cpp:746"
        for name in skipped:
            self.log(place, f"Ignoring source layer {name}")

    def share_with(self, other: "TrainingNet") -> None:
        """Use the other net's weights, by layer name, from now on.

        Raises:
            InputError: a layer of the same name with other weight blobs.
        """
        pairs, ignored = net_weights.shared_layers(self.plan, other.plan)
        for name in ignored:
            self.log("net.cpp:678", f"Ignoring source layer {name}")
        for here, there in pairs:
            target, source = self.net.layers[here], other.net.layers[there]
            with self.plan.layers[here].errors():
                shapes = [[tuple(w.shape) for w in layer.blobs] for layer in (target, source)]
                net_weights.check_shared(*shapes)
            for name, weight in zip(target._weights, source.owned, strict=True):
                target._parameters[name] = weight

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]:
        """All layers with their weights, for a snapshot; `owners_only`: None for what another layer owns."""
        return self.net.layer_weights(owners_only)

    # ---- passes

    def forward(self) -> np.float32:
        """One pass on the data layers' next batch, without gradients; the weighted loss."""
        with torch.no_grad():
            return self._pass()

    def forward_backward(self) -> np.float32:
        """One pass forwards and, where the loss is finite, backwards, adding to the weights' `.grad`; the loss."""
        loss = self._pass()
        if not np.isfinite(loss):
            return loss
        for weight in self._replaced:
            weight.grad = None
        if self._loss.requires_grad:
            self._loss.backward()
        if self.debug:
            self._log_backward()
        return loss

    def outputs(self) -> list[Output]:
        """The net's outputs after the last pass, in Caffe's order."""
        return [
            Output(
                self.plan.blobs[i],
                self.plan.loss_weights.get(i, 0),
                self._outputs[i].float().cpu().numpy().reshape(-1),
            )
            for i in self.plan.outputs
        ]

    def first_wrong(self) -> str:
        """Which layer's weights or tops are first not finite in the last pass, which is run again for it."""
        found: list[str] = []

        def look(plan: LayerPlan, bottoms: tuple[Tensor, ...], tops: tuple[Tensor, ...]) -> None:
            if not found and not all(_finite(w) for w in self.net.layers[plan.index].blobs):
                found.append(f'the weights of layer "{plan.name}" ({plan.where})')
            elif not found and not all(_finite(top) for top in tops):
                found.append(f'the output of layer "{plan.name}" ({plan.where})')

        now = caffe_rng().state()
        caffe_rng().restore(self._random_before)
        with torch.no_grad():
            self._run(look, self._sources)
        caffe_rng().restore(now)
        return found[0] if found else "the sum of the losses"

    def _pass(self) -> np.float32:
        self._random_before = caffe_rng().state()
        self._outputs, self._sources, self._passed, self._replaced = {}, {}, [], []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            self._loss = self._run(self._log_forward if self.debug else None, self._sources)
        return np.float32(self._loss.item())

    def _run(self, observe: Observer | None, sources: dict[int, tuple[Tensor, ...]]) -> Tensor:
        """All layers in order, and the weighted loss. `sources`: see `CaffeNet.run`."""
        loss, layers = torch.zeros((), device=self.device), self.net.layers

        def after(plan: LayerPlan, bottoms: tuple[Tensor, ...], tops: tuple[Tensor, ...]) -> None:
            nonlocal loss
            shapes = (tuple(bottom.shape) for bottom in bottoms)
            layer = layers[plan.index]
            self._replaced += [layer.owned[i] for i in layer.replaced_gradients(*shapes)]
            if observe:
                observe(plan, bottoms, tops)
            for top, weight in zip(tops, plan.loss_weights, strict=True):
                if weight:
                    loss = loss + weight * top.sum()

        given = {i: self.inputs[self.plan.blobs[i]] for i in self.plan.inputs}
        values = self.net.run(given, after, sources)
        self._outputs = {i: values[i].detach() for i in self.plan.outputs}
        return loss

    # ---- debug_info

    def _log_forward(self, plan: LayerPlan, bottoms: tuple[Tensor, ...], tops: tuple[Tensor, ...]) -> None:
        for bottom in bottoms:
            if bottom.requires_grad:
                bottom.retain_grad()
        self._passed.append((plan, bottoms))
        log_forward(self.log, plan, self.plan.blobs, tops, self.net.layers[plan.index].blobs)

    def _log_backward(self) -> None:
        for plan, bottoms in reversed(self._passed):
            if plan.needs_backward:
                diffs = [_gradient(bottom) for bottom in bottoms]
                weights = [_gradient(weight) for weight in self.net.layers[plan.index].blobs]
                log_backward(self.log, plan, self.plan.blobs, diffs, weights)
        learned = [weight for group in self.learnable() for weight in group["params"]]
        log_norms(self.log, learned, [_gradient(weight) for weight in learned])

    def stateful(self) -> dict[str, Any]:
        """By name, the layers that tell where they stand (`state()`, plain data) and go on there (`restore`)."""
        found = {key: getattr(layer, "script", layer) for key, layer in self.net.named_layers().items()}
        return {key: layer for key, layer in found.items() if callable(getattr(layer, "restore", None))}

    @property
    def _layers(self) -> list[tuple[LayerPlan, Layer]]:
        return list(zip(self.plan.layers, self.net.layers, strict=True))


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _finite(blob: Tensor) -> bool:
    return bool(torch.isfinite(blob.detach()).all())
