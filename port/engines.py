"""What SeeNet's convolutions are computed by: PyTorch, or, on CPUs, Winograd's minimal filtering."""

import copy

import torch
from torch import nn

from port.seenet import SeeNet
from port.winograd import WinogradConv2d
from prototxt.errors import InputError

ENGINES = ("torch", "winograd")


def with_engine(model: SeeNet, engine: str = "torch") -> SeeNet:
    """SeeNet with its convolutions computed by `engine`; for inference.

    Each engine is held to the same rule: against float64 at most 1.5 times the float32 reference's own difference,
    plus 1e-7, for each blob.

    Args:
        model: in evaluation mode; it stays as it is.
        engine: "torch" (the model itself, returned as it is) or "winograd" (the 3×3 convolutions by
            `WinogradConv2d`: float32, on CPUs, without gradients; it takes four times the memory of their weights).

    Raises:
        InputError: an engine that there is not, or a model that it does not run.
    """
    if engine not in ENGINES:
        raise InputError(f'engine "{engine}": there is none; the engines are {", ".join(ENGINES)}')
    if engine == "torch":
        return model
    weight = model.score_b1.weight
    if model.training or weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise InputError(
            f"engine {engine}: it is for evaluation in float32 on a CPU: use the engine torch for the rest"
        )
    fast = copy.copy(model)
    fast._modules = {
        name: WinogradConv2d(module) if _suits(module) else module for name, module in model.named_children()
    }
    return fast


def _suits(module: nn.Module) -> bool:
    """With fewer channels the transforms cost more than they save, in time and, as sums are short, in accuracy."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels >= 128
