"""Any prototxt as an `nn.Module`."""

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import port.layers  # noqa: F401  (registers the layers)
from port.blobs import Blobs
from port.copying import copy_arrays
from port.layer import LAYERS, PYTHON_LAYERS, Layer, as_tuple, being_traced
from port.layers.data import open_data
from port.layers.python import Script, ScriptLayer
from port.own_layers import check_tops
from prototxt.caffe_pb2 import NetParameter
from prototxt.errors import InputError, close_names
from prototxt.layers.declare import Shape
from prototxt.own import OWN_FIELDS
from prototxt.plan import LayerPlan, Plan, Step, plan_net
from prototxt.read import read_net
from runtime import net_weights
from runtime.labels import LabelError
from runtime.python_layer import find_layer_class, load_modules
from runtime.set_up import Opened, set_up_net
from weights import LayerWeights, read_weights, write_weights
from weights.names import unique_names
from weights.opening import is_hdf5

if TYPE_CHECKING:
    from port.fused import FusedNet

Observer = Callable[[LayerPlan, tuple[Tensor, ...], tuple[Tensor, ...]], None]
"""Told of each layer that ran: its plan, its bottoms, its tops."""


class CaffeNet(nn.Module):
    """A Caffe net in PyTorch.

    The state dict's keys are Caffe's layer names (`conv1_1.weight`, `conv1_1.bias`); of layers of one name the
    later ones have a suffix (`act#2`). A layer may be replaced by any module, `net.fc8 = nn.Linear(4096, 5)`; what
    stands in for an InnerProduct gets its bottom flattened. Works on batches and sizes other than the prototxt's
    wherever the layers do, on any device, under autograd, `torch.compile`, `torch.export` and `torch.onnx.export`
    (exported, without gradients of Caffe's own); dropout masks and fillers come from Caffe's own generator
    (`runtime.rng.set_random_seed`).

    Args:
        prototxt: a path, or a net that `read_net` gave.
        phase: 0 TRAIN, 1 TEST, fixed as in Caffe. None: the layers of TEST; whether dropout drops and which
            statistics BatchNorm takes is decided by `train()` and `eval()`, as PyTorch has it.
        level, stages: what the layers' rules are judged by.
        allow_modules: Python modules to import: for `Python` layers (SeeNet's are built in), and such as register
            layer types of their own.
        where: the file that a net came from which `read_net` gave, for messages.
        gradient: "caffe": each layer's at what Caffe finds in the blobs, which layers in place may have
            overwritten by then (`prototxt.layers.memory`); "exact": the gradient of what was computed.

    Raises:
        InputError: `file:line: layer "x": …` for whatever Caffe, or the port, refuses.
    """

    def __init__(
        self,
        prototxt: str | os.PathLike | NetParameter,
        phase: int | None = 1,
        level: int = 0,
        stages: Sequence[str] = (),
        allow_modules: Collection[str] = (),
        where: str = "prototxt",
        gradient: str = "caffe",
        palette_labels: bool = False,
    ):
        super().__init__()
        if gradient not in ("caffe", "exact"):
            raise ValueError(f'gradient is "caffe" or "exact", not {gradient!r}')
        self.gradient = gradient
        self._phase_is_fixed = phase is not None
        if allow_modules is not None:
            allow_modules = load_modules(allow_modules, "port.pycaffe")
        if not isinstance(prototxt, NetParameter):
            where, prototxt = os.fspath(prototxt), read_net(prototxt)
        made = set_up_net(
            prototxt,
            1 if phase is None else phase,
            level,
            stages,
            where,
            lambda step: open_layer(step, allow_modules, palette_labels),
        )
        self.plan: Plan = made.plan
        self._keys = unique_names(plan.name for plan in self.plan.layers)
        for key, plan, values, opened in zip(
            self._keys, self.plan.layers, made.values, made.opened, strict=True
        ):
            with plan.errors():
                layer = make_layer(plan, values, opened)
            layer.exact = gradient == "exact"
            if isinstance(layer, ScriptLayer):
                layer.share_memory_of(self.plan.memory)
            # Not add_module: Caffe's names may hold dots, be empty and repeat methods' names.
            self._modules[key] = layer
        self._share()
        self._seen: dict[int, tuple[Shape, ...]] = {}
        self._told = False
        if phase is None:
            self.eval()

    def train(self, mode: bool = True) -> "CaffeNet":
        """Choose the phase, of a net with `phase=None`; of others it is fixed, and a warning says so once."""
        super().train(mode)
        if not self._phase_is_fixed:
            for layer in self.layers:
                layer.phase = 0 if mode else 1
        elif mode != (self.plan.phase == 0) and not self._told:
            self._told = True
            warnings.warn(
                f"this net's phase is fixed: {'TRAIN' if self.plan.phase == 0 else 'TEST'}; train() and eval() change "
                "nothing. CaffeNet(..., phase=None) follows them",
                stacklevel=2,
            )
        return self

    @property
    def layers(self) -> list[Layer]:
        """The layers in the plan's order, the Split layers that the plan added included."""
        return [self._modules[key] for key in self._keys]

    def named_layers(self) -> dict[str, Layer]:
        """The layers by their keys in the state dict."""
        return dict(zip(self._keys, self.layers, strict=True))

    @property
    def blob_shapes(self) -> dict[str, Shape]:
        """The blobs' shapes with the prototxt's own input shapes."""
        return dict(zip(self.plan.blobs, self.plan.shapes, strict=True))

    def forward(self, *inputs: Tensor, blobs: Iterable[str] = (), **named: Tensor) -> dict[str, Tensor]:
        """Run the net.

        Args:
            inputs: the net's inputs in order, and/or by name.
            blobs: names of further blobs to return. A blob that layers work on in place is returned as it is
                after the last of them, as in Caffe.

        Returns:
            The net's outputs and `blobs`, by name. Losses are not weighted: see `loss`.

        Raises:
            InputError: inputs that are no tensors, or not the net's; a blob that it does not have.
        """
        blobs = self.known_blobs(blobs)
        given = named_inputs(self.inputs, inputs, named)
        values = self.run({i: given[self.plan.blobs[i]] for i in self.plan.inputs})
        wanted = {*(self.plan.blobs[i] for i in self.plan.outputs), *blobs}
        return {name: values[i] for i, name in enumerate(self.plan.blobs) if name in wanted}

    def known_blobs(self, names: str | Iterable[str]) -> list[str]:
        """Names of blobs, or one, as a list.

        Raises:
            InputError: a name that no blob of the net has; the nearest is offered.
        """
        names = [names] if isinstance(names, str) else list(names)
        known = frozenset(self.plan.blobs)
        for name in names:
            if name not in known:
                raise InputError(f'this net has no blob "{name}"{_nearest(name, self.plan.blobs)}')
        return names

    def fused(self, blobs: str | Iterable[str] = ()) -> "FusedNet":
        """The net for inference alone, faster and in less memory: see `port.fused.FusedNet`.

        A net that cannot be fused is named in a warning and runs as it is.

        Args:
            blobs: names of blobs that it is to give beside the outputs.

        Raises:
            InputError: a blob that the net does not have.
        """
        from port.fused import FusedNet

        return FusedNet(self, blobs)

    def run(
        self,
        inputs: Mapping[int, Tensor],
        observe: Observer | None = None,
        sources: dict[int, tuple[Tensor, ...]] | None = None,
    ) -> Blobs:
        """Run all layers in order.

        Args:
            inputs: the net's inputs, by blob index.
            observe: told of each layer that ran.
            sources: by layer index the tops of data layers. What is there is used again; what is not is added.

        Returns:
            Every blob by index, as it is after the last layer that wrote to it.
        """
        values = Blobs(self.plan, self.gradient == "exact")
        sources = {} if sources is None else sources
        for plan, layer in zip(self.plan.layers, self.layers, strict=True):
            bottoms = values.bottoms(plan)
            if plan.type == "Input":
                tops = tuple(inputs[i] for i in plan.tops)
                values.keep(plan, tops)
            elif not plan.bottoms:
                if plan.index not in sources:
                    with plan.errors():
                        sources[plan.index] = as_tuple(layer())
                tops = sources[plan.index]
                values.keep(plan, tops)
            else:
                try:
                    if isinstance(layer, Layer):
                        self._check_shapes(plan, bottoms)
                    elif plan.type == "InnerProduct":
                        bottoms = (bottoms[0].flatten(plan.param.inner_product_param.axis),)
                    tops = values.run(plan, layer, bottoms)
                except InputError:
                    # Entered only here: around every layer they would cost as much as a small layer does.
                    with plan.errors(), self._label_errors(sources):
                        raise
            if observe:
                observe(plan, bottoms, tops)
        return values.all_current()

    def _check_shapes(self, plan: LayerPlan, bottoms: Sequence[Tensor]) -> None:
        """Refuse bottoms of another shape than the net was set up with, where Caffe refuses them."""
        if being_traced():
            return
        shapes = tuple(tuple(bottom.shape) for bottom in bottoms)
        if shapes != self._seen.get(plan.index, plan.bottom_shapes):
            plan.top_shapes(*shapes)
            self._seen[plan.index] = shapes

    @contextlib.contextmanager
    def _label_errors(self, sources: Mapping[int, tuple[Tensor, ...]]) -> Iterator[None]:
        """Let a label that no class has name the file, line and item that it came from."""
        try:
            yield
        except LabelError as error:
            found = ", ".join(self._items_labelled(error.label, sources))
            raise InputError(f"{found}: {error}" if found else str(error)) from error

    def _items_labelled(self, label: int, sources: Mapping[int, tuple[Tensor, ...]]) -> Iterator[str]:
        """What a label in the batch at hand came from, as the data layers' lists have it."""
        for index, tops in sources.items():
            items: list[str] = getattr(self.layers[index], "items", list)()
            for top in tops[1:]:
                if items and len(top) == len(items):
                    hit = (top.reshape(len(items), -1).long() == label).any(dim=1)
                    yield from (item for item, found in zip(items, hit.tolist(), strict=True) if found)

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses among `outputs`, each times its loss weight."""
        total = torch.zeros(())
        for top, weight in self.plan.loss_weights.items():
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
        return self.copy_weights(read_weights(path, with_empty=True), os.fspath(path), hdf5=is_hdf5(path))

    def copy_weights(
        self, source: list[LayerWeights], where: str = "weights", hdf5: bool = False
    ) -> list[str]:
        """As `load_weights`, from weights already read. `hdf5`: from an HDF5 file, for which Caffe's rule differs."""
        layers = self.layers
        shapes = [[tuple(blob.shape) for blob in _blobs(layer)] for layer in layers]
        keys = {key: i for i, key in enumerate(self._keys)}
        found, skipped = net_weights.matched(self.plan, shapes, source, where, hdf5=hdf5, keys=keys)
        for index, arrays in found.items():
            copy_arrays(arrays, _blobs(layers[index]))
        return skipped

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]:
        """The weights with their layers' messages, for `weights.write_weights`; see `runtime.net_weights.saved`."""
        blobs = [[blob.detach().cpu().numpy() for blob in _blobs(layer)] for layer in self.layers]
        for plan, own in zip(self.plan.layers, blobs, strict=True):
            if len(own) != len(plan.params):
                raise InputError(
                    f'layer "{plan.name}" was replaced by what has {len(own)} weights: {plan.type} has '
                    f"{len(plan.params)}; save the net's state_dict() with torch.save"
                )
        return net_weights.saved(self.plan, blobs, owners_only)

    def save(self, path: str | os.PathLike) -> None:
        """Write the weights; the suffix names the format: .caffemodel, .h5, .safetensors, .pth.

        Raises:
            InputError: another suffix, a file that cannot be written, a layer that was replaced by another kind.
        """
        write_weights(path, self.layer_weights())

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        metadata: dict,
        strict: bool,
        missing: list,
        unexpected: list,
        errors: list,
    ) -> None:
        """PyTorch's own takes a key up to its first dot for a module's name; a Caffe name may hold dots."""
        if strict:
            known = self.state_dict(prefix=prefix)
            unexpected += [key for key in state_dict if key not in known]

    def _share(self) -> None:
        layers = self.layers
        for plan in self.plan.layers:
            for i, param in enumerate(plan.params):
                if param.owner is not None:
                    with plan.errors():
                        layers[plan.index].share_weight(
                            i, layers[param.owner[0]].owned[param.owner[1]], param
                        )


