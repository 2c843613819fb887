"""`caffe.Net` over the port's layers: each layer runs, and is differentiated, on the net's blobs."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.blobs import Rereading
from port.layer import LAYERS, MAKE_MEMORY, PYTHON_LAYERS, Layer, as_tuple
from port.net import make_layer, open_layer
from prototxt.errors import InputError
from prototxt.layers.memory import blobs_read, gives_its_diff, shares_memory
from prototxt.plan import LayerPlan, Step
from runtime.blob import Blob, BlobVec, shape_tops
from runtime.net import EngineLayer, log
from runtime.net import Net as _Net
from runtime.python_layer import find_layer_class
from runtime.set_up import Opened

_device = torch.device("cpu")

_KEEP_STATISTICS = ("BatchNorm", "BN", "DataAugmentation", "DenseBlock")
"""Layers whose forward pass updates weights of theirs."""


class Net(_Net):
    """A net computed in PyTorch; see `runtime.Net`.

    Blobs are NumPy memory. On the CPU, PyTorch works on that memory. A layer's result becomes its blob's memory, or,
    where a script has had a view of that, or a backward pass is to come, is copied into it. On a GPU, blobs travel to
    the device and back around each layer.
    """

    def _open_layer(self, step: Step) -> Opened | type | None:
        if step.param.type == "Python":
            cls = find_layer_class(step.param, PYTHON_LAYERS, self.allow_modules, "port.pycaffe")
            if not issubclass(cls, Layer):
                return cls
        return open_layer(step, self.allow_modules)

    def _make_layer(self, plan: LayerPlan, values: list[np.ndarray], opened: Any) -> EngineLayer:
        return _BlobLayer(plan, make_layer(plan, values, opened), self.dtype)


class _BlobLayer:
    """A port layer on blobs. Backward is autograd's, on the graph that the last forward left."""

    def __init__(self, plan: LayerPlan, module: Layer, dtype: np.dtype):
        self.plan, self.type = plan, plan.type
        self.module = module.to(torch_dtype(dtype))
        self._weights = self.module.blobs
        self.blobs = BlobVec([_weight_blob(w) for w in self._weights], dtype)
        self._constants = module.constants() if self.type == "DummyData" else [None] * len(plan.tops)
        self._filled = False
        self._tops: tuple[Tensor, ...] | None = None

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if not bottom:
            self._fill_constants(top)
            return  # an input's shape is the caller's once the net is built, a data layer's the batch's
        shape_tops(self.plan, bottom, top)

    def _fill_constants(self, top: list[Blob]) -> None:
        """DummyData's, once: what a script writes there stays."""
        for blob, value in zip(top, [] if self._filled else self._constants, strict=False):
            if value is not None:
                blob.data[...] = value
        self._filled = True

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.type == "Input":
            return
        if self.type == "Parameter":
            top[0].share_data(self.blobs[0])
        tops = self._run(bottom, top)
        for blob, result, constant in zip(top, tops, self._constants, strict=True):
            if constant is None:
                self._keep(blob, result.detach())
        if self.type in _KEEP_STATISTICS and _device.type != "cpu":  # which were updated there
            for weight, blob in zip(self.module.blobs, self.blobs, strict=True):
                torch.from_numpy(blob.data).copy_(weight)

    def _keep(self, blob: Blob, result: Tensor) -> None:
        """Make a result the blob's data: by copying only where somebody else has, or had, either memory."""
        if result.shape != blob.shape:
            blob.reshape(*result.shape)  # Filter's depends on the data
        target = torch.from_numpy(blob.values)
        if target.data_ptr() == result.data_ptr():
            return
        own = self.type in MAKE_MEMORY and not self.plan.needs_backward
        if own and result.device.type == "cpu" and result.is_contiguous() and blob.take(result.numpy()):
            return
        target.copy_(result)

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """MemoryData's."""
        self.module.reset(data, labels)

    def _run(self, bottom: list[Blob], top: list[Blob]) -> tuple[Tensor, ...]:
        """Compute the tops, leaving the graph that backward differentiates, where it will."""
        for weight, blob in zip(self._weights, self.blobs, strict=True):
            weight.data = _tensor(blob.values)  # sharing may have moved it
        inputs = [_tensor(blob.values) for blob in bottom]
        if not self.plan.needs_backward:
            with torch.no_grad():
                return as_tuple(self.module(*inputs))
        if self.plan.in_place:
            # The blob is overwritten below; autograd may still need what was in it.
            inputs = [x.clone() for x in inputs]
        for x, wanted in zip(inputs, self.plan.propagate_down, strict=True):
            x.requires_grad_(wanted)
        rereading = Rereading()
        with torch.enable_grad(), rereading:
            tops = as_tuple(self.module(*inputs))
        # Caffe's backward reads the blobs again, with whatever was written into them since.
        tensors, blobs, reads = (*inputs, *tops), (*bottom, *top), frozenset(blobs_read(self.plan))
        for i, tensor, blob in zip((*self.plan.bottoms, *self.plan.tops), tensors, blobs, strict=True):
            if i in reads:
                rereading.take(tensor, partial(_data, blob))
        self._inputs, self._tops = inputs, tops
        return tops

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if gives_its_diff(self.plan):
            bottom[0].share_diff(top[0])
            return
        if shares_memory(self.plan) and self.type != "Split":
            return  # the diff is the bottom's already
        if self._tops is None and bottom:
            self._run(bottom, top)  # Caffe's backward goes by what the blobs hold, whether forward ran or not
        if self._tops is None:
            return
        heads = [(t, blob) for t, blob in zip(self._tops, top, strict=True) if t.requires_grad]
        wanted = [(x, blob) for x, blob in zip(self._inputs, bottom, strict=True) if x.requires_grad]
        weights = [
            (w, blob) for w, blob in zip(self.module.blobs, self.blobs, strict=True) if w.requires_grad
        ]
        if not heads:
            if wanted and top:
                raise InputError(f"{self.type} has no gradient to give, in Caffe neither")
            for _, blob in wanted if self.type == "Silence" else ():
                blob.diff[...] = 0
            return
        gradients = torch.autograd.grad(
            [t for t, _ in heads],
            [x for x, _ in wanted + weights],
            [_tensor(blob.diff).clone().reshape(t.shape) for t, blob in heads],
            retain_graph=True,
            allow_unused=True,
        )
        for (_, blob), gradient in zip(wanted, gradients, strict=False):
            _store(blob, gradient, add=False)
        replaced = self.module.replaced_gradients(*(x.shape for x in self._inputs))
        for (_, blob), gradient in zip(weights, gradients[len(wanted) :], strict=True):
            _store(blob, gradient, add=not any(blob is self.blobs[i] for i in replaced))


