"""What `seenet translate` is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prototxt.layers.declare import Shape


@dataclass(frozen=True)
class TranslateSettings:
    """Which net, where to, and how.

    Attributes:
        out: a folder that is new or empty.
        weights: None to draw them.
        class_name: None for the net's own name.
        train: the net of Caffe's TRAIN phase.
        input_shapes: of the blobs that data layers make.
        seed: of the inputs on which the model is compared, and of weights that no filler draws.
    """

    prototxt: Path
    out: Path
    weights: Path | None = None
    class_name: str | None = None
    train: bool = False
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    seed: int = 0
