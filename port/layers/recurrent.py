"""RNN, LSTM, and the LSTM's unit of one step."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from port.gradient import refuse_gradient, with_slope
from port.layer import Layer, Shape, layer
from prototxt.errors import InputError
from prototxt.layers.windows import canonical_axis
from runtime.fillers import fill
from runtime.rng import caffe_rng


class _Recurrent(Layer):
    """A layer over (steps, streams, …), with `cont` (steps, streams): 0 where a sequence begins, else 1.

    Bottoms: x, cont, possibly a static input (streams, …), and with `expose_hidden` the state to begin with.
    Tops: (steps, streams, num_output), and with `expose_hidden` the state at the end. A state's blobs are
    (1, streams, num_output). Unexposed, it is carried over from one forward pass to the next.

    As in Caffe, no gradient crosses to or from a state outside, nor to cont; and the number of steps, for
    which Caffe unrolls the layer, is fixed.
    """

    states: int
    """Blobs that a state is made of."""
    gates: int
    """Values that a step computes for each of `num_output`."""

    def set_up(self, *shapes: Shape) -> None:
        param = self.param.recurrent_param
        exposed = self.states if param.expose_hidden else 0
        if not exposed <= len(shapes) - 2 <= exposed + 1 or len(self.plan.tops) != 1 + exposed:
            raise InputError(
                f"{self.plan.type} {'with' if exposed else 'without'} expose_hidden takes {2 + exposed} blobs"
                f" ({3 + exposed} with a static input) and makes {1 + exposed} tops"
            )
        if not param.num_output:
            raise InputError("recurrent_param: num_output must be at least 1")
        self.static = len(shapes) > 2 + exposed
        x, self.steps, size = shapes[0], shapes[0][0], param.num_output
        axis = canonical_axis(2, len(x))
        self.add_weight((self.gates * size, math.prod(x[axis:])), param.weight_filler)
        self.add_weight((self.gates * size,), param.bias_filler)
        if self.static:
            axis = canonical_axis(1, len(shapes[2]))
            self.add_weight((self.gates * size, math.prod(shapes[2][axis:])), param.weight_filler)
        fillers = self.step_weights(size)
        for shape, filler in fillers:
            self.add_weight(shape, filler)
        # Caffe draws these weights anew for every step, before all but the first are replaced by the first.
        for _ in range(self.steps - 1):
            for shape, filler in fillers:
                fill(shape, filler, caffe_rng())
        self.register_buffer("memory", torch.zeros(self.states, 0), persistent=False)

    @abstractmethod
    def step_weights(self, size: int) -> list[tuple]:
        """Shapes and fillers of the weights that every step uses, beginning with the recurrent one."""

    @abstractmethod
    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        """The next state, h first, from the last; h is not yet cut where a sequence begins."""

    def output(self, hidden: Tensor) -> Tensor:
        """The top, from all steps' h."""
        return hidden

    def top_shapes(self, *shapes: Shape) -> list[Shape]:
        x, cont, *rest = shapes
        if x[:1] != (self.steps,) or math.prod(x[2:]) != self.blobs[0].shape[1] or len(x) < 3:
            raise InputError(
                f"this layer is unrolled for {self.steps} steps of {self.blobs[0].shape[1]} values, not {x}"
            )
        if cont != x[:2]:
            raise InputError(f"the sequence markers must be {x[:2]} (steps, streams), not {cont}")
        if self.static:
            static = rest.pop(0)
            if static[:1] != x[1:2] or math.prod(static[1:]) != self.blobs[2].shape[1]:
                raise InputError(
                    f"the static input must be {x[1]} times {self.blobs[2].shape[1]} values: {static}"
                )
        state = (1, x[1], self.param.recurrent_param.num_output)
        if any(given != state for given in rest):
            raise InputError(f"each blob of the state must be {state} (1, streams, num_output), not {rest}")
        return [(self.steps, *state[1:])] + [state] * (len(self.plan.tops) - 1)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        top_shapes = self.top_shapes(*(tuple(b.shape) for b in bottoms))
        x, cont, *rest = bottoms
        weight, bias, *_ = self.blobs
        drive = F.linear(x.flatten(2), weight, bias)
        if self.static:
            drive = drive + F.linear(rest.pop(0).flatten(1), self.blobs[2])
        streams = top_shapes[0][1:]
        state = [blob.detach()[0] for blob in rest] or self._remembered(streams, x)
        hidden = []
        for of_step, goes_on in zip(drive, cont.detach()[..., None], strict=True):
            state = self.step(state, of_step, goes_on)
            hidden.append(state[0])
        top = refuse_gradient(self, self.output(torch.stack(hidden)), cont, 1, "sequence markers")
        if self.param.recurrent_param.expose_hidden:
            return top, *(blob.detach()[None] for blob in state)
        self._remember(state)
        return top

    def recur(self, hidden: Tensor, drive: Tensor, cont: Tensor) -> Tensor:
        """What a step computes from h and from its input."""
        return F.linear(hidden * cont, self.blobs[2 + self.static]) + drive

    def _remembered(self, streams: Shape, like: Tensor) -> list[Tensor]:
        """The last state: of fewer streams the first ones', of more than ever zeros, as in Caffe."""
        count = math.prod(streams)
        if self.memory.shape[1] < count:
            self.memory = self.memory.new_zeros(self.states, count)
        self.memory = self.memory.to(like)
        return [blob.view(streams) for blob in self.memory[:, :count]]

    def _remember(self, state: list[Tensor]) -> None:
        flat = torch.stack([blob.detach().flatten() for blob in state])
        self.memory = torch.cat([flat, self.memory[:, flat.shape[1] :]], 1)


