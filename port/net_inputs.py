"""What a net is fed with: a photograph and labels as published, and the rest drawn from a seed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from port.attention.maps import MEAN_BGR
from port.net import plan_of
from port.voc.classes import CLASSES
from prototxt.caffe_pb2 import TEST, PythonParameter
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES, Shape
from prototxt.plan import Plan
from prototxt.read import read_net
from runtime.resizing import resize_cubic

PUBLISHED_SIZE = 256
"""The side to which SeeNet's published script resizes photographs."""

GREY_BGR = (0.114, 0.587, 0.299)
"""The weights of blue, green and red in a grey value (ITU-R BT.601), as in OpenCV."""


@dataclass(frozen=True)
class Mask:
    """One of SeeNet's masks (C-ReLU, S_C's), with its blobs as they are called before any splitting."""

    layer: str
    features: str
    scores: str
    label: str
    top: str


_MASKS = (("crelu_layer", "CReLULayer"), ("scan_background_layer", "BackgroundMaskLayer"))


def masks_of(plan: Plan) -> list[Mask]:
    """SeeNet's masks in a net, in its order."""
    before = unsplit(plan, plan.blobs)
    return [
        Mask(layer.name, *(before[i] for i in (*layer.bottoms, layer.tops[0])))
        for layer in plan.layers
        if _is_mask(layer.param.python_param) and len(layer.bottoms) == 3
    ]


def _is_mask(python: PythonParameter) -> bool:
    return (python.module, python.layer) in _MASKS


def unsplit(plan: Plan, names: Sequence[str]) -> dict[int, str]:
    """Each blob's name, of `names`; of a splits' copy, the name of what was copied."""
    found = dict(enumerate(names))
    for layer in plan.layers:
        if layer.type == "Split":
            found |= dict.fromkeys(layer.tops, found[layer.bottoms[0]])
    return found


def published_inputs(
    prototxt: str | os.PathLike,
    image: np.ndarray | None = None,
    labels: Sequence[int] | None = None,
    test_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Inputs of a net as the published procedure feeds them; for what is None there is none.

    Args:
        image: (height, width, 3) uint8, BGR: resized by INTER_CUBIC on float64, minus the mean; for an input of
            one channel then made grey. Repeated as often as the input's batch is large.
        labels: VOC class indices, to be set in a label blob of 1×1×1×20.
        test_size: the image is resized to this square; None: to the input's own height and width, in a net with
            SeeNet's masks to 256².

    Raises:
        InputError: an image for a net without an input of images, labels for one without labels.
    """
    where = os.fspath(prototxt)
    plan = plan_of(read_net(prototxt), TEST, where)
    inputs = {}
    if image is not None:
        found = _image_input(plan)
        if found is None:
            raise InputError(
                f"{where}: no input is an image (N×3×height×width or N×1×height×width): leave out the image"
            )
        name, (num, channels, height, width) = found
        if test_size is None and masks_of(plan):
            test_size = PUBLISHED_SIZE
        size = (height, width) if test_size is None else (test_size, test_size)
        inputs[name] = np.repeat(_prepared(image, channels, *size), num, axis=0)
    if labels is not None:
        read_by_masks = {mask.label for mask in masks_of(plan)}
        names = [plan.blobs[i] for i in plan.inputs if plan.blobs[i] in {"label", *read_by_masks}]
        if not names:
            raise InputError(f"{where}: has no label input: leave out the labels")
        label = np.zeros((1, 1, 1, len(CLASSES)), np.float32)
        label[..., list(labels)] = 1
        inputs |= dict.fromkeys(names, label)
    return inputs


def complete_inputs(
    net: Any, plan: Plan, given: Mapping[str, np.ndarray], seed: int, where: str
) -> dict[str, np.ndarray]:
    """All inputs of a net, float32: those given, the others drawn. The net's own get their shapes.

    Images are drawn from N(0, 50), like photographs minus their mean; labels, markers and indices are 0 or 1.

    Raises:
        InputError: where the net has no such input, or no inputs at all.
    """
    if not net.inputs:
        raise InputError(f"{where}: has no inputs to feed: give the net's deploy form, with Input layers")
    unknown = [name for name in given if name not in net.inputs]
    if unknown:
        raise InputError(f'{where}: has no input "{unknown[0]}", but {", ".join(net.inputs)}')
    generator = np.random.RandomState(seed)
    labels = label_inputs(plan)
    inputs = {}
    for name in sorted(net.inputs, key=lambda name: name in labels):  # a label's shape may hang on the others
        if name in given:
            array = np.ascontiguousarray(given[name], np.float32)
        elif name in labels:
            array = generator.randint(0, 2, _label_shape(net, plan, name)).astype(np.float32)
        else:
            array = generator.normal(0, 50, net.blobs[name].shape).astype(np.float32)
        net.blobs[name].reshape(*array.shape)
        inputs[name] = array
    return {name: inputs[name] for name in net.inputs}


def _label_shape(net: Any, plan: Plan, label: str) -> tuple[int, ...]:
    """As declared, or as SeeNet's masks need it: the deploy net declares one value only."""
    scores = next((mask.scores for mask in masks_of(plan) if mask.label == label), None)
    if scores is None:
        return net.blobs[label].shape
    net.reshape()
    num, classes = net.blobs[scores].shape[:2]
    return num, 1, 1, classes


def label_inputs(plan: Plan) -> list[str]:
    """Inputs that are called "label", or read where layers expect labels, markers or indices."""
    names = unsplit(plan, plan.blobs)
    read_so = {mask.label for mask in masks_of(plan)}
    for layer in plan.layers:
        bottoms = index_bottoms(layer.type)
        read_so |= {names[layer.bottoms[i]] for i in bottoms if i < len(layer.bottoms)}
    inputs = [plan.blobs[i] for i in plan.inputs]
    return [name for name in inputs if name == "label" or name in read_so]


def index_bottoms(layer_type: str) -> tuple[int, ...]:
    """Which bottoms of a layer type hold labels, markers or indices."""
    return (*LAYER_TYPES[layer_type].no_forced_gradient, *_INDICES.get(layer_type, ()))


_INDICES = {"Accuracy": (1,), "BatchReindex": (1,), "Embed": (0,)}


def _image_input(plan: Plan) -> tuple[str, Shape] | None:
    """The first input, or top of a MemoryData layer, of N×3×height×width or N×1×height×width, with its shape.

    What has three channels goes first: a map of one channel beside an image is a mask.
    """
    shapes = {plan.blobs[i]: plan.shapes[i] for i in plan.inputs} | memory_shapes(plan)
    images = [(name, shape) for name, shape in shapes.items() if len(shape) == 4 and min(shape) > 0]
    for channels in (3, 1):
        for name, shape in images:
            if shape[1] == channels and (channels == 3 or shape[2:] != (1, 1)):
                return name, shape
    return None


def _prepared(image: np.ndarray, channels: int, height: int, width: int) -> np.ndarray:
    """(1, channels, height, width) float32."""
    resized = resize_cubic(image.astype(np.float64), width, height) - np.array(MEAN_BGR)
    if channels == 1:
        resized = resized @ np.array(GREY_BGR)[:, None]
    return np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32)


def memory_shapes(plan: Plan) -> dict[str, Shape]:
    """The tops of MemoryData layers: blob name → shape."""
    return {
        plan.blobs[top]: plan.shapes[top]
        for layer in plan.layers
        if layer.type == "MemoryData"
        for top in layer.tops
    }
