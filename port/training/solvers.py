"""Caffe's six solvers as `torch.optim.Optimizer`s, in Caffe's arithmetic and order (caffe/solvers/*.cpp).

One step clips the gradients of all parameters together, then for each parameter divides by `iter_size`, adds
the weight decay, and turns the gradient into the update, with the learning rate inside the history:
V = momentum · V + rate · gradient, W -= V. (torch.optim.SGD has W -= rate · V, so the two part whenever the
rate changes.) The update is left in `.grad`, as Caffe leaves it in the blob's diff.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError

F = np.float32


class CaffeSolver(Optimizer):
    """What the six have in common; `update` is what they differ in.

    Args:
        params: tensors, or groups `{"params": …, "lr_mult": …, "decay_mult": …}`, in the order of Caffe's
            learnable parameters. One without a gradient counts as one whose gradient is zero: it still decays
            and moves by its momentum, as in Caffe. A shared parameter is given once.
        lr: the rate of the next step; set by `set_rate` for every iteration.
        clip_gradients: the most that the gradients' common L2 norm may be; below 0: any.

    The other arguments are the solver prototxt's fields. All tensors are float32.

    Attributes:
        iteration: how many steps are done (Adam's bias correction needs it).
        clipped: the (norm, limit, factor) by which the last step scaled the gradients down, or None.
    """

    type = ""
    histories = 1

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        regularization_type: str = "L2",
        clip_gradients: float = -1.0,
        iter_size: int = 1,
        delta: float = 1e-8,
        momentum2: float = 0.999,
        rms_decay: float = 0.99,
    ):
        if regularization_type not in ("L1", "L2"):
            raise InputError(f'regularization_type: "{regularization_type}" is unknown: use "L2" or "L1"')
        if iter_size < 1:
            raise InputError(f"iter_size: {iter_size} must be at least 1")
        self.momentum, self.momentum2, self.rms_decay, self.delta = map(
            F, (momentum, momentum2, rms_decay, delta)
        )
        self.weight_decay, self.regularization_type = F(weight_decay), regularization_type
        self.clip_gradients, self.iter_size = F(clip_gradients), iter_size
        self.iteration = 0
        self.clipped: tuple[np.float32, np.float32, np.float32] | None = None
        self.check_settings()
        params = list(params)
        super().__init__(params or [torch.zeros(0)], {"lr": lr, "lr_mult": 1.0, "decay_mult": 1.0})
        if not params:  # Caffe runs a net without weights, PyTorch refuses it
            self.param_groups.clear()

    def check_settings(self) -> None:
        """Raises InputError for settings that Caffe refuses with this solver."""

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        """Turn the gradient, in place, into what is subtracted from the weights; update the history."""
        raise NotImplementedError

    def set_rate(self, rate: float) -> None:
        """The learning rate from the next step on, before each parameter's `lr_mult`."""
        for group in self.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update. Gradients (summed over `iter_size` passes) are in `.grad`; the updates replace them."""
        learned = [(weight, group) for group in self.param_groups for weight in group["params"]]
        for weight, _ in learned:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        self._clip([weight.grad for weight, _ in learned])
        for weight, group in learned:
            if self.iter_size != 1:
                weight.grad.mul_(float(F(1) / F(self.iter_size)))
            self._regularise(weight, float(self.weight_decay * F(group["decay_mult"])))
            self.update(weight.grad, self._history_of(weight), float(F(group["lr"]) * F(group["lr_mult"])))
        for weight, _ in learned:
            weight.sub_(weight.grad)
        self.iteration += 1

    def history(self) -> list[Tensor]:
        """The history in the order of a .solverstate: one tensor for each parameter, then all second ones."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        return [self._history_of(weight)[i] for i in range(self.histories) for weight in weights]

    def load_history(self, history: list[np.ndarray]) -> None:
        """Take over a .solverstate's history.

        Raises:
            InputError: where it belongs to another net or another type of solver.
        """
        mine = self.history()
        if len(history) != len(mine):
            raise InputError(
                f"{len(history)} history blobs, but {self.type} on this net has {len(mine)} "
                f"({self.histories} for each of {len(mine) // self.histories} weight blobs): "
                "it belongs to another net or another type of solver"
            )
        for i, (tensor, array) in enumerate(zip(mine, history, strict=True)):
            if tuple(tensor.shape) != _without_leading_ones(array.shape, tensor.ndim):
                raise InputError(
                    f"history blob {i} is {tuple(array.shape)}, but {tuple(tensor.shape)} on this net: "
                    "it belongs to another net"
                )
        for tensor, array in zip(mine, history, strict=True):
            tensor.copy_(torch.tensor(array, dtype=tensor.dtype).reshape(tensor.shape))

    def _history_of(self, weight: Tensor) -> list[Tensor]:
        state = self.state[weight]
        if not state:
            state["history"] = [torch.zeros_like(weight, requires_grad=False) for _ in range(self.histories)]
        return state["history"]

    def _clip(self, gradients: list[Tensor]) -> None:
        self.clipped = None
        if self.clip_gradients < 0:
            return
        squares = sum(torch.dot(g.reshape(-1), g.reshape(-1)) for g in gradients)
        norm = F(math.sqrt(squares.item()))
        if norm > self.clip_gradients:
            factor = self.clip_gradients / norm
            self.clipped = norm, self.clip_gradients, factor
            for gradient in gradients:
                gradient.mul_(float(factor))

    def _regularise(self, weight: Tensor, decay: float) -> None:
        if decay:
            weight.grad.add_(weight if self.regularization_type == "L2" else weight.sign(), alpha=decay)


class SGD(CaffeSolver):
    """Momentum, with the rate inside it."""

    type = "SGD"

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        (velocity,) = history
        velocity.mul_(float(self.momentum)).add_(gradient, alpha=rate)
        gradient.copy_(velocity)


class Nesterov(CaffeSolver):
    """Steps back by the old momentum, then over by the new."""

    type = "Nesterov"

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        (velocity,) = history
        before = velocity * -float(self.momentum)
        velocity.mul_(float(self.momentum)).add_(gradient, alpha=rate)
        gradient.copy_(before.add_(velocity, alpha=float(F(1) + self.momentum)))


class AdaGrad(CaffeSolver):
    """Divides by the root of the sum of all squares so far, plus `delta`."""

    type = "AdaGrad"

    def check_settings(self) -> None:
        _refuse_momentum(self)

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        (squares,) = history
        squares.add_(gradient.square())
        gradient.div_(squares.sqrt().add_(float(self.delta))).mul_(rate)


class RMSProp(CaffeSolver):
    """Divides by the root of the squares' running mean, plus `delta`."""

    type = "RMSProp"

    def check_settings(self) -> None:
        _refuse_momentum(self)
        if not 0 <= self.rms_decay < 1:
            raise InputError(f"rms_decay: {self.rms_decay:g} must be from 0 to below 1")

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        (squares,) = history
        squares.mul_(float(self.rms_decay)).add_(gradient.square(), alpha=float(F(1) - self.rms_decay))
        gradient.div_(squares.sqrt().add_(float(self.delta))).mul_(rate)


class AdaDelta(CaffeSolver):
    """Scales by the ratio of the updates' and the gradients' running root mean squares."""

    type = "AdaDelta"
    histories = 2

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        squares, updates = history
        keep, add, delta = float(self.momentum), float(F(1) - self.momentum), float(self.delta)
        squares.mul_(keep).add_(gradient.square(), alpha=add)
        gradient.mul_(updates.add(delta).div_(squares.add(delta)).sqrt_())
        updates.mul_(keep).add_(gradient.square(), alpha=add)
        gradient.mul_(rate)


class Adam(CaffeSolver):
    """Running means of gradients and squares; the bias correction is folded into the rate, `delta` is not."""

    type = "Adam"
    histories = 2

    def check_settings(self) -> None:
        for name in ("momentum", "momentum2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name}: {getattr(self, name):g} must be below 1, and not below 0, with Adam"
                )

    def update(self, gradient: Tensor, history: list[Tensor], rate: float) -> None:
        means, squares = history
        done = self.iteration + 1
        beta1, beta2 = float(self.momentum), float(self.momentum2)
        correction = F(math.sqrt(1 - beta2**done) / (1 - beta1**done))
        means.mul_(beta1).add_(gradient, alpha=float(F(1) - self.momentum))
        squares.mul_(beta2).add_(gradient.square(), alpha=float(F(1) - self.momentum2))
        torch.div(means, squares.sqrt().add_(float(self.delta)), out=gradient)
        gradient.mul_(float(F(rate) * correction))


SOLVERS: dict[str, type[CaffeSolver]] = {
    cls.type: cls for cls in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)
}
"""Caffe's solver type → our class."""


def make_solver(solver: SolverParameter, params: Iterable[Mapping[str, Any]]) -> CaffeSolver:
    """The optimizer that a solver prototxt describes.

    Raises:
        InputError: an unknown `type`, or a setting out of range.
    """
    if solver.type not in SOLVERS:
        raise InputError(f'type: "{solver.type}" is unknown: use one of {", ".join(SOLVERS)}')
    return SOLVERS[solver.type](
        params,
        lr=solver.base_lr,
        momentum=solver.momentum,
        weight_decay=solver.weight_decay,
        regularization_type=solver.regularization_type,
        clip_gradients=solver.clip_gradients,
        iter_size=solver.iter_size,
        delta=solver.delta,
        momentum2=solver.momentum2,
        rms_decay=solver.rms_decay,
    )


def _refuse_momentum(solver: CaffeSolver) -> None:
    if solver.momentum:
        raise InputError(f"momentum: {solver.momentum:g} cannot be used with {solver.type}: remove it")


def _without_leading_ones(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A .solverstate from before N-dimensional blobs has four sizes, the spare ones 1 and in front."""
    spare = len(shape) - axes
    return shape[spare:] if spare > 0 and all(size == 1 for size in shape[:spare]) else shape
