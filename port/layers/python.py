"""A script's own Python layer inside an autograd graph."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from port.layer import Layer
from prototxt.layers.declare import Declared, Weight
from prototxt.plan import LayerPlan, Step
from runtime.blob import Blob
from runtime.python_layer import Layer as CaffeLayer
from runtime.python_layer import new_python_layer

Current = list[Callable[[], Tensor]]


class Script:
    """An instance of a script's layer class, set up on blobs of CPU memory as Caffe sets it up.

    A blob that is both bottom and top is one object, as in Caffe.
    """

    def __init__(self, cls: type, step: Step):
        self.layer: CaffeLayer = new_python_layer(cls, step.param)
        self.blobs = {i: Blob(()) for i in (*step.bottoms, *step.tops)}
        self.bottom = [self.blobs[i] for i in step.bottoms]
        self.top = [self.blobs[i] for i in step.tops]
        for blob, shape in zip(self.bottom, step.bottom_shapes, strict=True):
            blob.reshape(*shape)
        self.layer.setup(self.bottom, self.top)
        self.layer.reshape(self.bottom, self.top)

    @property
    def declared(self) -> Declared:
        return Declared(
            [blob.shape for blob in self.top], [Weight(blob.shape) for blob in self.layer.blobs], script=True
        )


class ScriptLayer(Layer):
    """A pycaffe layer class as a module.

    Its four methods work on blobs that hold what the net's hold, as in Caffe: forward sees and may change the
    bottoms, backward sees what the bottoms and tops hold by then, whoever wrote it.

    Attributes:
        script: the instance.
        current: set before a pass: by its backward, what each bottom and top holds then. None: what forward left.
        written: after a pass, by blob index, what the script wrote into its bottoms.
    """

    def __init__(self, plan: LayerPlan, opened: Script):
        super().__init__(plan, [blob.data for blob in opened.layer.blobs])
        self.current: Current | None = None
        self.written: dict[int, Tensor] = {}
        self._opened, self.script = opened, opened.layer

    def share_memory_of(self, memory: Sequence[int]) -> None:
        """Let bottoms that lie in one memory of the net do so here. `memory`: of each blob, `Plan.memory`."""
        first: dict[int, Blob] = {}
        for i, blob in self._opened.blobs.items():
            blob.share_data(first.setdefault(memory[i], blob))

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tops = _Script.apply(self, self.current, len(bottoms), *bottoms, *self.owned)
        self.written = {}
        for i, blob, tensor in zip(self.plan.bottoms, self._opened.bottom, bottoms, strict=True):
            value = torch.from_numpy(blob.data)
            if i not in self.plan.tops and not _equal(value, tensor):
                self.written[i] = value.to(tensor, copy=True)
        return tops


class _Script(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, layer: ScriptLayer, current: Current | None, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        opened, bottoms = layer._opened, tensors[:count]
        for blob, bottom in zip(opened.bottom, bottoms, strict=True):
            blob.reshape(*bottom.shape)
            _write(blob, bottom)
        for blob, weight in zip(layer.script.blobs, layer.blobs, strict=True):
            _write(blob, weight)
        layer.script.reshape(opened.bottom, opened.top)
        layer.script.forward(opened.bottom, opened.top)
        for blob, weight in zip(layer.script.blobs, layer.blobs, strict=True):
            weight.data.copy_(torch.from_numpy(blob.data))  # running sums, if the script keeps any
        ctx.layer, ctx.current = layer, current
        ctx.shapes = [blob.shape for blob in (*opened.bottom, *opened.top)]
        ctx.saved = (
            None if current is not None else [blob.data.copy() for blob in (*opened.bottom, *opened.top)]
        )
        like = tensors[0] if tensors else torch.empty(0)
        ctx.like = like.new_empty(0)
        return tuple(torch.from_numpy(blob.data.copy()).to(like) for blob in opened.top)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, opened = ctx.layer, ctx.layer._opened
        values = ctx.saved if ctx.current is None else [now() for now in ctx.current]
        for blob, value, shape in zip((*opened.bottom, *opened.top), values, ctx.shapes, strict=True):
            blob.reshape(*shape)
            _write(blob, torch.as_tensor(value).reshape(shape))
        for blob, grad in zip(opened.top, grads, strict=True):
            blob.diff[...] = grad.detach().cpu().numpy()
        for blob, weight in zip(layer.script.blobs, layer.owned, strict=True):
            # As in Caffe the script finds what there is, and may add to it or write over it.
            blob.diff[...] = 0 if weight.grad is None else weight.grad.cpu().numpy().reshape(blob.shape)
            weight.grad = None
        wanted = ctx.needs_input_grad[3 : 3 + len(opened.bottom)]
        asked = [planned or w for planned, w in zip(layer.plan.propagate_down, wanted, strict=True)]
        layer.script.backward(opened.top, asked, opened.bottom)
        diffs = [_tensor(b.diff, ctx.like) if w else None for b, w in zip(opened.bottom, wanted, strict=True)]
        weights = [
            _tensor(blob.diff, ctx.like).view(weight.shape)
            for blob, weight in zip(layer.script.blobs, layer.owned, strict=True)
        ]
        return None, None, None, *diffs, *weights


def _write(blob: Blob, tensor: Tensor) -> None:
    blob.data[...] = tensor.detach().cpu().numpy()


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(like)


def _equal(value: Tensor, tensor: Tensor) -> bool:
    return np.array_equal(value.numpy(), tensor.detach().cpu().numpy(), equal_nan=True)
