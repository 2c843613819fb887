"""A `CaffeNet` as a solver runs it: pass by pass, from its own data layers, on one device."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.blobs import Blobs
from port.layer import as_tuple
from port.layers.checks import LabelError
from port.net import CaffeNet
from port.training.caffe_log import CaffeLog, log_backward, log_forward, log_net, log_norms
from prototxt.caffe_pb2 import LayerParameter, NetParameter, ParamSpec
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, ParamPlan, Plan
from runtime.rng import caffe_rng
from weights import LayerWeights
from weights.opening import HDF5_MAGIC, first_bytes

Observer = Callable[[LayerPlan, tuple[Tensor, ...], tuple[Tensor, ...]], None]


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
    ):
        self.log, self.device, self.amp = log, torch.device(device), amp
        self.net = CaffeNet(net, phase, level, stages, allow_modules).to(self.device)
        self.plan: Plan = self.net.plan
        self.debug = False
        self.inputs = {
            name: torch.zeros(self.net.blob_shapes[name], device=self.device) for name in self.net.inputs
        }
        self._layers = [(plan, self.net._modules[plan.name]) for plan in self.plan.layers]
        self._loss_weights = {
            top: weight
            for plan in self.plan.layers
            for top, weight in zip(plan.tops, plan.loss_weights, strict=True)
        }
        self._loss = torch.zeros(())
        self._outputs: dict[int, Tensor] = {}
        self._sources: dict[str, tuple[Tensor, ...]] = {}
        self._passed: list[tuple[LayerPlan, tuple[Tensor, ...]]] = []
        self._replaced: list[Tensor] = []
        self._random_before: dict[str, Any] = {}

    def log_layers(self, net: NetParameter) -> None:
        """Say how the net was built from its message, as Caffe does."""
        log_net(self.log, self.plan, [self.net.blob_shapes[name] for name in self.plan.blobs], net)

    # ---- weights

    def learnable(self) -> list[dict[str, Any]]:
        """The weight blobs in Caffe's order, each shared one once, as groups for a solver."""
        return [
            {"params": [weight], "lr_mult": spec.lr_mult, "decay_mult": spec.decay_mult}
            for plan, layer in self._layers
            for weight, spec in zip(layer.blobs, blob_specs(plan, len(layer.blobs)), strict=True)
            if spec.owner is None
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
        place = "net.cpp:801" if first_bytes(path).startswith(HDF5_MAGIC) else "net.cpp:746"
        for name in skipped:
            self.log(place, f"Ignoring source layer {name}")

    def share_with(self, other: "TrainingNet") -> None:
        """Use the other net's weights, by layer name, from now on.

        Raises:
            InputError: a layer of the same name with other weight blobs.
        """
        mine = {plan.name: (plan, layer) for plan, layer in self._layers}
        for plan, source in other._layers:
            if plan.name not in mine:
                self.log("net.cpp:678", f"Ignoring source layer {plan.name}")
                continue
            here, target = mine[plan.name]
            with here.errors():
                shapes = [[tuple(w.shape) for w in layer.blobs] for layer in (source, target)]
                if shapes[0] != shapes[1]:
                    raise InputError(
                        f"weights {shapes[1]} here and {shapes[0]} in the training net: make them equal"
                    )
            for name, weight in zip(target._weights, source.blobs, strict=True):
                target._parameters[name] = weight

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]:
        """All layers with their weights, for a snapshot; `owners_only`: None for what another layer owns."""
        return [
            LayerWeights(
                plan.name,
                plan.type,
                [
                    None if owners_only and spec.owner is not None else weight.detach().cpu().numpy()
                    for weight, spec in zip(layer.blobs, blob_specs(plan, len(layer.blobs)), strict=True)
                ],
                param=saved_param(plan),
            )
            for plan, layer in self._layers
        ]

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
                self.plan.blobs[i], self._loss_weights[i], self._outputs[i].float().cpu().numpy().reshape(-1)
            )
            for i in self.plan.outputs
        ]

    def first_wrong(self) -> str:
        """Which layer's weights or tops are first not finite in the last pass, which is run again for it."""
        found: list[str] = []

        def look(plan: LayerPlan, bottoms: tuple[Tensor, ...], tops: tuple[Tensor, ...]) -> None:
            if not found and not all(_finite(w) for w in self.net._modules[plan.name].blobs):
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
            self._loss = self._run(self._log_forward if self.debug else None, {})
        return np.float32(self._loss.item())

    def _run(self, observe: Observer | None, sources: dict[str, tuple[Tensor, ...]]) -> Tensor:
        """All layers in order. `sources`: an earlier pass's tops of layers without bottoms, to use again."""
        values = Blobs(self.plan)
        loss = torch.zeros((), device=self.device)
        for plan, layer in self._layers:
            bottoms = values.bottoms(plan)
            if not plan.bottoms:
                tops = sources[plan.name] if plan.name in sources else self._source(plan, layer)
                values.keep(plan, tops)
            else:
                with plan.errors(), self._label_errors():
                    tops = values.run(plan, layer, bottoms)
                shapes = (tuple(bottom.shape) for bottom in bottoms)
                self._replaced += [layer.blobs[i] for i in layer.replaced_gradients(*shapes)]
            if observe:
                observe(plan, bottoms, tops)
            for top, weight in zip(tops, plan.loss_weights, strict=True):
                if weight:
                    loss = loss + weight * top.sum()
        self._outputs = {i: values[i].detach() for i in self.plan.outputs}
        return loss

    @contextlib.contextmanager
    def _label_errors(self) -> Iterator[None]:
        """Let a label that no class has name the file, line and item that it came from."""
        try:
            yield
        except LabelError as error:
            found = ", ".join(self._items_labelled(error.label))
            raise InputError(f"{found}: {error}" if found else str(error)) from error

    def _items_labelled(self, label: int) -> Iterator[str]:
        """What a label in the batch at hand came from, as the data layers' lists have it."""
        for name, tops in self._sources.items():
            items = getattr(self.net._modules[name], "items", list)()
            for top in tops[1:]:
                if items and len(top) == len(items):
                    hit = (top.reshape(len(items), -1).long() == label).any(dim=1)
                    yield from (item for item, found in zip(items, hit.tolist(), strict=True) if found)

    def _source(self, plan: LayerPlan, layer: torch.nn.Module) -> tuple[Tensor, ...]:
        if plan.type == "Input":
            return tuple(self.inputs[self.plan.blobs[i]] for i in plan.tops)
        with plan.errors():
            tops = tuple(top.to(self.device, non_blocking=True) for top in as_tuple(layer()))
        self._sources[plan.name] = tops
        return tops

    # ---- debug_info

    def _log_forward(self, plan: LayerPlan, bottoms: tuple[Tensor, ...], tops: tuple[Tensor, ...]) -> None:
        for bottom in bottoms:
            if bottom.requires_grad:
                bottom.retain_grad()
        self._passed.append((plan, bottoms))
        log_forward(self.log, plan, self.plan.blobs, tops, self.net._modules[plan.name].blobs)

    def _log_backward(self) -> None:
        for plan, bottoms in reversed(self._passed):
            if plan.needs_backward:
                diffs = [_gradient(bottom) for bottom in bottoms]
                weights = [_gradient(weight) for weight in self.net._modules[plan.name].blobs]
                log_backward(self.log, plan, self.plan.blobs, diffs, weights)
        learned = [weight for group in self.learnable() for weight in group["params"]]
        log_norms(self.log, learned, [_gradient(weight) for weight in learned])

    def stateful(self) -> dict[str, Any]:
        """By name, the layers that tell where they stand (`state()`, plain data) and go on there (`restore`)."""
        found = {plan.name: getattr(layer, "script", layer) for plan, layer in self._layers}
        return {name: layer for name, layer in found.items() if callable(getattr(layer, "restore", None))}


