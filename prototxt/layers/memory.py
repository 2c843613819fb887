"""Which blobs of a net lie in one memory, and what that does to what Caffe's backward reads and writes.

Caffe's layers read their bottoms and tops again in the backward pass. Where a later layer has worked in place
on such a blob, they read what that layer wrote: a Sigmoid under an in-place Dropout takes its slope at the
dropped-out values. Split, Reshape, Flatten, and Concat and Slice of one blob, put their tops in the bottom's
memory, so that a layer in place on one of those blobs changes them all. A script's Python layer may write into
its bottoms without saying so.
"""

from collections.abc import Sequence
from typing import Protocol

from prototxt.caffe_pb2 import EltwiseParameter, LayerParameter
from prototxt.layers.declare import LAYER_TYPES, Declared


class Wired(Protocol):
    """What is asked of a layer here; `prototxt.plan.LayerPlan` has it."""

    @property
    def type(self) -> str: ...

    @property
    def param(self) -> LayerParameter: ...

    @property
    def bottoms(self) -> tuple[int, ...]: ...

    @property
    def tops(self) -> tuple[int, ...]: ...

    @property
    def needs_backward(self) -> bool: ...

    @property
    def declared(self) -> Declared: ...

    @property
    def in_place(self) -> bool: ...


def shares_memory(layer: Wired) -> bool:
    """Whether the tops lie in the bottom's memory."""
    shares = LAYER_TYPES[layer.type].shares_memory
    if not (shares(layer.param) if callable(shares) else shares):
        return False
    return layer.type == "Split" or len(layer.bottoms) == len(layer.tops) == 1


def gives_its_diff(layer: Wired) -> bool:
    """Whether the layer's backward gives its bottom the top's own diff: Flatten, and Permute where it moves nothing."""
    return layer.type in GIVE_THEIR_DIFF and shares_memory(layer)


GIVE_THEIR_DIFF = ("Flatten", "Permute")


def memories(layers: Sequence[Wired], blobs: int) -> tuple[int, ...]:
    """For each blob the first one that lies in its memory, most often itself."""
    found = list(range(blobs))
    for layer in layers:
        if shares_memory(layer):
            for top in layer.tops:
                found[top] = found[layer.bottoms[0]]
    return tuple(found)


def overwritten_reads(layers: Sequence[Wired], memory: Sequence[int]) -> list[tuple[int, ...]]:
    """For each layer the blobs that its backward reads after they were, or may be, overwritten."""
    last_writer = {memory[blob]: i for i, layer in enumerate(layers) for blob in _written_in_place(layer)}
    found = []
    for i, layer in enumerate(layers):
        unharmed = frozenset(layer.tops if _sees_no_difference(layer) else ())
        reads = blobs_read(layer)
        found.append(tuple(b for b in reads if last_writer.get(memory[b], -1) >= i + (b in unharmed)))
    return found


def _written_in_place(layer: Wired) -> tuple[int, ...]:
    bottoms = frozenset(layer.bottoms)
    return layer.bottoms if layer.declared.script else tuple(b for b in layer.tops if b in bottoms)


def blobs_read(layer: Wired) -> tuple[int, ...]:
    """The bottoms and tops whose data Caffe's backward of this layer reads, each once."""
    facts = LAYER_TYPES[layer.type]
    if layer.type == "Python" and not layer.declared.script:
        return ()  # the built-in ones keep what they need
    if layer.type == "Eltwise" and layer.param.eltwise_param.operation != EltwiseParameter.PROD:
        return ()
    bottoms = layer.bottoms if facts.reads_bottoms else ()
    if layer.in_place and facts.keeps_copy_in_place:
        bottoms = bottoms[1:]
    # Of one step, an RNN's top lies in the memory of the TanH within.
    reads_tops = facts.reads_tops or (layer.type == "RNN" and layer.declared.steps == 1)
    return tuple(dict.fromkeys(bottoms + (layer.tops if reads_tops else ())))


def _sees_no_difference(layer: Wired) -> bool:
    """In place: whether backward reads nothing but the top, or signs alone, which it has left as they are."""
    if layer.declared.script:
        return False
    signs = layer.type == "ReLU" and layer.param.relu_param.negative_slope >= 0
    return signs or not LAYER_TYPES[layer.type].reads_bottoms


def lost_gradients(layers: Sequence[Wired]) -> list[bool]:
    """For each layer whether what comes back to its top never reaches its bottom.

    Reshape, and Concat and Slice of one blob, share their top's diff with the bottom when they run forwards and
    do nothing backwards. Flatten's backward gives its bottom another diff, its own top's. So below such a layer
    with a Flatten on its top, Caffe's gradient is what the bottom's diff has held all along: zeros.
    """
    flattened = {layer.bottoms[0] for layer in layers if gives_its_diff(layer) and layer.needs_backward}
    return [
        shares_memory(layer)
        and layer.type != "Split"
        and not gives_its_diff(layer)
        and layer.tops[0] in flattened
        for layer in layers
    ]
