"""What a net amounts to, as plain data: what the summary counts and the drawing shows."""

from dataclasses import dataclass

from prototxt.caffe_pb2 import LayerParameter
from prototxt.layers.declare import Shape
from prototxt.limits import FLOAT


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a net.

    Attributes:
        bottoms, tops: blob names; a blob that is both is worked on in place.
        shapes: of the tops.
        weights: shapes of the weight blobs, borrowed ones too.
        parameters: values in the weight blobs that are this layer's own.
        shared: values in weight blobs that belong to another layer.
        multiply_adds: of a whole pass; see `multiply_adds`.
        memory: bytes of the tops that need memory of their own.
    """

    name: str
    type: str
    param: LayerParameter
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]
    weights: tuple[Shape, ...]
    parameters: int
    shared: int
    multiply_adds: int
    memory: int

    @property
    def in_place(self) -> bool:
        return bool(set(self.bottoms) & set(self.tops))


@dataclass(frozen=True)
class NetSummary:
    """A net's layers and totals. Memory is in bytes, of float32 blobs, all of which Caffe keeps."""

    name: str
    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def blob_memory(self) -> int:
        return sum(layer.memory for layer in self.layers)

    @property
    def weight_memory(self) -> int:
        return FLOAT * self.parameters
