"""Connectionist temporal classification, of caffe_ocr: the loss by warp-ctc's rule, and the greedy decoder."""

import math
from collections.abc import Sequence

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, text


@layer_type("WarpCTCLoss", bottoms=(2, 2), loss=True, no_forced_gradient=(1,))
def warp_ctc_loss(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottoms: scores (steps, streams, classes), labels (streams, labels), in which blanks do not count."""
    scores, labels = shapes
    steps, streams, classes, last = legacy_shape(scores)
    if not 0 <= layer.ctc_loss_param.blank_index < classes:
        raise InputError(
            f"ctc_loss_param: blank_index {layer.ctc_loss_param.blank_index} is not among {classes} classes"
        )
    if len(scores) < 3 or last != 1 or not steps or not labels or labels[0] != streams:
        raise InputError(
            f"the bottoms must be (steps, streams, classes) and (streams, labels), not {text(scores)} "
            f"and {text(labels)}"
        )
    return Declared([()])


@layer_type("CTCGreedyDecoder", bottoms=(1, 2), needs_values=True)
def ctc_greedy_decoder(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """With labels as a second bottom, two shares: of what is right by edit distance, and of lines all right."""
    steps, streams, classes, last = legacy_shape(shapes[0])
    if len(shapes[0]) < 3 or last != 1 or not steps or not classes:
        raise InputError(f"the scores must be (steps, streams, classes), not {text(shapes[0])}")
    if len(shapes) == 1:
        return Declared([(streams, steps, 1, 1)])
    if not shapes[1] or shapes[1][0] != streams or math.prod(shapes[1][2:]) != 1:
        raise InputError(f"the labels must be ({streams} streams, labels), not {text(shapes[1])}")
    return Declared([(1, 2, 1, 1)])


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """How many labels must be put in, taken out or replaced."""
    row = list(range(len(other) + 1))
    for i, label in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (label != wanted))
    return row[-1]
