"""The base of the port's layers, and the registry that finds them by Caffe's type name."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, ParamPlan
from runtime.fillers import first_values
from runtime.rng import caffe_rng
from weights.names import param_names

LAYERS: dict[str, type["Layer"]] = {}
"""Caffe's layer type → our class."""

PYTHON_LAYERS: dict[tuple[str, str], type["Layer"]] = {}
"""(module, layer) of pycaffe layers that are built in → our class."""

Shape = tuple[int, ...]


def layer(*types: str) -> Callable[[type["Layer"]], type["Layer"]]:
    """Register a class under Caffe's layer type names."""

    def register(cls: type["Layer"]) -> type["Layer"]:
        LAYERS.update(dict.fromkeys(types, cls))
        return cls

    return register


class Layer(nn.Module):
    """A Caffe layer as a module: `forward(*bottoms)` gives the top, or a tuple of tops.

    A layer class writes `set_up`, which checks the bottoms' shapes and makes the weights, and `forward`,
    which autograd differentiates; where Caffe's gradient is not the mathematical one, `forward` says so.
    `top_shapes` is found by running `forward` on the meta device, unless the class knows better.

    Caffe's phase, fixed when the net is built, decides what TRAIN and TEST differ in; `train()` and
    `eval()` change nothing.

    Attributes:
        plan, param, phase: the layer's plan, its LayerParameter, and Caffe's phase (0 TRAIN, 1 TEST).
        exact: give the mathematical gradient where Caffe's, in place, is another.
    """

    exact = False

    def __init__(self, plan: LayerPlan, *shapes: Shape):
        super().__init__()
        self.plan = plan
        self.param = plan.param
        self.phase = plan.param.phase
        self._weights: list[str] = []
        self.set_up(*shapes)

    # ---- what a layer class writes

    def set_up(self, *shapes: Shape) -> None:
        """Check the bottoms' shapes and make the weights with `add_weight`, in Caffe's order."""

    def top_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        """The tops' shapes."""
        meta = {name: weight.to("meta", torch.float32) for name, weight in self.named_parameters()}
        with torch.no_grad():
            tops = functional_call(self, meta, tuple(torch.empty(shape, device="meta") for shape in shapes))
        return [tuple(top.shape) for top in as_tuple(tops)]

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        """Weights whose gradient Caffe replaces, with bottoms of these shapes, where it should add to it."""
        return ()

    # ---- what a layer class calls

    def add_weight(self, shape: Shape, filler: FillerParameter) -> None:
        """A weight blob, named `weight`, `bias`, … and drawn by its filler from Caffe's generator."""
        index = len(self._weights)
        names = param_names(self.plan.type, len(self.plan.params))
        values = first_values(self.param, index, shape, filler, caffe_rng())
        weight = nn.Parameter(torch.from_numpy(values))
        weight.requires_grad_(self.plan.params[index].needs_gradient)
        self.register_parameter(names[index], weight)
        self._weights.append(names[index])

    # ---- what nets call

    def share_weight(self, index: int, owner: nn.Parameter, param: ParamPlan) -> None:
        """Use another layer's weight blob as this layer's.

        Raises:
            InputError: shapes (with PERMISSIVE sharing: sizes) that differ.
        """
        mine = self.blobs[index]
        same = mine.numel() == owner.numel() if param.permissive else mine.shape == owner.shape
        if not same:
            raise InputError(
                f'shared param "{param.name}" is {tuple(mine.shape)} here and {tuple(owner.shape)} at its owner: '
                "make them equal"
            )
        if mine.shape != owner.shape:
            raise InputError(
                f'shared param "{param.name}": PERMISSIVE sharing between shapes is not carried by the port'
            )
        setattr(self, self._weights[index], owner)

    @property
    def blobs(self) -> list[nn.Parameter]:
        """The weights in Caffe's order."""
        return [getattr(self, name) for name in self._weights]

    def extra_repr(self) -> str:
        return f"{self.plan.type}"


class SameShape(Layer):
    """A layer whose one top is shaped like its first bottom."""

    def top_shapes(self, *shapes: Shape) -> Sequence[Shape]:
        return [shapes[0]]


def as_tuple(tops: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)
