"""An outside opinion: a planned net run by OpenCV's own reader of Caffe models.

The net is written out again for OpenCV: inputs with the shapes at hand, no `Split` layers, no layer in place,
every top with a name of its own, so that each blob can be asked for. SeeNet's masks, which OpenCV lacks, are
registered as custom layers around the port's. Fusion and Winograd convolution are switched off: the one hides
blobs, the other rounds differently.
"""

import ast
import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from google.protobuf import text_format
from torch import nn

from port.crelu import BackgroundMask, CReLU
from prototxt.caffe_pb2 import BlobShape, LayerParameter, NetParameter
from prototxt.plan import LayerPlan, Plan
from weights import LayerWeights, write_caffemodel

_MASKS = {"CReLULayer": CReLU, "BackgroundMaskLayer": BackgroundMask}
_FIRST_WORDS = re.compile(r"error: \([^)]*\) ?(.*?)(?: in function|\n|$)")


def run_opencv(
    plan: Plan, weights: Sequence[LayerWeights], inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Run a net in OpenCV.

    Args:
        weights: of the plan's layers, float32.
        inputs: a float32 array for each of the plan's inputs.

    Returns:
        The blobs by name, as their last layer leaves them; and, by name too, the blobs that OpenCV does not
        carry, each with the reason.
    """
    graph = _Graph(plan, weights, inputs)
    refused: dict[str, str] = {}
    with _custom_layers(), _quiet():
        while True:
            steps = graph.without(refused)
            try:
                values = graph.run(steps)
                break
            except cv2.error as error:
                step, reason = _culprit(graph, steps, error)
                refused[step.name] = reason
    blobs = {graph.blob_names[step.name]: values[step.name] for step in steps if step.name in graph.blob_names}
    missing = set(graph.blob_names.values()) - set(blobs)
    reasons = graph.reasons(refused)
    return blobs, {name: reasons[name] for name in plan.blobs if name in missing}


@dataclass(frozen=True)
class _Step:
    """One top of one layer, in OpenCV's net.

    Attributes:
        name: of the step's layer and its top in OpenCV.
        layers: what computes it: the layer and, of a layer with several tops, an identity (OpenCV gives out
            first tops only).
        reads: names of the steps that it reads.
    """

    name: str
    plan: LayerPlan
    layers: tuple[LayerParameter, ...]
    reads: tuple[str, ...]