def named_inputs(
    names: Sequence[str], inputs: Sequence[Tensor], named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Inputs of a net by name, given in order and by name.

    Raises:
        InputError: what is no tensor of floating point, and other inputs than the net's.
    """
    if len(inputs) > len(names) and inputs[-1] == ():
        inputs = inputs[:-1]  # the default of `blobs`, as torch.onnx.export without dynamo adds it
    if len(inputs) > len(names):
        raise InputError(f"{len(inputs)} inputs given, this net has {len(names)}: {', '.join(names)}")
    given = {**dict(zip(names, inputs, strict=False)), **named}
    if set(given) != set(names):
        raise InputError(f"the net's inputs are {', '.join(names)}; given: {', '.join(given) or 'none'}")
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise InputError(f'input "{name}" {_not_a_tensor(value)}')
        if not value.is_floating_point():
            raise InputError(f'input "{name}" is of {value.dtype}: give floating point, x.float()')
    return given


def _nearest(name: str, names: Iterable[str]) -> str:
    near = close_names(name, names)
    return f': do you mean "{near[0]}"?' if near else ""


def _not_a_tensor(value: object) -> str:
    if value is None:
        return "is None: cv2.imread gives that for a file that it cannot read. Check the path"
    if hasattr(value, "__array__"):
        return "is an array, not a tensor: give torch.from_numpy(x).float(), of shape (num, channels, height, width)"
    return f"is a {type(value).__name__}, not a tensor"


def _blobs(layer: nn.Module) -> list[Tensor]:
    """The weights of a layer, or of what stands in its place."""
    return layer.blobs if isinstance(layer, Layer) else list(layer.parameters())


def open_layer(
    step: Step, allow_modules: Collection[str] | None, palette_labels: bool = False
) -> Opened | None:
    """Set up a layer that its declaration does not tell all of: one that reads files, or a script's.

    Raises:
        InputError: files that cannot be used, a Python layer that may not be loaded.
    """
    if step.param.type != "Python":
        return open_data(step, palette_labels)
    cls = find_layer_class(step.param, PYTHON_LAYERS, allow_modules, "port.pycaffe")
    if issubclass(cls, Layer):
        return cls.open(step) if hasattr(cls, "open") else None
    script = Script(cls, step)
    return script, script.declared


def plan_of(
    net: NetParameter, phase: int, where: str = "prototxt", allow_modules: Collection[str] | None = ()
) -> Plan:
    """The plan of a net whose files are there; no weights are drawn."""
    return plan_net(
        net, phase, where=where, set_up=lambda step: (open_layer(step, allow_modules) or (None, None))[1]
    )


def make_layer(plan: LayerPlan, values: Sequence, opened: object) -> Layer:
    """The port's layer for one entry of a plan.

    Raises:
        InputError: a type that the port does not have.
    """
    if isinstance(opened, Script):
        return ScriptLayer(plan, opened)
    python = plan.param.python_param
    cls = PYTHON_LAYERS[python.module, python.layer] if plan.type == "Python" else LAYERS.get(plan.type)
    if cls is None:
        raise InputError(f"{plan.type} is not supported by the port")
    made = cls(plan, values, opened)
    if plan.type in OWN_FIELDS:
        made.register_forward_hook(check_tops)
    return made
