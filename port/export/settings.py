"""What `seenet export` is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OPSET = 18
"""The opset that is written by default: the exporter's own, and the oldest that it writes."""


@dataclass(frozen=True)
class ExportSettings:
    """Which net, as which files, checked on what.

    Attributes:
        files: what to write, by kind: "onnx", "torchscript", "pt2".
        safetensors: a file for the weights, or none.
        prototxt: None for SeeNet, whose thresholds are maxt and mint.
        images: photographs to check on, beside random images of `seed`.
        opset: of the ONNX file.
        test_size: side to which photographs are resized, in pixels.
        to_bgr: take grey, 16-bit and RGBA photographs too.
        allow_modules: Python modules that the net may load.
    """

    weights: Path
    files: Mapping[str, Path]
    safetensors: Path | None = None
    prototxt: Path | None = None
    images: Sequence[Path] = ()
    opset: int = OPSET
    test_size: int = 256
    maxt: float = 0.8
    mint: float = 0.0
    seed: int = 0
    to_bgr: bool = False
    allow_modules: Sequence[str] = ()
