"""A net whose data layers are inputs, and what it is compared on."""

import numpy as np

from port.net_inputs import label_inputs, masks_of, unsplit
from prototxt.caffe_pb2 import BlobShape, InputParameter, LayerParameter, NetParameter, NetState
from prototxt.errors import InputError
from prototxt.layers.data import tells_shapes, told_shapes
from prototxt.layers.declare import Shape
from prototxt.plan import LayerPlan, Plan
from prototxt.rules import layer_included


def fed(net: NetParameter, phase: int, shapes: dict[str, Shape]) -> NetParameter:
    """The net with each data layer of the phase made an Input of the same tops; nothing opens or writes files.

    Raises:
        InputError: a top whose shape neither the layer nor `shapes` tells.
    """
    changed = NetParameter()
    changed.CopyFrom(net)
    kept = [layer for layer in changed.layer if layer.type not in ("FLOWriter", "HDF5Output", "MatWrite")]
    del changed.layer[:]
    changed.layer.extend(kept)
    unused = set(shapes)
    for layer in changed.layer:
        layer.detection_output_param.ClearField("save_output_param")
        reads = not layer.bottom and layer.top and layer.type not in ("Input", "Parameter", "DummyData")
        if reads and layer_included(layer, NetState(phase=phase)):
            first = shapes.get(layer.top[0], ())
            blobs = [
                BlobShape(dim=shapes.get(top) or _told(layer, i, first)) for i, top in enumerate(layer.top)
            ]
            unused -= set(layer.top)
            layer.type = "Input"
            layer.input_param.CopyFrom(InputParameter(shape=blobs))
    if unused:
        raise InputError(f'--input-shape: no data layer makes "{min(unused)}"')
    return changed


def _told(layer: LayerParameter, index: int, first: Shape) -> Shape:
    """The shape of a data layer's top, as far as its message, or the shape of its first top, tells it."""
    if layer.type == "AnnotatedData" and index == 1:
        return (1, 1, 8, 8)  # rows of boxes, any number
    tells = tells_shapes(layer) and layer.type != "HDF5Data"
    image = first[1:] if len(first) == 4 else None
    shapes = told_shapes(layer, image, first[0] if image else None) if tells else None
    if shapes:
        return shapes[index]
    name, guess = layer.top[index], told_shapes(layer, (3, 1, 1)) if tells else None
    raise InputError(
        f'layer "{layer.name}": its message does not tell the shape of "{name}": give --input-shape '
        f"{name}={guess[index][0] if guess else 1},…"
    )


def drawn_inputs(plan: Plan, batch: int | None, seed: int) -> dict[str, np.ndarray]:
    """Inputs to compare on: images from N(0, 50), like photographs minus their mean; labels 0 or 1; boxes.

    Args:
        batch: the first size of every input; None: as declared.
    """
    generator = np.random.RandomState(seed)
    labels = set(label_inputs(plan))
    of_masks = {mask.label: plan.shapes[plan.blobs.index(mask.scores)] for mask in masks_of(plan)}
    readers = _readers(plan)
    inputs = {}
    for i in plan.inputs:
        name, shape = plan.blobs[i], plan.shapes[i]
        if name in of_masks:
            shape = (of_masks[name][0], 1, 1, of_masks[name][1])
        if batch is not None and shape:
            shape = (batch, *shape[1:])
        layer, bottom = readers.get(name, (None, 0))
        drawn = _DRAWN.get((layer.type, bottom)) if layer else None
        if drawn:
            inputs[name] = drawn(generator, shape, layer).astype(np.float32)
        elif name in labels:
            inputs[name] = generator.randint(0, 2, shape).astype(np.float32)
        else:
            inputs[name] = generator.normal(0, 50, shape).astype(np.float32)
    return inputs


def _readers(plan: Plan) -> dict[str, tuple[LayerPlan, int]]:
    """Each input's reader that takes special values: the layer, and which bottom it is."""
    names = unsplit(plan, plan.blobs)
    return {
        names[blob]: (layer, i)
        for layer in plan.layers
        for i, blob in enumerate(layer.bottoms)
        if (layer.type, i) in _DRAWN
    }


def _regions(generator: np.random.RandomState, shape: Shape, layer: LayerPlan) -> np.ndarray:
    """Rows [0, x1, y1, x2, y2] within the input."""
    scale = {
        "ROIPooling": layer.param.roi_pooling_param.spatial_scale,
        "PSROIPooling": layer.param.psroi_pooling_param.spatial_scale,
        "ROIWarping": layer.param.roi_warping_param.spatial_scale,
    }[layer.type]
    height, width = (size / (scale or 1) for size in layer.bottom_shapes[0][2:])
    rows = _boxes(generator, int(np.prod(shape[:1]))) * np.array([width, height] * 2)
    return np.concatenate([np.zeros((len(rows), 1)), rows], 1).round().reshape(shape)


def _boxes(generator: np.random.RandomState, count: int) -> np.ndarray:
    """Boxes in shares of an image, (count, 4)."""
    corners = generator.uniform(0, 0.6, (count, 2))
    return np.concatenate([corners, corners + generator.uniform(0.1, 0.4, (count, 2))], 1)


def _truth(generator: np.random.RandomState, shape: Shape, layer: LayerPlan) -> np.ndarray:
    """Rows [image, class, number, box, difficult], of class 1."""
    count, images = int(np.prod(shape)) // 8, layer.bottom_shapes[0][0]  # detections: (1, 1, …)
    rows = np.zeros((count, 8))
    rows[:, 0], rows[:, 1] = np.sort(generator.randint(0, images, count)), 1
    rows[:, 3:7] = _boxes(generator, count)
    return rows.reshape(shape)


def _image_info(generator: np.random.RandomState, shape: Shape, layer: LayerPlan) -> np.ndarray:
    """[height, width, scale] of an image as large as the map is strides."""
    sizes = [size * layer.param.proposal_param.feat_stride for size in layer.bottom_shapes[0][2:]]
    return np.resize([*sizes, 1], shape)


_DRAWN = {
    ("ROIPooling", 1): _regions,
    ("PSROIPooling", 1): _regions,
    ("ROIWarping", 1): _regions,
    ("MultiBoxLoss", 3): _truth,
    ("DetectionEvaluate", 1): _truth,
    ("Proposal", 2): _image_info,
}
"""(layer type, bottom) that takes special values → what draws them."""