def blob_specs(plan: LayerPlan, count: int) -> list[ParamPlan]:
    """The plan of each weight blob.

    BatchNorm's blobs are running sums: Caffe's layer gives them a rate of 0 itself. How many blobs a Python
    layer has is not known to the plan.
    """
    if plan.type == "BatchNorm":
        return [ParamPlan(spec.name, spec.owner, 0, spec.decay_mult, False) for spec in plan.params]
    given = list(plan.params)
    for i in range(len(given), count):
        spec = plan.param.param[i] if i < len(plan.param.param) else ParamSpec()
        given.append(ParamPlan(spec.name, None, spec.lr_mult, spec.decay_mult, spec.lr_mult != 0))
    return given


def saved_param(plan: LayerPlan) -> LayerParameter:
    """A layer's message as Caffe saves it: with what the layer has set in it itself while it was set up."""
    param = LayerParameter()
    param.CopyFrom(plan.param)
    if any(plan.loss_weights) and not param.loss_weight:
        param.loss_weight.append(1)
    if plan.type == "BatchNorm":
        param.param.extend(ParamSpec(lr_mult=0) for _ in range(len(param.param), len(plan.params)))
    return param


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _finite(blob: Tensor) -> bool:
    return bool(torch.isfinite(blob.detach()).all())
