"""SeeNet's own layers, which stand for Python layers: C-ReLU in front of S_B, the background mask of S_C."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, text


def erasing(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Bottoms: features (num, channels, h, w), scores (num, classes, h, w), labels (num · classes values).

    A deploy prototxt declares its label blob with one value; the caller reshapes it before running.
    """
    if len(shapes) != 3 or tops != 1:
        raise InputError(
            f"an erasing layer takes features, scores and labels and makes one top, not {len(shapes)}"
            f" bottoms and {tops} tops"
        )
    features, scores, _ = shapes
    if len(features) != 4 or len(scores) != 4 or scores[::2] + scores[3:] != features[::2] + features[3:]:
        raise InputError(
            f"scores {text(scores)} must match the features {text(features)} but for the channels"
        )
    return Declared([features])
