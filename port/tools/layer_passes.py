"""A net's passes layer by layer, each layer timed: what `caffe time` measures."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from port.layer import as_tuple
from port.net import CaffeNet
from prototxt.plan import LayerPlan


class LayerPasses:
    """Runs every layer apart from the others, with gradients handed from layer to layer.

    Attributes:
        times: seconds by layer, forwards and backwards, summed over the passes.
    """

    def __init__(self, net: CaffeNet, device: torch.device):
        self.net, self.device = net, device
        self._layers = list(zip(net.plan.layers, net.layers, strict=True))
        self.clear_times()

    def clear_times(self) -> None:
        self.times = [0.0] * len(self._layers), [0.0] * len(self._layers)

    def forward(self) -> float:
        """One pass; the weighted loss. Inputs are zeros, as Caffe's are."""
        values: dict[int, Tensor] = {}
        self._graphs: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = []
        loss = 0.0
        for i, (plan, layer) in enumerate(self._layers):
            bottoms = [
                values[b].detach().requires_grad_(wanted and values[b].is_floating_point())
                for b, wanted in zip(plan.bottoms, plan.propagate_down, strict=True)
            ]
            start = self._now()
            with plan.errors(), torch.set_grad_enabled(plan.needs_backward):
                if plan.type == "Input":
                    shapes = (self.net.plan.shapes[top] for top in plan.tops)
                    tops = tuple(torch.zeros(shape, device=self.device) for shape in shapes)
                else:
                    tops = as_tuple(layer(*bottoms))
            self.times[0][i] += self._now() - start
            self._graphs.append((bottoms, tops))
            values.update(zip(plan.tops, tops, strict=True))
            for top, weight in zip(tops, plan.loss_weights, strict=True):
                loss += weight * float(top.detach().sum()) if weight else 0.0
        return loss

    def backward(self) -> None:
        """One pass backwards, after `forward`."""
        gradients: dict[int, Tensor] = {}
        for i, (plan, layer) in reversed(list(enumerate(self._layers))):
            bottoms, tops = self._graphs[i]
            heads = [(t, g) for t, g in self._heads(plan, tops, gradients) if t.requires_grad]
            sinks = [x for x in (*bottoms, *layer.parameters(recurse=False)) if x.requires_grad]
            start = self._now()
            found: Sequence[Tensor | None] = ()
            if plan.needs_backward and heads and sinks:
                found = torch.autograd.grad(
                    [t for t, _ in heads], sinks, [g for _, g in heads], allow_unused=True
                )
            self.times[1][i] += self._now() - start
            wanted = [b for b, x in zip(plan.bottoms, bottoms, strict=True) if x.requires_grad]
            for blob, gradient in zip(wanted, found, strict=False):
                if gradient is not None:
                    gradients[blob] = gradient

    def _heads(
        self, plan: LayerPlan, tops: Sequence[Tensor], gradients: dict[int, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each top with its gradient: a loss's weight, what the layer above gave, or zeros."""
        for blob, top, weight in zip(plan.tops, tops, plan.loss_weights, strict=True):
            if weight:
                yield top, torch.full_like(top, weight)
            else:
                given = gradients.get(blob)
                yield top, torch.zeros_like(top) if given is None else given.reshape(top.shape)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
