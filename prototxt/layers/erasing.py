"""SeeNet's own layers, which stand for Python layers: C-ReLU in front of S_B, the background mask of S_C."""

import ast

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, text


def crelu(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    literal_params(layer, "maxt", "mint")
    return _erasing(shapes, tops)


def background_mask(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    literal_params(layer, "thresh")
    return _erasing(shapes, tops)


def _erasing(shapes: Shapes, tops: int) -> Declared:
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


def literal_params(param: LayerParameter, *names: str) -> tuple[float, ...]:
    """The numbers called `names` of a Python layer's `param_str`, read as a literal dict.

    (The authors' layer calls `eval` on it; a prototxt from elsewhere must not run code.)

    Raises:
        InputError: text that is not a literal dict, a missing or unknown key, a value that is no number.
    """
    text = param.python_param.param_str
    shown = repr(text if len(text) <= 200 else f"{text[:200]} …")
    expected = ", ".join(f"'{name}': …" for name in names)
    problem = f"param_str {shown}: a dict {{{expected}}} of numbers must be given"
    try:
        given = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(problem) from error
    if not isinstance(given, dict) or set(given) != set(names):
        raise InputError(problem)
    if not all(isinstance(value, int | float) for value in given.values()):
        raise InputError(problem)
    return tuple(given[name] for name in names)
