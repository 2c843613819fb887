"""MemoryData's source: arrays that a program hands over."""

from typing import Any

import numpy as np

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from runtime.data.order import MOST_DRAWN, saved_place
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG


class MemoryImages:
    """MemoryData: tops (batch, channels, height, width) and (batch, 1, 1, 1), float32, around and around.

    As in Caffe, `transform_param` does nothing to what `reset` takes. A third top, which DeepLab's nets have, is
    (batch, 1, 1, 2): the images' height and width.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, tops: int = 2):
        self.param = param.memory_data_param
        Transformer(param.transform_param, param.phase).seed(rng)
        self.shape = self.param.batch_size, self.param.channels, self.param.height, self.param.width
        if min(self.shape) < 1:
            raise InputError("memory_data_param: give batch_size, channels, height and width, 1 or more each")
        self.shapes = [self.shape, (self.param.batch_size,), (self.param.batch_size, 1, 1, 2)][:tops]
        self.data: np.ndarray | None = None
        self.labels: np.ndarray = np.empty(0)
        self.position = 0

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Read from these from now on, without copying: (n, channels, height, width), and n labels.

        Raises:
            InputError: other shapes, or n that is no multiple of the batch size.
        """
        if data.ndim != 4 or data.shape[1:] != self.shape[1:]:
            raise InputError(
                f"data of shape {data.shape}: it must be (n, {', '.join(map(str, self.shape[1:]))})"
            )
        if labels.size != len(data):
            raise InputError(f"{labels.size} labels for {len(data)} images: give one each")
        if not len(data) or len(data) % self.shape[0]:
            raise InputError(f"{len(data)} images are no multiple of the batch size, {self.shape[0]}")
        self.data, self.labels, self.position = data, labels.reshape(-1, 1, 1, 1), 0

    def draw(self) -> slice:
        if self.data is None:
            raise InputError("MemoryData has no arrays: call reset (pycaffe: net.set_input_arrays) first")
        batch = slice(self.position, self.position + self.shape[0])
        self.position = batch.stop % len(self.data)
        return batch

    def load(self, drawn: slice) -> tuple[np.ndarray, ...]:
        assert self.data is not None  # draw has seen to it
        data, labels = self.data[drawn].astype(np.float32), self.labels[drawn].astype(np.float32)
        sizes = np.broadcast_to(np.array(data.shape[2:], np.float32), (len(data), 1, 1, 2))
        return (data, labels, sizes.copy())[: len(self.shapes)]

    def items(self, drawn: slice) -> list[str]:
        return [f"image {i} of the arrays" for i in range(drawn.start, drawn.stop)]

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """The arrays are the program's to hand over again."""
        self.position = saved_place(state["position"], MOST_DRAWN if self.data is None else len(self.data))