def _data(blob: Blob) -> Tensor:
    return _tensor(blob.values)


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if _device.type == "cpu" else tensor.to(_device)


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _weight_blob(weight: Tensor) -> Blob:
    blob = Blob((0,), weight.detach().numpy().dtype)
    blob.use_memory(weight.detach().numpy())
    return blob


def _store(blob: Blob, gradient: Tensor | None, add: bool) -> None:
    target = torch.from_numpy(blob.diff)
    if gradient is None:
        gradient = torch.zeros_like(target)
    if add:
        gradient = target + gradient.cpu()
    target.copy_(gradient)


def layer_type_list() -> list[str]:
    """Names of the layer types that the port carries."""
    return sorted({*LAYERS, "Python"})


def set_mode_cpu() -> None:
    """Compute on the CPU from now on."""
    global _device
    _device = torch.device("cpu")


def set_mode_gpu() -> None:
    """Compute on the GPU from now on; without one, old scripts go on, on the CPU, and the log says so."""
    set_device(torch.cuda.current_device() if torch.cuda.is_available() else 0)


def set_device(device: int) -> None:
    """Choose the GPU by number. (Caffe's `set_device` alone does not leave CPU mode; scripts call both.)"""
    global _device
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # Caffe's float32 is float32
        _device = torch.device("cuda", device)
    else:
        log.warning("no CUDA device: computing on the CPU")
