"""A script's own Python layer inside an autograd graph."""

import numpy as np
import torch
from torch import Tensor, nn

from port.layer import Layer, Shape
from prototxt.plan import LayerPlan
from runtime.blob import Blob
from runtime.python_layer import new_python_layer


class ScriptLayer(Layer):
    """A pycaffe layer class as a module: its four methods work on blobs in CPU memory."""

    def __init__(self, cls: type, plan: LayerPlan, *shapes: Shape):
        self._class = cls
        super().__init__(plan, *shapes)

    def set_up(self, *shapes: Shape) -> None:
        self.script = new_python_layer(self._class, self.param)
        self.bottom = [Blob(shape) for shape in shapes]
        self.top = [Blob(()) for _ in self.plan.tops]
        self.script.setup(self.bottom, self.top)
        for i, blob in enumerate(self.script.blobs):
            self.register_parameter(str(i), nn.Parameter(torch.from_numpy(blob.data)))
            self._weights.append(str(i))

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        for blob, shape in zip(self.bottom, shapes, strict=True):
            blob.reshape(*shape)
        self.script.reshape(self.bottom, self.top)
        return [blob.shape for blob in self.top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return _Script.apply(self, len(bottoms), *bottoms, *self.blobs)


class _Script(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer: ScriptLayer, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        bottoms, weights = tensors[:count], tensors[count:]
        layer.top_shapes(*(tuple(b.shape) for b in bottoms))
        _write(layer.bottom, bottoms)
        _write(layer.script.blobs, weights)
        layer.script.forward(layer.bottom, layer.top)
        ctx.layer = layer
        ctx.save_for_backward(*bottoms)
        return tuple(
            torch.from_numpy(blob.data.copy()).to(tensors[0] if tensors else "cpu") for blob in layer.top
        )

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer, bottoms = ctx.layer, ctx.saved_tensors
        for blob, grad in zip(layer.top, grads, strict=True):
            blob.diff[...] = grad.detach().cpu().numpy()
        for blob in layer.script.blobs:
            blob.diff[...] = 0
        wanted = list(ctx.needs_input_grad[2 : 2 + len(bottoms)])
        layer.script.backward(layer.top, wanted, layer.bottom)
        like = grads[0]
        diffs = [_tensor(b.diff, like) if w else None for b, w in zip(layer.bottom, wanted, strict=True)]
        return None, None, *diffs, *(_tensor(blob.diff, like) for blob in layer.script.blobs)


def _write(blobs: list[Blob], tensors: tuple[Tensor, ...]) -> None:
    for blob, tensor in zip(blobs, tensors, strict=True):
        blob.data[...] = tensor.detach().cpu().numpy()


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(like)
