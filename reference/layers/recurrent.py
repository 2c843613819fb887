"""RNN, LSTM and LSTMUnit.

Caffe builds a net of layers for a sequence and keeps it inside the recurrent layer. Here the time steps are
a loop; what shows outside is the same: the order of the weights, the random numbers drawn for them, the
state that a forward pass leaves to the next, and which bottoms get a gradient.
"""

import math
from abc import abstractmethod

import numpy as np

from prototxt.layers.recurrent import in_rows
from reference.arithmetic import sigmoid
from reference.checks import refuse_gradient
from reference.layer import Arrays, Layer, flat_from, layer
from runtime.blob import Blob


class _Recurrent(Layer):
    """What RNN and LSTM share.

    Bottoms: x (steps, streams, …); cont (steps, streams), 0 where a sequence begins; x_static (streams, …),
    if there is one more bottom; with `expose_hidden`, the states before the first step.
    Tops: (steps, streams, num_output); with `expose_hidden`, the states after the last step.
    States are (1, streams, num_output). Where they are not exposed, a forward pass begins with those that
    the last one ended with. They never get or give gradients, exposed or not.

    Weights: for x (rows, size), a bias (rows), for x_static (rows, its size), then the step's own.
    """

    states: int

    def set_up(self) -> None:
        self.exposed = self.states if self.param.recurrent_param.expose_hidden else 0
        self.static = len(self.plan.bottoms) > 2 + self.exposed
        self.memory = [Blob((), self.dtype) for _ in range(self.states)]

    def run(self, x: np.ndarray, cont: np.ndarray, *rest: np.ndarray) -> list[np.ndarray]:
        gates = self._flat(x) @ self.weight(0).T + self.weight(1)
        gates = gates.reshape(*x.shape[:2], gates.shape[-1])
        if self.static:
            gates = gates + flat_from(rest[0], 1) @ self.weight(2).T
        if self.exposed:
            states = [state[0] for state in rest[self.static :]]
        else:
            for blob in self.memory:
                blob.reshape(x.shape[1], self.param.recurrent_param.num_output)
            states = [blob.data for blob in self.memory]
        y, states = self.unroll(gates, cont[..., None], *states)
        if self.exposed:
            return [y, *(state[None] for state in states)]
        for blob, state in zip(self.memory, states, strict=True):
            blob.data[...] = state
        return [y]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "sequence indicators")
        x, cont, *rest = bottoms
        dgates = self.unroll_grad(tops[0], top_diffs[0], cont[..., None])
        self.add_grad(0, self._flat(dgates).T @ self._flat(x))
        self.add_grad(1, self._flat(dgates).sum(axis=0))
        diffs = [(dgates @ self.weight(0)).reshape(x.shape), None]
        if self.static:
            per_stream = dgates.sum(axis=0)
            self.add_grad(2, per_stream.T @ flat_from(rest[0], 1))
            diffs.append((per_stream @ self.weight(2)).reshape(rest[0].shape))
        return diffs + [None] * self.exposed

    @abstractmethod
    def unroll(self, gates: np.ndarray, cont: np.ndarray, *states: np.ndarray) -> tuple[np.ndarray, list]:
        """The top and the last states, of the gates' inputs (steps, streams, rows) and the first states."""

    @abstractmethod
    def unroll_grad(self, y: np.ndarray, dy: np.ndarray, cont: np.ndarray) -> np.ndarray:
        """The gradient of the gates' inputs; the steps' weights get theirs."""

    def _flat(self, sequence: np.ndarray) -> np.ndarray:
        """(steps · streams, values)"""
        return sequence.reshape(sequence.shape[0] * sequence.shape[1], math.prod(sequence.shape[2:]))


