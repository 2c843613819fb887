"""What a net is fed with: a photograph and labels as published, and the rest drawn from a seed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from port.attention.maps import prepared_views
from port.net import plan_of
from port.voc.classes import CLASSES
from prototxt.caffe_pb2 import TEST, PythonParameter
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES
from prototxt.plan import Plan
from prototxt.read import read_net


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
    before = _unsplit(plan)
    return [
        Mask(layer.name, *(before[i] for i in (*layer.bottoms, layer.tops[0])))
        for layer in plan.layers
        if _is_mask(layer.param.python_param) and len(layer.bottoms) == 3
    ]


def _is_mask(python: PythonParameter) -> bool:
    return (python.module, python.layer) in _MASKS


def _unsplit(plan: Plan) -> dict[int, str]:
    """Each blob's name; of a splits' copy, the name of what was copied."""
    names = dict(enumerate(plan.blobs))
    for layer in plan.layers:
        if layer.type == "Split":
            names |= dict.fromkeys(layer.tops, names[layer.bottoms[0]])
    return names


def published_inputs(
    prototxt: str | os.PathLike,
    image: np.ndarray | None = None,
    labels: Sequence[int] | None = None,
    test_size: int = 256,
) -> dict[str, np.ndarray]:
    """Inputs of a net as the published procedure feeds them; for what is None there is none.

    Args:
        image: (height, width, 3) uint8, BGR: resized to test_size² by INTER_CUBIC on float64, minus the mean.
        labels: VOC class indices, to be set in a label blob of 1×1×1×20.

    Raises:
        InputError: an image for a net without an input of colour images, labels for one without labels.
    """
    where = os.fspath(prototxt)
    plan = plan_of(read_net(prototxt), TEST, where)
    inputs = {}
    if image is not None:
        name = _image_input(plan)
        if name is None:
            raise InputError(f"{where}: no input is a colour image (N×3×height×width): leave out the image")
        inputs[name] = prepared_views(image, test_size, flip=False)
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
    labels = _label_inputs(plan)
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


def _label_inputs(plan: Plan) -> list[str]:
    """Inputs that are called "label", or read where layers expect labels, markers or indices."""
    names = _unsplit(plan)
    read_so = {mask.label for mask in masks_of(plan)}
    for layer in plan.layers:
        bottoms = (*LAYER_TYPES[layer.type].no_forced_gradient, *_INDICES.get(layer.type, ()))
        read_so |= {names[layer.bottoms[i]] for i in bottoms if i < len(layer.bottoms)}
    inputs = [plan.blobs[i] for i in plan.inputs]
    return [name for name in inputs if name == "label" or name in read_so]


_INDICES = {"Accuracy": (1,), "BatchReindex": (1,), "Embed": (0,)}


def _image_input(plan: Plan) -> str | None:
    """The first input that is declared as N×3×height×width."""
    for layer in plan.layers:
        if layer.type == "Input":
            shapes = list(layer.param.input_param.shape)
            for top, shape in zip(layer.tops, shapes * len(layer.tops), strict=False):
                if len(shape.dim) == 4 and shape.dim[1] == 3:
                    return plan.blobs[top]
    return None
