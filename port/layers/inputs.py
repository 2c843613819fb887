"""Layers without bottoms."""

import torch
from torch import Tensor

from port.layer import Layer, layer
from prototxt.layers.inputs import dummy_fillers
from runtime.fillers import fill
from runtime.rng import caffe_rng


@layer("Input")
class Input(Layer):
    """Blobs that the caller gives."""


@layer("Parameter")
class Parameter(Layer):
    """A weight as a blob of the net, in one memory: its gradient is the last pass's alone, not a sum."""

    def forward(self) -> Tensor:
        return self.blobs[0]

    def replaced_gradients(self) -> list[int]:
        return [0]


@layer("DummyData")
class DummyData(Layer):
    """Blobs that fillers fill, anew in each forward pass."""

    def set_up(self) -> None:
        self.fillers = dummy_fillers(self.param, len(self.plan.tops))
        # Says where the tops are made, and in which precision: it goes with the module.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.from_numpy(fill(shape, filler, caffe_rng())).to(self.like)
            for shape, filler in zip(self.plan.declared.tops, self.fillers, strict=True)
        )

    def constants(self) -> list[float | None]:
        """For each top, the value that Caffe fills it with once, at set-up; None where each pass fills it."""
        return [filler.value if filler.type == "constant" else None for filler in self.fillers]