@layer("RNN")
class RNN(_Recurrent):
    """h_t = tanh(W_hh (cont_t h_t-1) + W_xh x_t + b_h), o_t = tanh(W_ho h_t + b_o); the top is o.

    Weights: W_xh, b_h, (W_xh_static,) W_hh, W_ho, b_o.
    """

    states = 1

    def unroll(self, gates: np.ndarray, cont: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, list]:
        hidden, output, bias = self._own_weights()
        self.before, self.h = np.empty_like(gates), np.empty_like(gates)
        for t, gate in enumerate(gates):
            self.before[t] = cont[t] * h
            h = self.h[t] = np.tanh(self.before[t] @ hidden.T + gate)
        self.o = np.tanh(self.h @ output.T + bias)
        return self.o, [h]

    def unroll_grad(self, y: np.ndarray, dy: np.ndarray, cont: np.ndarray) -> np.ndarray:
        hidden, output, _ = self._own_weights()
        first = 2 + self.static
        o = y if len(y) == 1 else self.o  # Caffe's Concat of one step's top shares its memory
        doutput = dy * (1 - o * o)
        dh = doutput @ output
        dgates = np.empty_like(dh)
        for t in range(len(dy) - 1, -1, -1):
            dgates[t] = dh[t] * (1 - self.h[t] * self.h[t])
            if t:
                dh[t - 1] += dgates[t] @ hidden * cont[t]
        self.add_grad(first, self._flat(dgates).T @ self._flat(self.before))
        self.add_grad(first + 1, self._flat(doutput).T @ self._flat(self.h))
        self.add_grad(first + 2, self._flat(doutput).sum(axis=0))
        return dgates

    def _own_weights(self) -> list[np.ndarray]:
        return [self.weight(i) for i in range(2 + self.static, 5 + self.static)]


@layer("LSTM")
class LSTM(_Recurrent):
    """Long short-term memory: gates W_hc (cont_t h_t-1) + W_xc x_t + b_c into an LSTMUnit; the top is h.

    Weights: W_xc, b_c, (W_xc_static,) W_hc; rows of the gates i, f, o, g in this order.
    """

    states = 2

    def unroll(
        self, gates: np.ndarray, cont: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, list]:
        hidden = self.weight(2 + self.static)
        top = (*gates.shape[:2], h.shape[-1])
        self.before, self.h = np.empty(top, self.dtype), np.empty(top, self.dtype)
        self.units = []
        for t, gate in enumerate(gates):
            self.before[t] = cont[t] * h
            unit = _Unit(c, self.before[t] @ hidden.T + gate, cont[t])
            self.units.append(unit)
            h, c = unit.h, unit.c
            self.h[t] = h
        return self.h, [h, c]

    def unroll_grad(self, y: np.ndarray, dy: np.ndarray, cont: np.ndarray) -> np.ndarray:
        first = 2 + self.static
        hidden = self.weight(first)
        dh, dc = dy.copy(), np.zeros_like(dy[0])
        dgates = np.empty((*dy.shape[:2], hidden.shape[0]), self.dtype)
        for t in range(len(dy) - 1, -1, -1):
            dc, dgates[t] = self.units[t].grad(dc, dh[t])
            if t:
                dh[t - 1] += dgates[t] @ hidden * cont[t]
        self.add_grad(first, self._flat(dgates).T @ self._flat(self.before))
        return dgates


@layer("LSTMUnit")
class LSTMUnit(Layer):
    """One step. Bottoms: c (1, streams, D), gates (1, streams, 4 D), cont (1, streams). Tops: c and h."""

    def run(self, c: np.ndarray, gates: np.ndarray, cont: np.ndarray) -> list[np.ndarray]:
        self.unit = _Unit(c, gates, cont[..., None])
        return [self.unit.c, self.unit.h]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 2, "sequence indicators")
        return [*self.unit.grad(*top_diffs), None]


