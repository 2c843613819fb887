"""NVCaffe's DetectNetTransformation, which augments a batch and turns its boxes into a grid."""

from prototxt.caffe_pb2 import DetectNetGroundTruthParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared, Shapes, layer_type, legacy_shape, text


@layer_type("DetectNetTransformation", bottoms=(2, 2), tops=(2, 2), needs_values=True)
def detectnet_transformation(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """Pictures of 3 channels and their boxes become pictures of one size and (8 + classes, rows, columns) grids."""
    grid, (images, labels) = layer.detectnet_groundtruth_param, map(legacy_shape, shapes)
    if images[1] != 3 or images[0] != labels[0]:
        raise InputError(
            f"DetectNetTransformation needs pictures (num, 3, height, width) and labels of as many, not "
            f"{text(shapes[0])} and {text(shapes[1])}"
        )
    if not (grid.stride and grid.image_size_x and grid.image_size_y):
        raise InputError(
            "detectnet_groundtruth_param: stride, image_size_x and image_size_y must be at least 1"
        )
    transform = layer.transform_param
    if len(transform.mean_value) not in (0, 1, 3):
        raise InputError(f"transform_param: {len(transform.mean_value)} mean_value: give 1 or 3")
    classes = max(grid_classes(grid).values()) + 1
    sizes = (int(grid.image_size_y / grid.stride), int(grid.image_size_x / grid.stride))
    return Declared([(images[0], 3, grid.image_size_y, grid.image_size_x), (labels[0], 8 + classes, *sizes)])


def grid_classes(grid: DetectNetGroundTruthParameter) -> dict[int, int]:
    """A label's class → its map in the grid; Kitti's car, 1, alone if none is given."""
    return {mapping.src: mapping.dst for mapping in grid.object_class} or {1: 0}
