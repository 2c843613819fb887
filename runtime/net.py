"""`caffe.Net`: a planned net's blobs, layers and passes, over an engine's layers."""

import logging
import os
from abc import abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np

from prototxt.caffe_pb2 import NetParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Weight
from prototxt.plan import LayerPlan, Plan, Step
from prototxt.read import read_net
from runtime import net_weights
from runtime.blob import Blob, BlobVec
from runtime.errors import CaffeRuntimeError, check_opens
from runtime.python_layer import new_python_layer
from runtime.set_up import Opened, set_up_net
from weights import LayerWeights, read_weights, write_caffemodel, write_hdf5
from weights.opening import is_hdf5

log = logging.getLogger("caffe")

TRAIN, TEST = 0, 1


class EngineLayer(Protocol):
    """What a net asks of a layer; a Python layer of pycaffe answers it as it is."""

    blobs: BlobVec

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Compute the tops' data."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Overwrite the bottoms' diff where asked to; add to the weights' diff."""


class Net:
    """A net, as pycaffe has it.

    `Net(file, phase)`, `Net(file, weights, phase)`, or by keyword: `Net(file, phase=, weights=, level=,
    stages=)`. Beyond pycaffe: `dtype` (float32, or float64 where the engine has it) and `allow_modules`
    (None: Python layers load any module on the path, as in Caffe; else only the named ones).

    Raises:
        InputError: whatever is wrong with the files, in one line; a file that cannot be opened is a
            RuntimeError as well, as in pycaffe.
    """

    def __init__(
        self,
        network_file: str | os.PathLike,
        *args: Any,
        phase: int | None = None,
        weights: str | os.PathLike | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        dtype: np.dtype | type = np.float32,
        allow_modules: Collection[str] | None = None,
    ):
        if args and isinstance(args[0], str | os.PathLike):  # pycaffe's older order
            weights, args = args[0], args[1:]
        positional = dict(zip(("phase", "level", "stages", "weights"), args, strict=False))
        phase = positional.get("phase", phase)
        if phase not in (TRAIN, TEST):
            raise InputError(f"{network_file}: Net needs a phase: caffe.TRAIN or caffe.TEST")
        weights = positional.get("weights", weights)
        where = os.fspath(network_file)
        check_opens(network_file)
        if weights is not None:
            check_opens(weights)
        self._build(
            read_net(network_file),
            phase,
            positional.get("level", level),
            positional.get("stages", stages) or (),
            where,
            np.dtype(dtype),
            allow_modules,
        )
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def from_message(
        cls,
        net: NetParameter,
        phase: int,
        level: int = 0,
        stages: Sequence[str] = (),
        where: str = "prototxt",
        dtype: np.dtype | type = np.float32,
        allow_modules: Collection[str] | None = None,
    ) -> "Net":
        """A net from a message that `read_net` or `parse_net` gave."""
        self = cls.__new__(cls)
        self._build(net, phase, level, stages, where, np.dtype(dtype), allow_modules)
        return self

    @abstractmethod
    def _open_layer(self, step: Step) -> Opened | type | None:
        """What a layer's set-up opens; the class of a script's Python layer; None where its declaration says all."""

    @abstractmethod
    def _make_layer(self, plan: LayerPlan, values: list[np.ndarray], opened: Any) -> EngineLayer:
        """The engine's layer for one entry of the plan, with its first weights and what its set-up opened."""

    def _build(
        self,
        net: NetParameter,
        phase: int,
        level: int,
        stages: Sequence[str],
        where: str,
        dtype: np.dtype,
        allow_modules: Collection[str] | None,
    ) -> None:
        self.dtype = dtype
        self.allow_modules = allow_modules
        self._callbacks: defaultdict[str, list[Callable[[int], Any]]] = defaultdict(list)
        self._blobs: list[Blob] = []
        made = set_up_net(net, phase, level, stages, where, self._set_up)
        self.plan: Plan = made.plan
        self.layers: list[EngineLayer] = []
        for blob, shape in zip(self._blobs, self.plan.shapes, strict=True):
            blob.reshape(*shape)
        for plan, values, opened in zip(self.plan.layers, made.values, made.opened, strict=True):
            with plan.errors():
                if plan.declared.script:
                    layer = opened
                else:
                    layer = self._make_layer(plan, values, opened)
                    layer.reshape(*self._vectors(plan))
            self.layers.append(layer)
        for top, weight in self.plan.loss_weights.items():
            self._blobs[top].diff[...] = weight
        self._share_params()
        self._name_everything()

    def _set_up(self, step: Step) -> Opened | None:
        """Set up one layer, in Caffe's order."""
        self._blobs += [
            Blob((), self.dtype) for _ in range(max(step.tops, default=-1) + 1 - len(self._blobs))
        ]
        opened = self._open_layer(step)
        if not isinstance(opened, type):
            return opened
        layer = new_python_layer(opened, step.param)
        bottom, top = [self._blobs[i] for i in step.bottoms], [self._blobs[i] for i in step.tops]
        for blob, shape in zip(bottom, step.bottom_shapes, strict=True):
            blob.reshape(*shape)
        layer.setup(bottom, top)
        layer.reshape(bottom, top)
        shapes = [blob.shape for blob in top]
        return layer, Declared(shapes, [Weight(blob.shape) for blob in layer.blobs], script=True)

    def _share_params(self) -> None:
        for plan, layer in zip(self.plan.layers, self.layers, strict=True):
            for i, param in enumerate(plan.params):
                if param.owner is None:
                    continue
                owner = self.layers[param.owner[0]].blobs[param.owner[1]]
                mine = layer.blobs[i]
                with plan.errors():
                    net_weights.check_owner(param, mine.shape, owner.shape)
                mine.share_data(owner)
                mine.share_diff(owner)

    def _name_everything(self) -> None:
        plan = self.plan
        names = plan.blobs
        self.name = plan.name
        self.blobs: OrderedDict[str, Blob] = OrderedDict(zip(names, self._blobs, strict=True))
        self._blob_names = list(names)
        self._layer_names = [layer.name for layer in plan.layers]
        self._inputs, self._outputs = list(plan.inputs), list(plan.outputs)
        self.inputs = [names[i] for i in plan.inputs]
        self.outputs = [names[i] for i in plan.outputs]
        self.top_names = OrderedDict((x.name, [names[i] for i in x.tops]) for x in plan.layers)
        self.bottom_names = OrderedDict((x.name, [names[i] for i in x.bottoms]) for x in plan.layers)
        self.layer_dict = OrderedDict(zip(self._layer_names, self.layers, strict=True))
        self.params = OrderedDict((name, x.blobs) for name, x in self.layer_dict.items() if x.blobs)
        self._blob_loss_weights = [plan.loss_weights.get(i, 0.0) for i in range(len(names))]
        self.blob_loss_weights = OrderedDict(zip(names, self._blob_loss_weights, strict=True))

    def _top_ids(self, layer: int) -> list[int]:
        """The indices of a layer's tops among `_blobs`."""
        return list(self.plan.layers[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        """The indices of a layer's bottoms among `_blobs`."""
        return list(self.plan.layers[layer].bottoms)

    def _vectors(self, plan: LayerPlan) -> tuple[list[Blob], list[Blob]]:
        return [self._blobs[i] for i in plan.bottoms], [self._blobs[i] for i in plan.tops]

    # ---- passes

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Have the first layer, a MemoryData, read from these: (n, channels, height, width), and n labels.

        Both are float32 and C-contiguous, and are not copied: what is written into them later is read.

        Raises:
            CaffeRuntimeError: another first layer, other arrays, or n that is no multiple of the batch size.
        """
        if not self.plan.layers or self.plan.layers[0].type != "MemoryData":
            raise CaffeRuntimeError("set_input_arrays: the net's first layer is no MemoryData")
        for name, array in (("data", data), ("labels", labels)):
            if array.dtype != np.float32 or not array.flags.c_contiguous:
                raise CaffeRuntimeError(f"set_input_arrays: {name} must be C-contiguous float32")
        try:
            with self.plan.layers[0].errors():
                source: Any = self.layers[0]
                source.reset(data, labels)
        except InputError as error:
            raise CaffeRuntimeError(str(error)) from error

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run the layers `start` … `end` (inclusive); keyword arguments are written to the inputs first.

        Returns the data of the net's outputs (of `end`'s tops, where given) and of `blobs`, by name, as
        views.
        """
        first = self._index(start) if start is not None else 0
        last = self._index(end) if end is not None else len(self.layers) - 1
        wanted = {*(self.top_names[end] if end is not None else self.outputs), *(blobs or ())}
        if kwargs:
            if set(kwargs) != set(self.inputs):
                raise Exception("Input blob arguments do not match net inputs.")
            for name, value in kwargs.items():
                if value.shape[0] != self.blobs[name].shape[0]:
                    raise Exception("Input is not batch sized")
                self.blobs[name].data[...] = value
        self._forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Run the layers `start` … `end` backwards; keyword arguments are written to the outputs' diffs.

        Returns the diffs of the net's inputs (of `end`'s bottoms, where given) and of `diffs`, by name.
        """
        first = self._index(start) if start is not None else len(self.layers) - 1
        last = self._index(end) if end is not None else 0
        wanted = {*(self.bottom_names[end] if end is not None else self.inputs), *(diffs or ())}
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise Exception("Top diff arguments do not match net outputs.")
            for name, value in kwargs.items():
                if value.shape[0] != self.blobs[name].shape[0]:
                    raise Exception("Diff is not batch sized")
                self.blobs[name].diff[...] = value
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def _forward(self, start: int, end: int) -> float:
        """Run layers `start` … `end` by index; returns the weighted loss."""
        loss = 0.0
        for i in range(start, end + 1):
            plan = self.plan.layers[i]
            bottom, top = self._vectors(plan)
            self._call_back("before_forward", i)
            try:
                self.layers[i].reshape(bottom, top)
                self.layers[i].forward(bottom, top)
            except InputError:
                with plan.errors():  # only here: around every layer it would cost as much as a small one does
                    raise
            for blob, weight in zip(top, plan.loss_weights, strict=True):
                if weight:
                    loss += float(np.vdot(blob.data, blob.diff))
            self._call_back("after_forward", i)
        return loss

    def _backward(self, start: int, end: int) -> None:
        """Run layers `start` … `end` (start ≥ end) by index."""
        for i in range(start, end - 1, -1):
            plan = self.plan.layers[i]
            self._call_back("before_backward", i)
            if plan.needs_backward:
                bottom, top = self._vectors(plan)
                with plan.errors():
                    self.layers[i].backward(top, list(plan.propagate_down), bottom)
            self._call_back("after_backward", i)

    def before_forward(self, run: Callable[[int], Any]) -> None:
        """Have `run` called with the layer's index before each layer's forward pass."""
        self._callbacks["before_forward"].append(run)

    def after_forward(self, run: Callable[[int], Any]) -> None:
        """Have `run` called with the layer's index after each layer's forward pass."""
        self._callbacks["after_forward"].append(run)

    def before_backward(self, run: Callable[[int], Any]) -> None:
        """Have `run` called with the layer's index before each layer's turn backwards, also one without any."""
        self._callbacks["before_backward"].append(run)

    def after_backward(self, run: Callable[[int], Any]) -> None:
        """Have `run` called with the layer's index after each layer's turn backwards, also one without any."""
        self._callbacks["after_backward"].append(run)

    def _call_back(self, when: str, layer: int) -> None:
        for run in self._callbacks[when]:
            run(layer)

    # ---- passes over more than a batch

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: np.ndarray) -> dict[str, np.ndarray]:
        """`forward` over inputs of any length, a batch at a time; copies, as long as the inputs are.

        The last batch is filled up with zeros, which no result shows.
        """
        outs = [_copies(self.forward(blobs, **batch)) for batch in self._batch(kwargs)]
        return self._joined(outs, _length(kwargs))

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """`forward` and `backward` over inputs (and outputs' diffs) of any length, a batch at a time."""
        forwards = self._batch({name: kwargs[name] for name in self.inputs if name in kwargs})
        backwards = self._batch({name: kwargs[name] for name in self.outputs if name in kwargs})
        outs, grads = [], []
        nothing: dict[str, Any] = {}
        for inputs, top_diffs in zip_longest(forwards, backwards, fillvalue=nothing):
            outs.append(_copies(self.forward(blobs, **inputs)))
            grads.append(_copies(self.backward(diffs, **top_diffs)))
        return self._joined(outs, _length(kwargs)), self._joined(grads, _length(kwargs))

    def _batch(self, blobs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Arrays cut into the net's batches, the last one filled up with zeros."""
        size = self._batch_size
        for start in range(0, _length(blobs), size):
            batch = {name: np.asarray(array[start : start + size]) for name, array in blobs.items()}
            yield {
                name: np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
                for name, array in batch.items()
            }

    @property
    def _batch_size(self) -> int:
        return self._blobs[0].shape[0]

    def _joined(self, batches: list[dict[str, np.ndarray]], length: int) -> dict[str, np.ndarray]:
        """Batches' results one after the other; what has a row for each input ends where the inputs end."""
        joined = {}
        for name in batches[0] if batches else ():
            rows = [batch[name] for batch in batches]
            whole = np.concatenate(rows) if rows[0].ndim else np.stack(rows)
            each = rows[0].ndim and len(rows[0]) == self._batch_size
            joined[name] = whole[:length] if each else whole
        return joined

    def reshape(self) -> None:
        """Carry the inputs' shapes through the net without computing."""
        for plan, layer in zip(self.plan.layers, self.layers, strict=True):
            with plan.errors():
                layer.reshape(*self._vectors(plan))

    def clear_param_diffs(self) -> None:
        for layer in self.layers:
            for blob in layer.blobs:
                blob.diff[...] = 0

    # ---- weights

    def copy_from(self, path: str | os.PathLike) -> None:
        """Copy weights by layer name from `.caffemodel`, HDF5, `.safetensors` or `.pth`, as Caffe does.

        Layers that this net lacks are named in the log and skipped; layers that the file lacks keep what
        they have.

        Raises:
            InputError: a shape that differs, or an unreadable file.
        """
        check_opens(path)
        shapes = [[blob.shape for blob in layer.blobs] for layer in self.layers]
        source = read_weights(path, with_empty=True)
        found, skipped = net_weights.matched(self.plan, shapes, source, os.fspath(path), hdf5=is_hdf5(path))
        for name in skipped:
            log.info("Ignoring source layer %s", name)
        for index, arrays in found.items():
            for blob, array in zip(self.layers[index].blobs, arrays, strict=True):
                if array is not None:
                    blob.data[...] = array

    load_hdf5 = copy_from

    def save(self, path: str | os.PathLike) -> None:
        """Write the weights as a .caffemodel, whatever the file is called, as Caffe does."""
        write_caffemodel(path, self.layer_weights(), net_name=self.plan.name)

    def save_hdf5(self, path: str | os.PathLike) -> None:
        """Write the weights as HDF5, whatever the file is called; shared ones once, as Caffe does."""
        write_hdf5(path, self.layer_weights(owners_only=True))

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]:
        """All layers with their weights; see `runtime.net_weights.saved`."""
        return net_weights.saved(
            self.plan, [[blob.data for blob in layer.blobs] for layer in self.layers], owners_only
        )

    def share_with(self, other: "Net") -> None:
        """Use the other net's weights, by layer name, without copying."""
        pairs, ignored = net_weights.shared_layers(self.plan, other.plan)
        for name in ignored:
            log.info("Ignoring source layer %s", name)
        for here, there in pairs:
            mine, source = self.layers[here].blobs, other.layers[there].blobs
            with self.plan.layers[here].errors():
                net_weights.check_shared([b.shape for b in mine], [b.shape for b in source])
            for blob, theirs in zip(mine, source, strict=True):
                blob.share_data(theirs)

    def _index(self, layer: str) -> int:
        return self.plan.layer_index(layer)


def _copies(views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in views.items()}


def _length(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values()), ()))
