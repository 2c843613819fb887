"""Any prototxt as an `nn.Module`."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

import port.layers  # noqa: F401  (registers the layers)
from port.blobs import Blobs
from port.copying import copy_by_name
from port.layer import LAYERS, PYTHON_LAYERS, Layer, Shape
from port.layers.python import ScriptLayer
from prototxt.caffe_pb2 import NetParameter
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, Plan, plan_net
from prototxt.read import read_net
from runtime.python_layer import find_layer_class
from weights import LayerWeights, read_weights


class CaffeNet(nn.Module):
    """A Caffe net in PyTorch.

    The state dict's keys are Caffe's layer names (`conv1_1.weight`, `conv1_1.bias`). The phase is fixed, as
    in Caffe: `train()` and `eval()` change nothing. Works on batches and sizes other than the prototxt's
    wherever the layers do, on any device, under autograd; dropout masks and fillers come from Caffe's own
    generator (`runtime.rng.set_random_seed`).

    Args:
        prototxt: a path, or a net that `read_net` gave.
        phase: 0 TRAIN, 1 TEST.
        level, stages: what the layers' rules are judged by.
        allow_modules: Python modules that may be imported for `Python` layers; SeeNet's are built in.
        where: the file that a net came from which `read_net` gave, for messages.
        gradient: "caffe": each layer's at what Caffe finds in the blobs, which layers in place may have
            overwritten by then (`prototxt.layers.memory`); "exact": the gradient of what was computed.

    Raises:
        InputError: `file:line: layer "x": …` for whatever Caffe, or the port, refuses.
    """

    def __init__(
        self,
        prototxt: str | os.PathLike | NetParameter,
        phase: int = 1,
        level: int = 0,
        stages: Sequence[str] = (),
        allow_modules: Collection[str] = (),
        where: str = "prototxt",
        gradient: str = "caffe",
    ):
        super().__init__()
        if gradient not in ("caffe", "exact"):
            raise ValueError(f'gradient is "caffe" or "exact", not {gradient!r}')
        self.gradient = gradient
        if not isinstance(prototxt, NetParameter):
            where, prototxt = os.fspath(prototxt), read_net(prototxt)
        self.plan: Plan = plan_net(prototxt, phase, level, stages, where)
        shapes: dict[int, Shape] = {}
        for plan in self.plan.layers:
            with plan.errors():
                bottoms = [shapes[i] for i in plan.bottoms]
                cls = layer_class(plan, allow_modules)
                layer = cls(plan, *bottoms) if issubclass(cls, Layer) else ScriptLayer(cls, plan, *bottoms)
                tops = layer.top_shapes(*bottoms)
            shapes.update(zip(plan.tops, tops, strict=True))
            layer.exact = gradient == "exact"
            # Not add_module: Caffe's names may hold dots and repeat methods' names.
            self._modules[plan.name] = layer
        self.blob_shapes = {name: shapes[i] for i, name in enumerate(self.plan.blobs)}
        """The blobs' shapes with the prototxt's own input shapes."""
        self._share()

    def forward(self, *inputs: Tensor, blobs: Iterable[str] = (), **named: Tensor) -> dict[str, Tensor]:
        """Run the net.

        Args:
            inputs: the net's inputs in order, and/or by name.
            blobs: names of further blobs to return. A blob that layers work on in place is returned as it is
                after the last of them, as in Caffe.

        Returns:
            The net's outputs and `blobs`, by name. Losses are not weighted: see `loss`.
        """
        given = self._inputs(inputs, named)
        values = Blobs(self.plan, self.gradient == "exact")
        for plan in self.plan.layers:
            if plan.type == "Input":
                values.keep(plan, [given[self.plan.blobs[i]] for i in plan.tops])
                continue
            with plan.errors():
                values.run(plan, self._modules[plan.name], values.bottoms(plan))
        wanted = {*(self.plan.blobs[i] for i in self.plan.outputs), *blobs}
        return {name: values[i] for i, name in enumerate(self.plan.blobs) if name in wanted}

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses among `outputs`, each times its loss weight."""
        total = torch.zeros(())
        for layer in self.plan.layers:
            for top, weight in zip(layer.tops, layer.loss_weights, strict=True):
                if weight:
                    total = total + weight * outputs[self.plan.blobs[top]].sum()
        return total

    @property
    def inputs(self) -> list[str]:
        """Names of the net's inputs."""
        return [self.plan.blobs[i] for i in self.plan.inputs]

    def load_weights(self, path: str | os.PathLike) -> list[str]:
        """Copy weights by layer name, as Caffe does, from any format that `weights` reads.

        Returns the layers of the file that this net lacks.

        Raises:
            InputError: a shape that differs, or an unreadable file.
        """
        return self.copy_weights(read_weights(path, with_empty=True), os.fspath(path))

    def copy_weights(self, source: list[LayerWeights], where: str = "weights") -> list[str]:
        """As `load_weights`, from weights already read."""
        blobs = {plan.name: self._modules[plan.name].blobs for plan in self.plan.layers}
        return copy_by_name(source, blobs, where, shared=self.plan.sharers)

    def layer_weights(self) -> list[LayerWeights]:
        """The weights with their layers' messages, for `weights.write_weights`."""
        return [
            LayerWeights(
                plan.name,
                plan.type,
                [w.detach().cpu().numpy() for w in self._modules[plan.name].blobs],
                param=plan.param,
            )
            for plan in self.plan.layers
        ]

    def _inputs(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = self.inputs
        if len(inputs) > len(names):
            raise InputError(f"{len(inputs)} inputs given, this net has {len(names)}: {', '.join(names)}")
        given = {**dict(zip(names, inputs, strict=False)), **named}
        if set(given) != set(names):
            raise InputError(f"the net's inputs are {', '.join(names)}; given: {', '.join(given) or 'none'}")
        return given

    def _share(self) -> None:
        for plan in self.plan.layers:
            for i, param in enumerate(plan.params):
                if param.owner is not None:
                    owner: Layer = self._modules[self.plan.layers[param.owner[0]].name]
                    self._modules[plan.name].share_weight(i, owner.blobs[param.owner[1]], param)


def layer_class(plan: LayerPlan, allow_modules: Collection[str] | None) -> type:
    """The class behind one entry of a plan: the port's, or a script's own Python layer.

    Raises:
        InputError: a type that the port does not carry, a Python layer that may not be loaded.
    """
    if plan.type == "Python":
        return find_layer_class(plan.param, PYTHON_LAYERS, allow_modules, "port.pycaffe")
    if plan.type not in LAYERS:
        raise InputError(f"type {plan.type} is not carried by the port")
    return LAYERS[plan.type]
