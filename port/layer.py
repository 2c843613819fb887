"""The base of the port's layers, and the registry that finds them by Caffe's type name."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prototxt.layers.declare import Shape
from prototxt.own import own_param
from prototxt.plan import LayerPlan, ParamPlan
from runtime.net_weights import check_owner
from weights.names import param_names

LAYERS: dict[str, type["Layer"]] = {}
"""Caffe's layer type → our class."""

PYTHON_LAYERS: dict[tuple[str, str], type["Layer"]] = {}
"""(module, layer) of pycaffe layers that are built in → our class."""


MAKE_MEMORY = {
    *("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Deconvolution", "InnerProduct"),
    *("Pooling", "LRN", "BatchNorm", "BN", "Scale", "Bias", "Softmax", "Normalize"),
    *("Concat", "Eltwise", "Axpy", "ReLU", "PReLU", "ELU", "Sigmoid", "TanH"),
}
"""Layer types whose forward gives memory that it does not keep, and that is none of its different bottoms'."""


def layer(*types: str) -> Callable[[type["Layer"]], type["Layer"]]:
    """Register a class under Caffe's layer type names."""

    def register(cls: type["Layer"]) -> type["Layer"]:
        LAYERS.update(dict.fromkeys(types, cls))
        return cls

    return register


class Layer(nn.Module):
    """A Caffe layer as a module: `forward(*bottoms)` gives the top, or a tuple of tops.

    What the layer accepts, its weights and its tops' shapes are declared in `prototxt.layers`. A class here is
    arithmetic: it writes `forward`, which autograd differentiates; where Caffe's gradient is not the mathematical
    one, `forward` says so. `set_up` prepares what does not change.

    Caffe's phase, fixed when the net is built, decides what TRAIN and TEST differ in; `train()` and
    `eval()` change nothing.

    Args:
        plan: the layer's plan.
        values: the weights' first values, float32, as declared.
        opened: what the layer's set-up opened: a data layer's source.

    Attributes:
        param, phase: its LayerParameter (of a type of the user's own: an `OwnParam`), and Caffe's phase (0 TRAIN, 1
            TEST).
        exact: give the mathematical gradient where Caffe's, in place, is another.
    """

    exact = False

    def __init__(self, plan: LayerPlan, values: Sequence[np.ndarray] = (), opened: Any = None):
        super().__init__()
        self.plan = plan
        self.param = own_param(plan.param)
        self.phase = plan.param.phase
        self.opened = opened
        self._weights = list(param_names(plan.type, len(values)))
        self._shapes = [value.shape for value in values]
        for name, value, param in zip(self._weights, values, plan.params, strict=True):
            weight = nn.Parameter(torch.from_numpy(value), requires_grad=param.needs_gradient)
            self.register_parameter(name, weight)
        self.set_up()

    # ---- what a layer class writes

    def set_up(self) -> None:
        """Prepare what every pass uses."""

    def replaced_gradients(self, *shapes: Shape) -> Sequence[int]:
        """Weights whose gradient Caffe replaces, with bottoms of these shapes, where it should add to it."""
        return ()

    # ---- what nets call

    def share_weight(self, index: int, owner: nn.Parameter, param: ParamPlan) -> None:
        """Use another layer's weight blob as this layer's. With PERMISSIVE sharing its shape may differ.

        Raises:
            InputError: shapes (with PERMISSIVE sharing: sizes) that differ.
        """
        check_owner(param, tuple(self.blobs[index].shape), tuple(owner.shape))
        setattr(self, self._weights[index], owner)

    @property
    def blobs(self) -> list[Tensor]:
        """The weights in Caffe's order. One that is shared between shapes is a view of its owner's."""
        weights = [getattr(self, name) for name in self._weights]
        return [
            weight if weight.shape == shape else weight.view(shape)
            for weight, shape in zip(weights, self._shapes, strict=True)
        ]

    @property
    def owned(self) -> list[nn.Parameter]:
        """The parameters behind `blobs`: whoever owns them, in the owner's shape."""
        return [getattr(self, name) for name in self._weights]

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, *lists: list
    ) -> None:
        """The net looks for keys that are nobody's: of layers a and a.b, a's prefix is b's too."""
        super()._load_from_state_dict(state_dict, prefix, metadata, False, *lists)

    def extra_repr(self) -> str:
        """Channels in and out, and the settings that the prototxt gives."""
        bottoms, tops = self.plan.bottom_shapes, self.plan.declared.tops
        told = []
        if self._shapes and bottoms and len(bottoms[0]) > 1 and tops:
            told.append(f"{bottoms[0][1]} → {tops[0][1] if len(tops[0]) > 1 else 1}")
        for name, message in self.param.ListFields():
            if name.name.endswith("_param") and name.message_type:
                told += [
                    f"{setting.name}={_brief(setting, value)}"
                    for setting, value in message.ListFields()
                    if not setting.message_type and setting.name != "num_output"
                ]
        return ", ".join(told)


def _brief(setting: Any, value: Any) -> str:
    """A setting's value as the prototxt has it: enum values by name."""
    if setting.enum_type:
        return setting.enum_type.values_by_number[value].name
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, str | bool | int):
        return str(value)
    values = list(value)
    return str(values[0]) if len(values) == 1 else "×".join(map(str, values))


def being_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace is writing down what runs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def being_exported() -> bool:
    """Whether what runs is written down for elsewhere, where there are no gradients of Caffe's own."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch 2.7 and newer
    return exporting() or torch.jit.is_tracing()


def as_tuple(tops: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)
