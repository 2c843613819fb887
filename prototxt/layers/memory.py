"""Which blobs of a net lie in one memory, and which of them Caffe's backward finds overwritten.

Caffe's layers read their bottoms and tops again in the backward pass. Where a later layer has worked in place
on such a blob, they read what that layer wrote: a Sigmoid under an in-place Dropout takes its slope at the
dropped-out values. Split, Reshape, Flatten, and Concat and Slice of one blob, put their tops in the bottom's
memory, so that a layer in place on one of those blobs changes them all.
"""

from collections.abc import Sequence
from typing import Protocol

from prototxt.caffe_pb2 import EltwiseParameter, LayerParameter

_READ_BOTTOMS = frozenset(
    {
        *("AbsVal", "BNLL", "Clip", "Convolution", "Deconvolution", "ELU", "Eltwise", "InnerProduct", "Log"),
        *("LRN", "LSTM", "MultinomialLogisticLoss", "Power", "PReLU", "Reduction", "ReLU", "RNN", "Scale"),
    }
)
_READ_TOPS = frozenset(
    {"ELU", "Eltwise", "Exp", "LRN", "MVN", "Power", "Sigmoid", "Softmax", "Swish", "TanH"}
)
_KEEP_A_COPY_IN_PLACE = frozenset({"PReLU", "Scale"})


class Wired(Protocol):
    """What is asked of a layer here; `prototxt.plan.LayerPlan` has it."""

    type: str
    param: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]

    @property
    def in_place(self) -> bool: ...


def shares_memory(layer: Wired) -> bool:
    """Whether the tops lie in the bottom's memory."""
    single = layer.type in ("Concat", "Slice") and len(layer.bottoms) == len(layer.tops) == 1
    return single or layer.type in ("Flatten", "Reshape", "Split")


def memories(layers: Sequence[Wired], blobs: int) -> tuple[int, ...]:
    """For each blob the first one that lies in its memory, most often itself."""
    found = list(range(blobs))
    for layer in layers:
        if shares_memory(layer):
            for top in layer.tops:
                found[top] = found[layer.bottoms[0]]
    return tuple(found)


def overwritten_reads(layers: Sequence[Wired], memory: Sequence[int]) -> list[tuple[int, ...]]:
    """For each layer the blobs that its backward reads after they were overwritten, by itself or later."""
    last_writer = {
        memory[top]: i for i, layer in enumerate(layers) for top in layer.tops if top in layer.bottoms
    }
    return [
        tuple(
            blob
            for blob in blobs_read(layer)
            if last_writer.get(memory[blob], -1) >= i + (blob in layer.tops and _sees_no_difference(layer))
        )
        for i, layer in enumerate(layers)
    ]


def blobs_read(layer: Wired) -> tuple[int, ...]:
    """The bottoms and tops whose data Caffe's backward of this layer reads, each once."""
    if layer.type == "Eltwise" and layer.param.eltwise_param.operation != EltwiseParameter.PROD:
        return ()
    bottoms = layer.bottoms if layer.type in _READ_BOTTOMS else ()
    if layer.in_place and layer.type in _KEEP_A_COPY_IN_PLACE:
        bottoms = bottoms[1:]
    return tuple(dict.fromkeys(bottoms + (layer.tops if layer.type in _READ_TOPS else ())))


def _sees_no_difference(layer: Wired) -> bool:
    """In place: whether backward reads nothing but the top, or signs alone, which it has left as they are."""
    signs = layer.type == "ReLU" and layer.param.relu_param.negative_slope >= 0
    return signs or layer.type not in _READ_BOTTOMS
