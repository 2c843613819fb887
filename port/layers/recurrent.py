"""RNN, LSTM, and the LSTM's unit of one step."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import refuse_gradient, with_slope
from port.layer import Layer, layer
from prototxt.layers.declare import Shape
from prototxt.layers.recurrent import in_rows


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

    memory: Tensor

    def set_up(self) -> None:
        exposed = self.states if self.param.recurrent_param.expose_hidden else 0
        self.static = len(self.plan.bottoms) > 2 + exposed
        self.register_buffer("memory", torch.zeros(self.states, 0), persistent=False)

    @abstractmethod
    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        """The next state, h first, from the last; h is not yet cut where a sequence begins."""

    def output(self, hidden: Tensor) -> Tensor:
        """The top, from all steps' h."""
        return hidden

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, cont, *rest = bottoms
        weight, bias, *_ = self.blobs
        drive = F.linear(x.flatten(2), weight, bias)
        if self.static:
            drive = drive + F.linear(rest.pop(0).flatten(1), self.blobs[2])
        streams = (x.shape[1], self.param.recurrent_param.num_output)
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

    states = 1

    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        return [torch.tanh(self.recur(state[0], drive, cont))]

    def output(self, hidden: Tensor) -> Tensor:
        return torch.tanh(F.linear(hidden, *self.blobs[-2:]))


@layer("LSTM")
class LSTM(_Recurrent):
    """LSTMUnit on gates W_hc h + W_xc x + b_c. The state is h and c."""

    states = 2

    def step(self, state: list[Tensor], drive: Tensor, cont: Tensor) -> list[Tensor]:
        hidden, cell = state
        cell, hidden = lstm_unit(cell, self.recur(hidden, drive, cont), cont)
        return [hidden, cell]


@layer("LSTMUnit")
class LSTMUnit(Layer):
    """One step: next c and h (1, streams, size) from c, the gates' inputs (1, streams, 4 · size) and cont."""

    def forward(self, cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
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


@layer("Lstm")
class JunhyukLSTM(Layer):
    """caffe-lstm's and CTPN's LSTM, whose gates are in the order input, forget, output, cell.

    With markers the state goes on from pass to pass; without, each pass is a sequence of its own. Each stream has
    its own recurrent input, as in the published GPU code; the CPU code gives the first one's to all.

    caffe-lstm's own has steps and streams along one axis, and reads stream n's marker of step t at t + n.
    """

    def set_up(self) -> None:
        self.state: Tensor | None
        self.register_buffer("state", None, persistent=False)

    def forward(self, x: Tensor, cont: Tensor | None = None) -> Tensor:
        rows = in_rows(self.param, tuple(x.shape))
        if rows:
            x = x.unflatten(0, (-1, self.param.lstm_param.batch_size))
        steps, streams = x.shape[:2]
        size = self.param.lstm_param.num_output
        if cont is None:
            markers = torch.ones(steps, streams, 1, dtype=x.dtype, device=x.device)
            markers[0] = 0
        elif rows:
            markers = cont.detach().flatten().unfold(0, streams, 1)[:steps, :, None]
        else:
            markers = cont.detach().reshape(steps, streams, 1)
        state = self.state
        if cont is None or state is None or state.shape != (2, streams, size):
            state = x.new_zeros(2, streams, size)
        limit = self.param.lstm_param.clipping_threshold
        top, cells = _Lstm.apply(x.flatten(2), *self.blobs, markers, state, limit)
        self.state = torch.stack([top[-1].detach(), cells[-1]])
        return top.flatten(0, 1) if rows else top


class _Lstm(torch.autograd.Function):
    """The published gradient: clipped before the gates; the recurrent weights' ignores where sequences begin.

    For the state before the first step they take the first stream's share alone.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, w: Tensor, u: Tensor, b: Tensor, markers: Tensor, state: Tensor, limit: float
    ) -> tuple[Tensor, Tensor]:
        h, c = state
        inputs = x @ w.T + b
        outputs, cells, gates = [], [], []
        for step, keep in zip(inputs, markers, strict=True):
            i, f, o, g = (step + keep * (h @ u.T)).chunk(4, 1)
            i, f, o, g = i.sigmoid(), f.sigmoid(), o.sigmoid(), g.tanh()
            c = keep * f * c + i * g
            h = o * c.tanh()
            outputs.append(h)
            cells.append(c)
            gates.append(torch.stack([i, f, o, g]))
        top, cells = torch.stack(outputs), torch.stack(cells)
        ctx.save_for_backward(x, w, u, markers, state, top, cells, torch.stack(gates))
        ctx.limit = limit
        ctx.mark_non_differentiable(cells)
        return top, cells

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, w, u, markers, state, top, cells, gates = ctx.saved_tensors
        before = torch.cat([state[1][None], cells])
        dh = dc = torch.zeros_like(state[0])
        each: list[Tensor] = []
        for t in range(len(x) - 1, -1, -1):
            (i, f, o, g), keep, bent = gates[t], markers[t], cells[t].tanh()
            dh = dh + grad[t]
            dc = dc + dh * o * (1 - bent.square())
            into = [dc * g * i * (1 - i), dc * before[t] * keep * f * (1 - f), dh * bent * o * (1 - o)]
            slope = torch.cat([*into, dc * i * (1 - g.square())], 1)
            if ctx.limit > 0:
                slope = slope.clamp(-ctx.limit, ctx.limit)
            each.insert(0, slope)
            dh, dc = keep * (slope @ u), keep * dc * f
        slopes = torch.stack(each)
        d_w = torch.einsum("tng,tni->gi", slopes, x)
        d_u = torch.einsum("tng,tnh->gh", slopes[1:], top[:-1]) + torch.outer(slopes[0, 0], state[0][0])
        return slopes @ w, d_w, d_u, slopes.sum((0, 1)), None, None, None
