"""A net whose data layers are inputs, and what it is compared on."""

import numpy as np

from port.net_inputs import label_inputs, masks_of
from prototxt.caffe_pb2 import BlobShape, InputParameter, LayerParameter, NetParameter, NetState
from prototxt.errors import InputError
from prototxt.layers.declare import Shape
from prototxt.plan import Plan
from prototxt.rules import layer_included

_DATA = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "ImageSegData": "image_data_param",
    "MemoryData": "memory_data_param",
    "HDF5Data": "hdf5_data_param",
    "WindowData": "window_data_param",
}
"""Layers that read batches → the field that says how."""


def fed(net: NetParameter, phase: int, shapes: dict[str, Shape]) -> NetParameter:
    """The net with each data layer of the phase made an Input of the same tops; no file is opened.

    Raises:
        InputError: a top whose shape neither the layer nor `shapes` tells.
    """
    changed = NetParameter()
    changed.CopyFrom(net)
    unused = set(shapes)
    for layer in changed.layer:
        reads = not layer.bottom and layer.top and layer.type not in ("Input", "Parameter", "DummyData")
        if reads and layer_included(layer, NetState(phase=phase)):
            blobs = [BlobShape(dim=shapes.get(top) or _told(layer, i)) for i, top in enumerate(layer.top)]
            unused -= set(layer.top)
            layer.type = "Input"
            layer.input_param.CopyFrom(InputParameter(shape=blobs))
    if unused:
        raise InputError(f'--input-shape: no data layer makes "{min(unused)}"')
    return changed


def _told(layer: LayerParameter, index: int) -> Shape:
    """The shape of a data layer's top, as far as its message tells it."""
    param = getattr(layer, _DATA[layer.type]) if layer.type in _DATA else None
    batch = getattr(param, "batch_size", 0)
    crop = layer.transform_param.crop_size or getattr(param, "crop_size", 0)
    if layer.type == "MemoryData":
        return (batch,) if index else (batch, param.channels, param.height, param.width)
    if batch and layer.type not in ("HDF5Data", "ImageSegData") and index == 1:
        return (batch,)
    if batch and crop and index == 0 and layer.type in ("Data", "ImageData", "WindowData"):
        return (batch, 1 if layer.transform_param.force_gray else 3, crop, crop)
    name = layer.top[index]
    raise InputError(
        f'layer "{layer.name}": its message does not tell the shape of "{name}": give --input-shape '
        f"{name}={batch or 1},…"
    )


def drawn_inputs(plan: Plan, batch: int | None, seed: int) -> dict[str, np.ndarray]:
    """Inputs to compare on: images from N(0, 50), like photographs minus their mean; labels 0 or 1.

    Args:
        batch: the first size of every input; None: as declared.
    """
    generator = np.random.RandomState(seed)
    labels = set(label_inputs(plan))
    of_masks = {mask.label: plan.shapes[plan.blobs.index(mask.scores)] for mask in masks_of(plan)}
    inputs = {}
    for i in plan.inputs:
        name, shape = plan.blobs[i], plan.shapes[i]
        if name in of_masks:
            shape = (of_masks[name][0], 1, 1, of_masks[name][1])
        if batch is not None and shape:
            shape = (batch, *shape[1:])
        if name in labels:
            inputs[name] = generator.randint(0, 2, shape).astype(np.float32)
        else:
            inputs[name] = generator.normal(0, 50, shape).astype(np.float32)
    return inputs
