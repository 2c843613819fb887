"""Recurrent nets over (steps, streams, ...) with markers: 0 where a sequence begins, else 1."""

import torch
from torch import Tensor, nn


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """The next cell and output from the gates' inputs: in, forget, out, and the new value."""
    i, f, o, g = gates.chunk(4, -1)
    cell = cont.detach()[..., None] * f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return cell, o.sigmoid() * cell.tanh()


class LSTM(nn.Module):
    """An LSTM that starts anew where `cont` is 0, and else goes on, from call to call."""

    def __init__(self, inputs: int, size: int, static: int = 0):
        super().__init__()
        self.input = nn.Linear(inputs, 4 * size)
        self.static = nn.Linear(static, 4 * size, bias=False) if static else None
        self.hidden = nn.Linear(size, 4 * size, bias=False)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, cont: Tensor, static: Tensor | None = None) -> Tensor:
        h = c = x.new_zeros(x.shape[1], self.hidden.in_features)
        if self.state is not None and self.state[0].shape == h.shape:
            h, c = self.state
        outputs, h, c = self.steps(x, cont, h, c, static)
        self.state = h[0], c[0]
        return outputs

    def steps(
        self,
        x: Tensor,
        cont: Tensor,
        h: Tensor,
        c: Tensor,
        static: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of all steps, and the state, (1, streams, size), behind the last."""
        size = self.hidden.in_features
        h, c = h.detach().reshape(-1, size), c.detach().reshape(-1, size)
        drive = self.input(x.flatten(2))
        if self.static is not None and static is not None:
            drive = drive + self.static(static.flatten(1))
        outputs = []
        for step, go_on in zip(drive, cont.detach(), strict=True):
            gates = step + self.hidden(h * go_on[..., None])
            c, h = lstm_unit(c, gates, go_on)
            outputs.append(h)
        return torch.stack(outputs), h.detach()[None], c.detach()[None]


class RNN(nn.Module):
    """A plain recurrent net that starts anew where `cont` is 0, and else goes on."""

    def __init__(self, inputs: int, size: int, static: int = 0):
        super().__init__()
        self.input = nn.Linear(inputs, size)
        self.static = nn.Linear(static, size, bias=False) if static else None
        self.hidden = nn.Linear(size, size, bias=False)
        self.output = nn.Linear(size, size)
        self.state: Tensor | None = None

    def forward(self, x: Tensor, cont: Tensor, static: Tensor | None = None) -> Tensor:
        state = x.new_zeros(x.shape[1], self.hidden.in_features)
        if self.state is not None and self.state.shape == state.shape:
            state = self.state
        outputs, h = self.steps(x, cont, state, static)
        self.state = h[0]
        return outputs

    def steps(
        self,
        x: Tensor,
        cont: Tensor,
        h: Tensor,
        static: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The outputs of all steps, and the state, (1, streams, size), behind the last."""
        h = h.detach().reshape(-1, self.hidden.in_features)
        drive = self.input(x.flatten(2))
        if self.static is not None and static is not None:
            drive = drive + self.static(static.flatten(1))
        states = []
        for step, go_on in zip(drive, cont.detach()[..., None], strict=True):
            h = torch.tanh(step + self.hidden(h * go_on))
            states.append(h)
        return torch.tanh(self.output(torch.stack(states))), h.detach()[None]


def one_sequence(x: Tensor) -> Tensor:
    """Markers of sequences that begin at the first step."""
    cont = x.new_ones(x.shape[:2])
    cont[0] = 0
    return cont