@layer("RNN")
class RNN(_Recurrent):
    """h = tanh(W_hh h + W_xh x + b_h), o = tanh(W_ho h + b_o). The state is h."""

    states, gates = 1, 1

    def step_weights(self, size: int) -> list[tuple]:
        param = self.param.recurrent_param
        square = ((size, size), param.weight_filler)
        return [square, square, ((size,), param.bias_filler)]

    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        return [torch.tanh(self.recur(state[0], drive, cont))]

    def output(self, hidden: Tensor) -> Tensor:
        return torch.tanh(F.linear(hidden, *self.blobs[-2:]))


@layer("LSTM")
class LSTM(_Recurrent):
    """LSTMUnit on gates W_hc h + W_xc x + b_c. The state is h and c."""

    states, gates = 2, 4

    def step_weights(self, size: int) -> list[tuple]:
        return [((4 * size, size), self.param.recurrent_param.weight_filler)]

    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        hidden, cell = state
        cell, hidden = lstm_unit(cell, self.recur(hidden, drive, cont), cont)
        return [hidden, cell]


@layer("LSTMUnit")
class LSTMUnit(Layer):
    """One step: next c and h (1, streams, size) from c, the gates' inputs (1, streams, 4 · size) and cont."""

    def top_shapes(self, cell: Shape, gates: Shape, cont: Shape) -> list[Shape]:
        if len(cell) != 3 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
            raise InputError(
                f"the bottoms must be (1, streams, size), (1, streams, 4 · size) and (1, streams), "
                f"not {cell}, {gates} and {cont}"
            )
        return [cell, cell]

    def forward(self, cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        self.top_shapes(*(tuple(b.shape) for b in (cell, gates, cont)))
        tops = lstm_unit(cell, gates, cont.detach()[..., None])
        return tuple(refuse_gradient(self, top, cont, 2, "sequence markers") for top in tops)


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """The next c and h from c (…, size), the inputs of the gates i, f, o, g (…, 4 · size) and cont (…, 1)."""
    i, f, o, g = gates.chunk(4, -1)
    kept = cont * torch.sigmoid(f.detach())
    # Caffe's derivative of cont · sigmoid(f) takes cont to be 0 or 1.
    forget = with_slope(f, kept, lambda kept: kept * (1 - kept), kept)
    cell = forget * cell + torch.sigmoid(i) * torch.tanh(g)
    return cell, torch.sigmoid(o) * torch.tanh(cell)