class _Unit:
    """c = f c_before + i g and h = o tanh(c) of one step, f being 0 where a sequence begins."""

    def __init__(self, before: np.ndarray, gates: np.ndarray, cont: np.ndarray):
        i, f, o, g = np.split(gates, 4, axis=-1)
        self.before = before.copy()
        self.i, self.o, self.g = sigmoid(i), sigmoid(o), np.tanh(g)
        self.f = np.where(cont == 0, gates.dtype.type(0), cont * sigmoid(f))
        self.c = self.f * before + self.i * self.g
        self.tanh_c = np.tanh(self.c)
        self.h = self.o * self.tanh_c

    def grad(self, dc: np.ndarray, dh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of the c before and of the gates."""
        dc = dc + dh * self.o * (1 - self.tanh_c * self.tanh_c)
        gates = (
            dc * self.g * self.i * (1 - self.i),
            dc * self.before * self.f * (1 - self.f),  # as if cont were 0 or 1, whatever it is
            dh * self.tanh_c * self.o * (1 - self.o),
            dc * self.i * (1 - self.g * self.g),
        )
        return dc * self.f, np.concatenate(gates, axis=-1)


@layer("Lstm")
class JunhyukLSTM(Layer):
    """caffe-lstm's LSTM, of gates i, f, o, g in this order.

    Without markers each pass begins at 0. With markers (bottom 1, 0 where a sequence begins) the state goes on from
    the last pass. As published, the gradient of the weights for the last output takes that output also where a
    sequence begins; of the state before the first step, it takes the first stream's alone. Gradients before the
    gates' functions are kept within ± `clipping_threshold`. The published CPU code gives all streams the first one's
    recurrent input; its GPU code, and this, give each its own.

    Where steps and streams lie along one axis it is caffe-lstm's own, which of n streams at step t reads marker t + n.
    """

    def set_up(self) -> None:
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def run(self, x: np.ndarray, cont: np.ndarray | None = None) -> np.ndarray:
        self.rows = in_rows(self.param, x.shape)
        if self.rows:
            x = x.reshape(-1, self.param.lstm_param.batch_size, *x.shape[1:])
        steps, streams, size = x.shape[0], x.shape[1], self.param.lstm_param.num_output
        self.cont = self._markers(steps, streams, cont)
        zeros = np.zeros((streams, size), self.dtype)
        if cont is None or self.last is None or self.last[0].shape != zeros.shape:
            self.last = zeros, zeros
        self.h = np.zeros((steps + 1, streams, size), self.dtype)
        self.c = np.zeros_like(self.h)
        self.h[0], self.c[0] = self.last
        self.gates = x.reshape(steps, streams, -1) @ self.weight(0).T + self.weight(2)
        for t in range(steps):
            gates = self.gates[t] + self.cont[t] * (self.h[t] @ self.weight(1).T)
            gates[:, : 3 * size] = sigmoid(gates[:, : 3 * size])
            gates[:, 3 * size :] = np.tanh(gates[:, 3 * size :])
            self.gates[t] = gates
            i, f, o, g = np.split(gates, 4, axis=1)
            self.c[t + 1] = self.cont[t] * f * self.c[t] + i * g
            self.h[t + 1] = o * np.tanh(self.c[t + 1])
        self.last = self.h[-1].copy(), self.c[-1].copy()
        return self.h[1:].reshape(steps * streams, size) if self.rows else self.h[1:]

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        x, y, dh = bottoms[0], *(array.reshape(self.h[1:].shape) for array in (tops[0], top_diffs[0]))
        dh = dh.copy()
        limit = self.dtype.type(self.param.lstm_param.clipping_threshold)
        before = np.zeros_like(self.gates)
        dc = np.zeros_like(self.c[0])
        for t in reversed(range(len(dh))):
            i, f, o, g = np.split(self.gates[t], 4, axis=1)
            squashed = np.tanh(self.c[t + 1])
            dc = dc + dh[t] * o * (1 - squashed * squashed)
            keep = self.cont[t]
            slopes = [
                dc * g * i * (1 - i),
                keep * dc * self.c[t] * f * (1 - f),
                dh[t] * squashed * o * (1 - o),
            ]
            before[t] = np.concatenate([*slopes, dc * i * (1 - g * g)], axis=1)
            if limit > 0:
                before[t] = np.clip(before[t], -limit, limit)
            dc = keep * dc * f
            if t:
                dh[t - 1] += keep * (before[t] @ self.weight(1))
        flat, size = before.reshape(-1, before.shape[2]), self.h.shape[2]
        self.add_grad(0, flat.T @ x.reshape(len(flat), -1))
        recurrent = before[1:].reshape(-1, before.shape[2]).T @ y[:-1].reshape(-1, size)
        self.add_grad(1, recurrent + np.outer(before[0, 0], self.h[0, 0]))
        self.add_grad(2, flat.sum(axis=0))
        return [(flat @ self.weight(0)).reshape(x.shape), None][: len(bottoms)]

    def _markers(self, steps: int, streams: int, cont: np.ndarray | None) -> np.ndarray:
        if cont is not None and self.rows:
            return cont.reshape(-1)[np.arange(steps)[:, None] + np.arange(streams)][..., None]
        if cont is not None:
            return cont.reshape(steps, streams, 1).copy()
        markers = np.ones((steps, 1, 1), self.dtype)
        markers[0] = 0
        return markers
