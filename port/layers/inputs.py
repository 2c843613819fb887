"""Layers without bottoms."""

import torch
from torch import Tensor

from port.layer import Layer, Shape, layer
from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from runtime.fillers import fill
from runtime.rng import caffe_rng


@layer("Input")
class Input(Layer):
    """Blobs that the caller gives: `shapes` says what the prototxt declares."""

    def top_shapes(self) -> list[Shape]:
        shapes = self.param.input_param.shape
        tops = len(self.plan.tops)
        if len(shapes) not in (0, 1, tops):
            raise InputError(f"input_param has {len(shapes)} shapes for {tops} tops: give 0, 1 or one each")
        if not shapes:
            return [(0,)] * tops
        return [tuple(shapes[i if len(shapes) > 1 else 0].dim) for i in range(tops)]


@layer("Parameter")
class Parameter(Layer):
    """A weight as a blob of the net, in one memory: its gradient is the last pass's alone, not a sum."""

    def set_up(self) -> None:
        self.add_weight(tuple(self.param.parameter_param.shape.dim), FillerParameter(value=0))

    def forward(self) -> Tensor:
        return self.blobs[0]

    def replaced_gradients(self) -> list[int]:
        return [0]


@layer("DummyData")
class DummyData(Layer):
    """Blobs that fillers fill, anew in each forward pass."""

    def set_up(self) -> None:
        param, tops = self.param.dummy_data_param, len(self.plan.tops)
        if len(param.data_filler) not in (0, 1, tops):
            raise InputError(
                f"dummy_data_param: {len(param.data_filler)} data_filler, {tops} tops: give one, or one each"
            )
        # Says where the tops are made, and in which precision: it goes with the module.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def top_shapes(self) -> list[Shape]:
        param, tops = self.param.dummy_data_param, len(self.plan.tops)
        older = (param.num, param.channels, param.height, param.width)
        given = (param.shape,) if not any(older) else older
        if (any(older) and param.shape) or any(len(each) not in (1, tops) for each in given):
            raise InputError(
                f"dummy_data_param: give shape, or num, channels, height and width, 1 or {tops} of each"
            )
        picked = [[each[i if len(each) > 1 else 0] for each in given] for i in range(tops)]
        return [tuple(sizes) if any(older) else tuple(sizes[0].dim) for sizes in picked]

    def forward(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.from_numpy(fill(shape, filler, caffe_rng())).to(self.like)
            for shape, filler in zip(self.top_shapes(), self._fillers(), strict=True)
        )

    def constants(self) -> list[float | None]:
        """For each top, the value that Caffe fills it with once, at set-up; None where each pass fills it."""
        return [filler.value if filler.type == "constant" else None for filler in self._fillers()]

    def _fillers(self) -> list[FillerParameter]:
        fillers = list(self.param.dummy_data_param.data_filler) or [FillerParameter()]
        return fillers * len(self.plan.tops) if len(fillers) == 1 else fillers
